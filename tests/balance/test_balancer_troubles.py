from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from ticking import Ticking, chosen, fail, succeed

from backendpool_async import (
    Backend,
    BackendPool,
    BackendPoolError,
    Balancer,
    Candidate,
    Chooser,
    FailurePercentage,
    HealthChecks,
    NoBackends,
    OutlierEjection,
    TcpCheck,
    sync,
)
from backendpool_async.balance.explanation import BackendState
from backendpool_async.testing import ScriptedSource

A, B, C, D = (f"10.0.0.{n}:80" for n in range(1, 5))
virtual = pytest.mark.virtual_time


class Moody:
    """A policy that raises when the test says so."""

    def __init__(self) -> None:
        self.raises: Exception | None = None

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        if self.raises is not None:
            raise self.raises
        first = candidates[0]
        return lambda _: first


class SlowAndMoody(Moody):
    prepares_slowly = True


def state(balancer: Balancer, backend: str) -> BackendState:
    (found,) = [each for each in balancer.explain().backends if each.backend == backend]
    return found


def test_what_a_policy_raises_reaches_who_chooses_and_is_over_when_it_is() -> None:
    policy, pool = Moody(), BackendPool.static([A])
    balancer = Balancer(pool, policy)
    assert balancer.pick() == A
    policy.raises = ValueError("out of sorts")
    pool.update([B])
    for _ in range(3):
        with pytest.raises(ValueError, match="out of sorts"):
            balancer.pick()
    policy.raises = None
    assert balancer.pick() == B


async def test_what_a_slow_policy_raises_is_told_and_the_old_view_stays_in_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy, pool = SlowAndMoody(), BackendPool.static([A])
    async with Balancer(pool, policy) as balancer:
        policy.raises = ValueError("out of sorts")
        pool.update([B])
        while not caplog.records:  # noqa: ASYNC110 - a thread decides when
            await asyncio.sleep(0)
        assert "SlowAndMoody could not prepare: ValueError: 'out of sorts'" in caplog.text
        assert balancer.pick() == A
        policy.raises = None
        while balancer.pick() == A:
            pool.update([C])
            pool.update([B])
            await asyncio.sleep(0.001)
        assert balancer.pick() in {B, C}


async def test_without_another_thread_to_be_had_whoever_chooses_builds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = BackendPool.static([A])
    async with Balancer(pool, SlowAndMoody()) as balancer:

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            pool.update([B])
        assert balancer.pick() == B
        pool.update([C])
        while balancer.pick() != C:  # noqa: ASYNC110 - a thread decides when
            await asyncio.sleep(0)


async def test_a_start_that_fails_leaves_nothing_running() -> None:
    policy = SlowAndMoody()
    policy.raises = ValueError("out of sorts")
    pool = BackendPool(ScriptedSource([A]))
    with pytest.raises(ValueError, match="out of sorts"):
        await Balancer(pool, policy).start()
    assert not pool.is_running


async def test_a_pool_that_ran_before_goes_on_running() -> None:
    async with BackendPool(ScriptedSource([A])) as pool:
        async with Balancer(pool), Balancer(pool):
            pass
        assert pool.is_running
    assert not pool.is_running


@virtual
async def test_a_source_that_fails_is_not_asked_sooner_because_backends_fail_too() -> None:
    source = ScriptedSource([A, B], [])
    pool = BackendPool(source, poll_interval=30, empty_after=3)
    async with Balancer(pool) as balancer:
        asked = []
        for _ in range(28):
            with pytest.raises(ConnectionRefusedError):
                async with balancer.lease():
                    raise ConnectionRefusedError
            await asyncio.sleep(0.5)
            asked.append(source.calls)
        # The first failure asks at once; what that answer says is confirmed by polls alone.
        assert (asked[0], asked[-1]) == (2, 2)
        assert pool.backends() == (A, B)


@virtual
async def test_hints_are_followed_once_in_five_seconds() -> None:
    source = ScriptedSource([A])
    async with BackendPool(source, poll_interval=3600) as pool:
        for _ in range(100):
            pool.refresh_soon()
            await asyncio.sleep(0.1)
        assert source.calls == 3


def test_a_hint_to_a_pool_that_does_not_run_does_nothing() -> None:
    source = ScriptedSource([A])
    BackendPool(source).refresh_soon()
    assert source.calls == 0


