"""The text for Prometheus, read by its own parser."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from backendpool_async import BackendPool, Balancer, Candidate, Chooser, OutlierEjection
from backendpool_async.metrics import PROMETHEUS_CONTENT_TYPE, prometheus_text
from backendpool_async.retries import Attempts, Retries
from backendpool_async.sync import BackendPool as SyncBackendPool
from backendpool_async.testing import ScriptedSource

A, B = "10.0.0.1:80", "10.0.0.2:80"

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Values:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return parsed(text)[name, tuple(sorted(({"pool": "api"} | labels).items()))]


async def test_a_pool_tells_of_its_list_and_its_refreshes() -> None:
    pool = BackendPool(ScriptedSource([A], [A, B], OSError("down")))
    for _ in range(2):
        await pool.refresh()
    with pytest.raises(Exception, match="down"):
        await pool.refresh()
    text = prometheus_text(api=pool)
    assert value(text, "backendpool_backends") == 2
    assert value(text, "backendpool_list_changes_total") == 2
    assert value(text, "backendpool_list_stale") == 1
    assert 0 <= value(text, "backendpool_list_age_seconds") < 60
    assert value(text, "backendpool_refreshes_total", outcome="good") == 2
    assert value(text, "backendpool_refreshes_total", outcome="SourceError") == 1
    assert value(text, "backendpool_refreshes_total", outcome="EmptyAnswer") == 0
    assert "backendpool_balancer" not in text


def test_while_a_policy_raises_its_balancer_is_told_as_it_was_and_the_others_as_they_are() -> None:
    class Fragile:
        def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
            if len(candidates) > 1:
                raise ZeroDivisionError
            return lambda key: candidates[0]

    pool = BackendPool.static([A])
    fragile, whole = Balancer(pool, Fragile()), Balancer(BackendPool.static([B]))
    fragile.lease().acquire().release()
    pool.update([A, B])
    values = parsed(prometheus_text(api=fragile, whole=whole))
    api, a = ("pool", "api"), ("backend", A)
    assert values["backendpool_backends", (api,)] == 2
    assert values["backendpool_balancer_picks_total", (api,)] == 1
    assert values["backendpool_backend_picks_total", (a, api)] == 1
    assert values["backendpool_balancer_backends", (api, ("state", "available"))] == 1
    assert values["backendpool_balancer_picks_total", (("pool", "whole"),)] == 0


def test_a_balancer_tells_of_its_backends_together_and_each() -> None:
    rules = OutlierEjection(consecutive_failures=1)
    balancer = Balancer(BackendPool.static([A, B]), ejection=rules)
    balancer.lease(exclude=[B]).acquire().release()
    attempts = Attempts(balancer, Retries(), None, can_repeat=False)
    first = attempts.first()
    second = attempts.after_error(ConnectionRefusedError())
    assert second is not None
    failed, other = sorted((first, second), key=lambda lease: lease.backend, reverse=True)
    failed.release(ConnectionRefusedError())
    text = prometheus_text(api=balancer)
    assert value(text, "backendpool_backends") == 2
    for state, number in (("available", 1), ("ejected", 1), ("unhealthy", 0)):
        assert value(text, "backendpool_balancer_backends", state=state) == number
    for name, total, of_a, of_b in (
        ("picks_total", 3, 2, 1),
        ("requests_total", 2, 1, 1),
        ("failures_total", 1, 0, 1),
        ("ejections_total", 1, 0, 1),
        ("in_flight", 1, 1, 0),
    ):
        assert value(text, f"backendpool_balancer_{name}") == total
        assert value(text, f"backendpool_backend_{name}", backend=A) == of_a
        assert value(text, f"backendpool_backend_{name}", backend=B) == of_b
    assert value(text, "backendpool_backend_available", backend=A) == 1
    assert value(text, "backendpool_backend_available", backend=B) == 0
    assert value(text, "backendpool_backend_latency_seconds", backend=A) >= 0
    assert value(text, "backendpool_balancer_retries_total") == 1
    assert value(text, "backendpool_balancer_panic") == 0
    other.release()


def test_panic_is_told() -> None:
    rules = OutlierEjection(consecutive_failures=1, max_ejected=1)
    balancer = Balancer(BackendPool.static([A, B]), ejection=rules, panic_threshold=0.9)
    balancer.lease().acquire().release(ConnectionResetError())
    assert value(prometheus_text(api=balancer), "backendpool_balancer_panic") == 1


def test_a_list_that_was_pushed_is_told_of_before_anybody_chooses() -> None:
    pool = BackendPool.static([A])
    balancer = Balancer(pool)
    balancer.pick()
    pool.update([B])
    assert f'backend="{B}"' in prometheus_text(balancer)
    assert f'backend="{A}"' not in prometheus_text(balancer)


def test_what_has_no_value_has_no_line_and_no_heading() -> None:
    text = prometheus_text(BackendPool.static([A]), api=Balancer(BackendPool.static([B])))
    assert "age" not in text
    assert "latency" not in text
    assert prometheus_text() == ""


def test_each_metric_has_its_help_and_type_once_before_its_values() -> None:
    lines = prometheus_text(
        api=Balancer(BackendPool.static([A, B])), users=Balancer(BackendPool.static([A]))
    ).splitlines()
    helped = [line.split()[2] for line in lines if line.startswith("# HELP")]
    typed = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert helped == typed
    assert len(set(helped)) == len(helped)
    order = list(dict.fromkeys(line.partition("{")[0] for line in lines if line[0] != "#"))
    assert order == helped
    for line in lines:
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split()
            assert (kind == "counter") == name.endswith("_total")


def test_the_series_of_each_backend_can_be_left_out() -> None:
    balancer = Balancer(BackendPool.static([A, B]))
    text = prometheus_text(api=balancer, per_backend=False)
    assert "backend=" not in text
    assert value(text, "backendpool_balancer_picks_total") == 0


def test_a_pool_without_a_name_is_called_as_its_source() -> None:
    pool = BackendPool(ScriptedSource([A]))
    text = prometheus_text(BackendPool.static([A]), SyncBackendPool.env_prefix("API"), api=pool)
    pools = {dict(labels)["pool"] for _, labels in parsed(text)}
    assert pools == {"static", "env:API", "api"}


@given(st.text(), st.text(alphabet='\\"\n{}=, n'))
def test_a_name_with_any_characters_is_read_as_it_was(any_text: str, awkward: str) -> None:
    pool = BackendPool.static([A])
    for name in (any_text, awkward):
        by_name: dict[str, Any] = {name: pool}
        for _, labels in parsed(prometheus_text(**by_name)):
            assert dict(labels)["pool"] == name


def test_two_of_one_name_are_refused() -> None:
    one, other = BackendPool.static([A]), Balancer(BackendPool.static([B]))
    with pytest.raises(ValueError, match="two are called 'static': name them by keyword"):
        prometheus_text(one, other)
    with pytest.raises(ValueError, match="two are called 'static'"):
        prometheus_text(one, static=other)
    pools = {dict(labels)["pool"] for _, labels in parsed(prometheus_text(one, other=other))}
    assert pools == {"static", "other"}


@pytest.mark.parametrize("wrong", [None, "dns://api:80", [BackendPool.static([A])]])
def test_something_else_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="is neither a Balancer nor a BackendPool"):
        prometheus_text(wrong)
    with pytest.raises(TypeError, match="is neither a Balancer nor a BackendPool"):
        prometheus_text(api=wrong)


async def test_ten_thousand_backends_are_told_of_in_a_thread_while_the_loop_runs() -> None:
    entries = [f"10.0.{number >> 8}.{number & 255}:80" for number in range(10_000)]
    balancer = Balancer(BackendPool.static(entries))
    await asyncio.to_thread(balancer._builder.rebuild_if_stale)
    telling = asyncio.create_task(asyncio.to_thread(prometheus_text, balancer))
    turns = 0
    while not telling.done():
        await asyncio.sleep(0)
        turns += 1
    assert telling.result().count("\n") > 60_000
    assert turns > 20


def test_any_thread_may_read_while_others_lease_and_push() -> None:
    pool = BackendPool.static([A, B])
    balancer = Balancer(pool)
    ended = threading.Event()

    def work() -> None:
        for turn in range(500):
            with balancer.lease():
                pool.update([A, B][: turn % 2 + 1])
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    picks = []
    while not ended.is_set():
        picks.append(value(prometheus_text(api=balancer), "backendpool_balancer_picks_total"))
    thread.join()
    assert picks == sorted(picks)


def test_the_content_type_names_the_version_of_the_format() -> None:
    assert PROMETHEUS_CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


def test_the_text_needs_no_opentelemetry() -> None:
    program = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from backendpool_async.metrics import prometheus_text\n"
        "print(prometheus_text() == '')\n"
        "try:\n"
        "    from backendpool_async.metrics import instrument\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "True\ninstrument needs opentelemetry-api: pip install 'backendpool-async[opentelemetry]'\n"
    )


def test_a_pool_cannot_be_called_like_a_keyword() -> None:
    pool: Any = BackendPool.static([A])
    with pytest.raises(TypeError, match="per_backend is a bool, not <BackendPool static"):
        prometheus_text(per_backend=pool)
