from __future__ import annotations

import dataclasses

import pytest

from backendpool_async import Backend, BackendPoolError
from backendpool_async.balance.health import Check, CheckFailed, HealthChecks, TcpCheck
from backendpool_async.balance.health.check import reason_of


@pytest.mark.parametrize(
    ("keyword", "value", "error"),
    [
        ("interval", 0, ValueError),
        ("interval", "10", TypeError),
        ("timeout", -1.0, ValueError),
        ("timeout", float("inf"), ValueError),
        ("fall", 0, ValueError),
        ("fall", 1.5, TypeError),
        ("rise", 0, ValueError),
        ("concurrency", 0, ValueError),
        ("concurrency", True, TypeError),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(
    keyword: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"^{keyword}="):
        HealthChecks(TcpCheck(), **{keyword: value})  # type: ignore[arg-type]  # on purpose


def test_the_defaults_are_those_of_the_field() -> None:
    checks = HealthChecks(TcpCheck())
    assert (checks.interval, checks.timeout, checks.fall, checks.rise) == (10.0, 2.0, 3, 2)


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        HealthChecks(TcpCheck()).fall = 1  # type: ignore[misc]  # on purpose


def test_the_class_of_a_check_is_no_check() -> None:
    with pytest.raises(TypeError, match=r"pass TcpCheck\(\), not the class"):
        HealthChecks(TcpCheck)  # type: ignore[arg-type]  # on purpose


def test_what_cannot_check_is_refused() -> None:
    with pytest.raises(TypeError, match="async def check"):
        HealthChecks("tcp")  # type: ignore[arg-type]  # on purpose


def test_anything_with_a_check_is_a_check() -> None:
    class Mine:
        async def check(self, backend: Backend) -> None:
            """It is well."""

    assert isinstance(Mine(), Check)
    assert HealthChecks(Mine())


def test_what_a_check_says_by_itself_is_not_preceded_by_a_type() -> None:
    assert reason_of(CheckFailed("status\n503")) == "status\\n503"
    assert reason_of(OSError("no route")) == "OSError: 'no route'"
    assert issubclass(CheckFailed, BackendPoolError)