def test_what_is_left_beside_what_is_excluded_is_chosen_by_weight() -> None:
    pool = BackendPool.static([Backend(A, weight=1_000), Backend(B, weight=9), C])
    balancer = Balancer(pool)
    counts = Counter(balancer.pick(exclude={A}) for _ in range(5_000))
    assert 8 < counts[Backend(B)] / counts[Backend(C)] < 10.2


@pytest.mark.parametrize("keyword", ["panic_threshold", "slow_start"])
def test_none_is_no_number(keyword: str) -> None:
    wrong: dict[str, Any] = {keyword: None}
    with pytest.raises(TypeError, match=keyword):
        Balancer(BackendPool.static([A]), **wrong)


def test_a_blocking_pool_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="a balancer is for a "):
        Balancer(sync.BackendPool.static([A]))  # type: ignore[arg-type]  # what it is for


def test_years_of_failures_are_forgiven_like_ten() -> None:
    clock = Ticking()
    balancer = Balancer(BackendPool.static([A, B]), clock=clock)
    for _ in range(100):
        fail(balancer, A, 5)
        # Just as long as it is ejected, so that none of it is forgiven.
        clock.advance(state(balancer, A).ejected_for or 0)
        succeed(balancer, B)
    assert state(balancer, A).ejections == 10
    clock.advance(10 * 30)
    fail(balancer, A, 5)
    assert (state(balancer, A).ejected_for or 0) <= 33


def test_a_backend_that_was_away_is_judged_by_what_came_since() -> None:
    clock = Ticking()
    entries = [f"10.0.0.{n}:80" for n in range(6)]
    rules = OutlierEjection(
        consecutive_failures=None, failure_percentage=FailurePercentage(threshold=0.5)
    )
    pool = BackendPool.static(entries)
    balancer = Balancer(pool, ejection=rules, clock=clock)
    fail(balancer, entries[0], 1_000)
    clock.advance(10)
    succeed(balancer, entries[1])
    pool.update(entries[1:])
    clock.advance(10)
    succeed(balancer, entries[1])
    pool.update(entries)
    for entry in entries:
        succeed(balancer, entry, 60)
    clock.advance(10)
    succeed(balancer, entries[1])
    assert chosen(balancer) == set(entries)


def test_a_backend_that_is_not_listed_is_not_ejected() -> None:
    pool = BackendPool.static([A, B, C])
    balancer = Balancer(pool)
    leases = [balancer.lease(exclude={B, C}).acquire() for _ in range(5)]
    pool.update([B, C])
    assert chosen(balancer) == {B, C}
    for lease in leases:
        lease.failed("503")
        lease.release()
    pool.update([A, B, C])
    assert chosen(balancer) == {A, B, C}
    assert state(balancer, A).ejections_total == 0


def test_who_is_unhealthy_counts_towards_the_limit_of_ejection() -> None:
    balancer = Balancer(BackendPool.static([A, B]), panic_threshold=0)
    balancer.pick()
    balancer._view.listed[0].is_healthy = False
    balancer._builder.invalidate()
    fail(balancer, B, 20)
    assert chosen(balancer) == {B}


def test_a_log_handler_may_ask_the_balancer() -> None:
    balancer = Balancer(BackendPool.static([A, B]), ejection=OutlierEjection(max_ejected=1.0))
    explained: list[str] = []

    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            explained.append(f"{record.getMessage()}: {balancer.explain()}")

    handler, logger = Asking(), logging.getLogger("backendpool_async")
    logger.addHandler(handler)
    try:
        balancer.pick()
        for candidate in balancer._view.listed:
            candidate.is_healthy = False
        balancer._builder.invalidate()
        assert chosen(balancer) == {A, B}
    finally:
        logger.removeHandler(handler)
    assert any("all are chosen among" in line for line in explained)


async def test_a_check_may_be_closed_with_a_pool_that_never_had_a_list() -> None:
    pool = BackendPool(ScriptedSource(OSError("down")), poll_interval=60)
    balancer = Balancer(pool, checks=HealthChecks(TcpCheck()))
    with pytest.raises(BackendPoolError):
        await balancer.start()
    await balancer.start(required=False)
    with pytest.raises(NoBackends, match="down"):
        balancer.pick()
    await balancer.aclose()
