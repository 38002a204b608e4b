"""Building in a thread: what fails there, and what is chosen while there is no view yet."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from ticking import Ticking, fail

from backendpool_async import (
    Backend,
    BackendPool,
    BackendPoolError,
    Balancer,
    Candidate,
    Chooser,
    Maglev,
    NoBackends,
    Subset,
)
from backendpool_async.testing import ScriptedSource

A, B, C = (f"10.0.0.{n}:80" for n in range(1, 4))
MANY = [Backend(f"10.1.{n // 250}.{n % 250}:80", weight=1 + n % 2) for n in range(1_000)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a thread decides when
            await asyncio.sleep(0.001)


class Held:
    """A policy that prepares slowly, holds what it prepares until it may go on, and may refuse."""

    prepares_slowly = True

    def __init__(self, *refused: str, error: BaseException | None = None) -> None:
        self.refused = set(refused)
        self.error = error or ValueError("not to my taste")
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.prepared: list[Backend] = []
        self.thread: threading.Thread | None = None

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        first = candidates[0]
        self.thread = threading.current_thread()
        self.begun.set()
        if first.backend in self.refused:
            assert self.gate.wait(10)
            raise self.error
        assert self.gate.wait(10)
        self.prepared.append(first.backend)
        return lambda _: first


async def test_a_change_during_a_build_that_fails_is_not_lost() -> None:
    policy, pool = Held(B), BackendPool.static([A])
    policy.gate.set()
    async with Balancer(pool, policy) as balancer:
        policy.gate.clear()
        policy.begun.clear()
        pool.update([B])
        await until(policy.begun.is_set)
        pool.update([C])
        policy.gate.set()
        await until(lambda: balancer.pick() == C)


async def test_what_a_policy_raises_to_end_its_thread_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy, pool = Held(B, error=SystemExit()), BackendPool.static([A])
    policy.gate.set()
    async with Balancer(pool, policy) as balancer:
        pool.update([B])
        await until(lambda: "Held could not prepare: SystemExit" in caplog.text)
        pool.update([C])
        await until(lambda: balancer.pick() == C)


async def test_an_error_of_a_build_that_is_not_the_policys_is_not_put_down_to_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = threading.Event()

    def clock() -> float:
        if broken.is_set() and threading.current_thread() is not threading.main_thread():
            raise OSError("no clock")
        return time.monotonic()

    pool = BackendPool.static([A])
    async with Balancer(pool, Maglev(), clock=clock) as balancer:
        broken.set()
        pool.update([B])
        await until(lambda: "what is available could not be found out" in caplog.text)
        assert "Maglev could not" not in caplog.text
        broken.clear()
        pool.update([C])
        await until(lambda: balancer.pick() == C)


async def test_on_a_loop_nobody_waits_for_the_first_view_of_a_list_that_was_empty() -> None:
    policy, pool = Held(), BackendPool.static([])
    async with Balancer(pool, policy) as balancer:
        with pytest.raises(NoBackends):
            balancer.pick()
        pool.update(MANY)
        assert balancer.pick("key") in MANY
        await until(policy.begun.is_set)
        assert policy.thread is not threading.current_thread()
        assert not policy.prepared
        counts = Counter(balancer.pick().weight for _ in range(3_000))
        assert 1.6 < counts[2] / counts[1] < 2.4, "it chooses by weight"
        by_key = {f"user-{n}": balancer.pick(f"user-{n}") for n in range(100)}
        assert len(set(by_key.values())) > 80
        pool.update(MANY[::-1])
        again = {key: balancer.pick(key) for key in by_key}
        assert again == by_key, "whatever the order of the list"
        assert balancer.pick("user-1", exclude=by_key["user-1"]) != by_key["user-1"]
        with balancer.lease("user-2") as lease:
            assert lease.backend == by_key["user-2"]
        policy.gate.set()
        await until(lambda: balancer.pick() == MANY[-1])


async def test_without_a_start_the_first_view_is_built_aside_too() -> None:
    policy = Held()
    balancer = Balancer(BackendPool.static([A, B]), policy)
    assert balancer.pick() in {A, B}
    assert balancer.pick(exclude=[A]) == B
    with pytest.raises(asyncio.TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.sleep(1)
    policy.gate.set()
    await until(lambda: policy.prepared == [A])
    await until(lambda: {balancer.pick() for _ in range(20)} == {A})
    await balancer.aclose()


async def test_who_is_not_available_is_not_chosen_meanwhile() -> None:
    policy = Held()
    balancer = Balancer(BackendPool.static([A, B]), policy)
    balancer._builder._registry.get_or_create(Backend(A)).is_healthy = False
    assert {balancer.pick() for _ in range(50)} == {B}
    assert {balancer.pick(f"user-{n}") for n in range(50)} == {B}
    for key in (None, "user"):
        with pytest.raises(NoBackends, match="there is no backend to choose"):
            balancer.pick(key, exclude=[B])
    policy.gate.set()
    await balancer.aclose()


@pytest.mark.parametrize("key", [None, "user"])
async def test_in_a_panic_all_are_chosen_among_meanwhile(key: str | None) -> None:
    policy, panicking = Held(), Held()
    cautious = Balancer(BackendPool.static([A, B]), policy, panic_threshold=0)
    balancer = Balancer(BackendPool.static([A, B]), panicking)
    for each in (cautious, balancer):
        for entry in (A, B):
            each._builder._registry.get_or_create(Backend(entry)).is_healthy = False
    assert balancer.pick(key) in {A, B}
    assert balancer.pick(key, exclude=[A]) == B
    with pytest.raises(NoBackends):
        cautious.pick(key)
    policy.gate.set()
    panicking.gate.set()
    await cautious.aclose()
    await balancer.aclose()


async def test_who_fails_too_often_is_ejected_meanwhile() -> None:
    policy = Held()
    balancer = Balancer(BackendPool.static([A, B, C]), policy)
    for _ in range(5):
        with balancer.lease(exclude=[B, C]) as lease:
            lease.failed("503")
    assert {balancer.pick() for _ in range(50)} == {B, C}
    policy.gate.set()
    await until(lambda: balancer.pick() == B)
    assert balancer.explain().ejected == 1
    await balancer.aclose()


async def test_what_is_known_is_told_while_the_first_view_is_built() -> None:
    policy, pool = Held(), BackendPool.static([])
    async with Balancer(pool, policy) as balancer:
        assert balancer.explain().listed == 0
        pool.update([A, B, C])
        for _ in range(5):
            with balancer.lease(exclude=[B, C]) as lease:
                lease.failed("503")
        balancer._builder._registry.get_or_create(Backend(B)).is_healthy = False
        explanation = balancer.explain()
        states = [each.state for each in explanation.backends]
        assert states == ["ejected", "unhealthy", "available"]
        assert explanation.is_panic
        assert [each.chosen_among for each in explanation.backends] == [True] * 3
        assert not policy.prepared
        assert policy.thread is not threading.current_thread()
        policy.gate.set()


async def test_nobody_waits_for_a_long_list_after_a_short_one_that_nobody_chose_from() -> None:
    class LongOnes(Held):
        prepares_slowly = False

        def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
            return super().prepare(candidates) if len(candidates) > 128 else lambda _: candidates[0]

    policy, pool = LongOnes(), BackendPool.static([A])
    async with Balancer(pool, policy) as balancer:
        assert balancer.pick() == A
        pool.update([B])
        pool.update(MANY)
        await until(policy.begun.is_set)
        assert [balancer.pick(), balancer.pick("key")] == [A, A]
        assert balancer.pick(exclude=[B]) == A
        policy.gate.set()
        await until(lambda: balancer.pick() == MANY[0])


async def test_nobody_waits_for_the_table_when_the_first_of_none_returns() -> None:
    policy, clock = Held(), Ticking()
    policy.gate.set()
    pool = BackendPool.static([A, B])
    async with Balancer(pool, policy, panic_threshold=0, clock=clock) as balancer:
        fail(balancer, B, 5)
        balancer._view.listed[0].is_healthy = False
        balancer._builder.invalidate()
        await until(lambda: not balancer._view.chosen_among)
        with pytest.raises(NoBackends):
            balancer.pick()
        policy.gate.clear()
        clock.advance(34)
        assert [balancer.pick(), balancer.pick("key")] == [B, B]
        assert balancer.explain().available == 1
        policy.gate.set()
        await until(lambda: policy.prepared[-1] == B)


async def test_what_is_known_is_told_at_once_when_the_first_of_none_returns() -> None:
    policy, clock = Held(), Ticking()
    policy.gate.set()
    pool = BackendPool.static([A, B])
    async with Balancer(pool, policy, panic_threshold=0, clock=clock) as balancer:
        fail(balancer, B, 5)
        balancer._view.listed[0].is_healthy = False
        balancer._builder.invalidate()
        await until(lambda: not balancer._view.chosen_among)
        policy.gate.clear()
        clock.advance(34)
        assert balancer.explain().available == 1
        policy.gate.set()
        await until(lambda: policy.prepared[-1] == B)


async def test_an_empty_list_is_refused_with_the_error_of_its_source() -> None:
    pool = BackendPool(ScriptedSource(OSError("registry is down")))
    with pytest.raises(BackendPoolError, match="down"):
        await pool.refresh()
    balancer = Balancer(pool, Maglev())
    for key in (None, "user"):
        with pytest.raises(NoBackends, match="registry is down"):
            balancer.pick(key)
    await balancer.aclose()


async def test_a_subset_is_chosen_among_meanwhile() -> None:
    policy = Held()
    subset = Subset(client=3, size=2)
    balancer = Balancer(BackendPool.static(MANY), policy, subset=subset)
    assert {balancer.pick() for _ in range(50)} == set(subset.of(MANY))
    policy.gate.set()
    await balancer.aclose()


async def test_a_first_view_that_cannot_be_built_aside_says_so_to_who_chooses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy, pool = Held(A), BackendPool.static([A])
    policy.gate.set()
    balancer = Balancer(pool, policy)
    assert balancer.pick() == A
    await until(lambda: "could not prepare" in caplog.text)
    await balancer.aclose()
    for _ in range(3):
        with pytest.raises(ValueError, match="not to my taste"):
            balancer.pick()
    assert len(caplog.records) == 1
    pool.update([B])
    assert balancer.pick() == B
    await balancer.aclose()


async def test_without_a_thread_for_the_first_view_whoever_chooses_builds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = Held()
    policy.gate.set()
    balancer = Balancer(BackendPool.static([A]), policy)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert balancer.pick() == A
    assert policy.thread is threading.current_thread()


def test_without_a_loop_the_first_view_is_waited_for() -> None:
    policy = Held()
    policy.gate.set()
    assert Balancer(BackendPool.static([A, B]), policy).pick() == A
    assert policy.thread is threading.current_thread()


async def test_nobody_waits_for_a_thread_that_builds_because_it_chooses() -> None:
    policy = Held()
    balancer = Balancer(BackendPool.static([A, B]), policy)
    other = asyncio.create_task(asyncio.to_thread(balancer.pick))
    await until(policy.begun.is_set)
    assert {balancer.pick() for _ in range(50)} == {A, B}
    policy.gate.set()
    assert await other == A
    assert balancer.pick() == A


def test_a_policy_that_logs_where_it_prepares_is_no_trouble(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Logging:
        def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
            logging.getLogger("backendpool_async").warning("preparing")
            return lambda _: candidates[0]

    assert Balancer(BackendPool.static([A]), Logging()).pick() == A
    assert "preparing" in caplog.text


def test_what_changes_just_before_a_first_view_is_there_leaves_nobody_without_a_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = BackendPool.static([f"10.1.{n}.1:80" for n in range(200)])
    balancer = Balancer(pool)
    publish = balancer._builder._publish
    is_built, may_go_on = threading.Event(), threading.Event()

    def held(*built: Any) -> None:
        is_built.set()
        assert may_go_on.wait(10)
        publish(*built)

    monkeypatch.setattr(balancer._builder, "_publish", held)
    choosing = threading.Thread(target=balancer.pick)
    choosing.start()
    assert is_built.wait(10)
    pool.update([f"10.2.{n}.1:80" for n in range(201)])
    found: list[Backend] = []
    other = threading.Thread(target=lambda: found.append(balancer.pick()))
    other.start()
    may_go_on.set()
    choosing.join()
    other.join()
    assert found
