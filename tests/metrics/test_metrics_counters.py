"""What pools and balancers count: it only grows, whoever comes and goes."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest

from backendpool_async import (
    Backend,
    BackendPool,
    Balancer,
    EmptyAnswer,
    NoBackends,
    OutlierEjection,
    ShrunkAnswer,
    SourceError,
    SourceTimeout,
)
from backendpool_async.balance.candidate_registry import CandidateRegistry
from backendpool_async.balance.totals import Totals
from backendpool_async.sync import BackendPool as SyncBackendPool
from backendpool_async.testing import ScriptedSource, gated, hang

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def used(balancer: Balancer, backend: str, *errors: BaseException | None) -> None:
    others = {each for each in (A, B, C) if each != backend}
    for error in errors:
        lease = balancer.lease(exclude=others).acquire()
        lease.release(error)


async def test_refreshes_are_counted_by_what_came_of_them() -> None:
    source = ScriptedSource([A, B, C], OSError("down"), [], [A], ValueError("bad"), [A, B])
    pool = BackendPool(source, max_shrink=0.5)
    await pool.refresh()
    for kind in (SourceError, EmptyAnswer, ShrunkAnswer, SourceError):
        with pytest.raises(kind):
            await pool.refresh()
    await pool.refresh()
    assert pool.refreshes == {
        "good": 2,
        "SourceError": 2,
        "SourceTimeout": 0,
        "EmptyAnswer": 1,
        "ShrunkAnswer": 1,
    }


@pytest.mark.virtual_time
async def test_a_refresh_that_takes_too_long_is_counted_as_one() -> None:
    pool = BackendPool(ScriptedSource(hang()))
    with pytest.raises(SourceTimeout):
        await pool.refresh()
    assert pool.refreshes["SourceTimeout"] == 1
    assert sum(pool.refreshes.values()) == 1


async def test_none_that_is_believed_and_an_answer_that_was_overtaken_are_good() -> None:
    pool = BackendPool(ScriptedSource([]), empty_after=1)
    await pool.refresh()
    assert pool.refreshes["good"] == 1

    source = ScriptedSource(gated([A]))
    late = BackendPool(source)
    refreshing = asyncio.create_task(late.refresh())
    await source.called()
    late.update([B])
    source.release()
    await refreshing
    assert late.backends() == (B,)
    assert late.refreshes["good"] == 1


async def test_a_refresh_that_was_cancelled_is_not_counted() -> None:
    source = ScriptedSource(hang())
    pool = BackendPool(source)
    refreshing = asyncio.create_task(pool.refresh())
    await source.called()
    refreshing.cancel()
    await asyncio.wait({refreshing})
    assert not any(pool.refreshes.values())


def test_what_was_read_of_refreshes_stays_as_it_was() -> None:
    pool = SyncBackendPool(ScriptedSource([A]))
    before = pool.refreshes
    pool.refresh()
    assert before["good"] == 0
    assert pool.refreshes["good"] == 1


def test_a_lease_is_a_pick_whatever_becomes_of_it() -> None:
    balancer = Balancer(BackendPool.static([A]))
    used(balancer, A, None, ConnectionResetError(), asyncio.CancelledError())
    held = balancer.lease().acquire()
    (state,) = balancer.explain().backends
    assert (state.picks, state.requests, state.failures, state.in_flight) == (4, 2, 1, 1)
    held.release()
    balancer.pick()
    assert balancer.explain().backends[0].picks == 4


def test_a_lease_of_nothing_is_no_pick() -> None:
    balancer = Balancer(BackendPool.static([]))
    with pytest.raises(NoBackends):
        balancer.lease().acquire()
    assert balancer._registry.totals() == Totals()


def test_ejections_in_all_do_not_shrink_with_time() -> None:
    clock = Clock()
    rules = OutlierEjection(consecutive_failures=1, base_ejection_time=10)
    balancer = Balancer(BackendPool.static([A, B]), ejection=rules, clock=clock)
    for _ in range(3):
        used(balancer, A, ConnectionResetError())
        clock.now += 1000
    state = balancer.explain().backends[0]
    assert state.ejections == 1
    assert state.ejections_total == 3


def test_totals_keep_what_backends_counted_that_are_gone_and_forgotten() -> None:
    clock = Clock()
    pool = BackendPool.static([A, B])
    rules = OutlierEjection(consecutive_failures=1)
    balancer = Balancer(pool, ejection=rules, forget_after=60, clock=clock)
    used(balancer, B, None, asyncio.CancelledError(), ConnectionResetError())
    used(balancer, A, None)
    held = balancer.lease(exclude=[B]).acquire()
    expected = Totals(picks=5, requests=3, failures=1, ejections=1, in_flight=1)
    assert balancer._registry.totals() == expected
    pool.update([A])
    balancer.pick()
    assert balancer._registry.totals() == expected
    clock.now += 60
    pool.update([A, C])
    balancer.pick()
    assert B not in balancer._registry._all
    assert balancer._registry.totals() == expected
    held.release()
    assert balancer._registry.totals().in_flight == 0


def test_totals_wait_for_those_that_are_being_forgotten() -> None:
    registry = CandidateRegistry(forget_after=1)
    many = [Backend.parse(f"10.0.{number >> 8}.{number & 255}:80") for number in range(5_000)]
    for candidate in registry.update(many, 0):
        candidate.picks = 1
    registry.update([], 1)
    # In a thread: with so many it lets others run on the way.
    forgetting = threading.Thread(target=registry.update, args=([], 3))
    forgetting.start()
    seen = set()
    while forgetting.is_alive():
        seen.add(registry.totals().picks)
    forgetting.join()
    assert seen | {registry.totals().picks} == {5_000}
    assert not registry._all


def test_totals_never_go_back_while_backends_are_forgotten_in_another_thread() -> None:
    clock = Clock()
    pool = BackendPool.static([A])
    balancer = Balancer(pool, forget_after=1, clock=clock)
    ended = threading.Event()

    def churn() -> None:
        for turn in range(300):
            with balancer.lease():
                pass
            clock.now += 10
            pool.update([f"10.0.1.{turn % 200 + 1}:80"])
        ended.set()

    thread = threading.Thread(target=churn)
    thread.start()
    seen = []
    while not ended.is_set():
        seen.append(balancer._registry.totals().picks)
    thread.join()
    assert all(earlier <= later for earlier, later in itertools.pairwise(seen))
    assert balancer._registry.totals().picks == 300
