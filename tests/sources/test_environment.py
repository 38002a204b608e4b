from __future__ import annotations

import logging
import os

import pytest

from backendpool_async import BackendPool, EmptyAnswer, InvalidBackend, SourceError
from backendpool_async.sources.environment import EnvironmentSource


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


async def fetched(prefix: str = "API") -> tuple[str, ...]:
    return (await EnvironmentSource(prefix).fetch()).backends


async def test_variables_are_read_in_the_order_of_their_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_variables(monkeypatch, **{f"API_{n}": f"10.0.0.{n}:80" for n in reversed(range(12))})
    assert await fetched() == tuple(f"10.0.0.{n}:80" for n in range(12))


async def test_space_around_a_value_is_trimmed_and_duplicates_collapse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_variables(monkeypatch, API_0=" A:1\r\n", API_1="\tb:1 ", API_2="a:1")
    assert await fetched() == ("a:1", "b:1")


async def test_no_variable_is_a_negative_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, API="a:1", API_="a:1", OTHER_0="a:1", api_0="a:1")
    with pytest.raises(EmptyAnswer, match="env:API: no variable API_0"):
        await fetched()


@pytest.mark.parametrize(
    ("value", "reason"),
    [("", "empty"), ("  ", "empty"), ("a", "no port"), ("a:1,b:1", "comma"), ("é:1", "not ASCII"),
     ("\udcff:1", "not ASCII")],
)  # fmt: skip
async def test_a_bad_value_is_refused_naming_its_variable(
    monkeypatch: pytest.MonkeyPatch, value: str, reason: str
) -> None:
    set_variables(monkeypatch, API_0="a:1", API_1=value, API_2="b:1")
    with pytest.raises(InvalidBackend, match=r"\(variable API_1\)") as caught:
        await fetched()
    assert reason in caught.value.reason
    assert caught.value.entry == value


async def test_reading_stops_at_the_first_variable_that_is_not_set(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_variables(monkeypatch, API_0="a:1", API_2="no backend", API_10="c:1")
    assert await fetched() == ("a:1",)
    assert caplog.messages == ["env:API: API_2 is ignored, because API_1 is not set"]


async def test_a_gap_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_variables(monkeypatch, API_0="a:1")
    source = EnvironmentSource("API")
    await source.fetch()
    assert caplog.messages == []
    set_variables(monkeypatch, API_5="b:1")
    for _ in range(3):
        await source.fetch()
    assert len(caplog.messages) == 1


async def test_a_handler_that_raises_at_the_warning_does_not_keep_the_answer_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the disk is full")

    set_variables(monkeypatch, API_0="a:1", API_2="b:1")
    logger, handler = logging.getLogger("backendpool_async"), Broken()
    logger.addHandler(handler)
    try:
        assert await fetched() == ("a:1",)
    finally:
        logger.removeHandler(handler)


async def test_a_gap_at_the_very_beginning_is_warned_of_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_variables(monkeypatch, API_1="a:1")
    with pytest.raises(EmptyAnswer):
        await fetched()
    assert caplog.messages == ["env:API: API_1 is ignored, because API_0 is not set"]


async def test_what_only_looks_numbered_is_no_variable_beyond_a_gap(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["API_02", "API_-1", "API_2_HOST", "XAPI_2", "API_٢", "API_", f"API_{10**30}", "APIx_2"]
    set_variables(monkeypatch, API_0="a:1", **dict.fromkeys(names, "b:1"))
    await fetched()
    assert caplog.messages == []


async def test_a_prefix_is_no_pattern(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_variables(monkeypatch, **{"A.I_0": "a:1", "API_2": "b:1"})
    assert await fetched("A.I") == ("a:1",)
    assert caplog.messages == []


@pytest.mark.parametrize("prefix", ["", "A=B", "A\0B"])
def test_a_prefix_that_no_variable_can_have_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="no environment variable begins with"):
        BackendPool.env_prefix(prefix)


async def test_a_pool_sees_what_the_process_sets_later_and_keeps_its_list_when_it_breaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_variables(monkeypatch, API_0="a:1")
    async with BackendPool.env_prefix("API", poll_interval=3600) as pool:
        assert pool.backends() == ("a:1",)
        os.environ["API_0"] = "b:1"
        assert (await pool.refresh()).backends == ("b:1",)
        os.environ["API_0"] = "b"
        with pytest.raises(SourceError, match=r"variable API_0.*keeping the 1 backend") as caught:
            await pool.refresh()
        assert isinstance(caught.value.__cause__, InvalidBackend)
        assert pool.backends() == ("b:1",)
        del os.environ["API_0"]
        with pytest.raises(EmptyAnswer, match="1 of 3"):
            await pool.refresh()
        assert pool.backends() == ("b:1",)


async def test_more_variables_than_max_backends_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_variables(monkeypatch, API_0="a:1", API_1="b:1")
    with pytest.raises(SourceError, match="max_backends=1"):
        await BackendPool.env_prefix("API", max_backends=1).refresh()
