"""What a balancer closes, and what it does not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from backendpool_async import (
    Backend,
    BackendPool,
    BackendPoolError,
    Balancer,
    Candidate,
    Chooser,
    HealthChecks,
    PoolClosed,
)
from backendpool_async.testing import ScriptedSource

A, B = "10.0.0.1:80", "10.0.0.2:80"


class Watching:
    """A task that follows a pool until its `watch()` ends."""

    def __init__(self, pool: BackendPool) -> None:
        self.generations: list[int] = []
        self.task = asyncio.create_task(self._watch(pool))

    async def _watch(self, pool: BackendPool) -> None:
        async for snapshot in pool.watch():
            self.generations.append(snapshot.generation)

    async def has_ended(self) -> bool:
        for _ in range(20):
            await asyncio.sleep(0)
        return self.task.done()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


class SlowToClose:
    def __init__(self, error: Exception | None = None) -> None:
        self.closing = asyncio.Event()
        self.closed = asyncio.Event()
        self.error = error

    async def check(self, backend: Backend) -> None:
        await asyncio.sleep(0)

    async def aclose(self) -> None:
        self.closing.set()
        await self.closed.wait()


async def test_closing_a_balancer_that_was_never_started_leaves_the_pool_alone() -> None:
    pool = BackendPool(ScriptedSource([A]), poll_interval=60)
    waiting = asyncio.create_task(pool.wait_ready(5))
    await asyncio.sleep(0)
    await Balancer(pool).aclose()
    pool.update([B])
    assert (await waiting).backends == (B,)


@pytest.mark.parametrize("static", [True, False])
async def test_the_first_of_two_balancers_owns_the_pool(static: bool) -> None:
    pool = BackendPool.static([A]) if static else BackendPool(ScriptedSource([A]))
    async with Balancer(pool):
        watching = Watching(pool)
        async with Balancer(pool):
            pass
        assert not await watching.has_ended()
        pool.update([B])
        assert not await watching.has_ended()
        assert len(watching.generations) == 2
    assert await watching.has_ended()


@pytest.mark.parametrize("static", [True, False])
async def test_a_pool_that_was_started_before_stays_so(static: bool) -> None:
    pool = BackendPool.static([A]) if static else BackendPool(ScriptedSource([A]))
    async with pool:
        watching = Watching(pool)
        async with Balancer(pool):
            pass
        assert not await watching.has_ended()
    assert await watching.has_ended()


@pytest.mark.parametrize("static", [True, False])
async def test_a_balancer_that_is_started_again_owns_the_pool_again(static: bool) -> None:
    pool = BackendPool.static([A]) if static else BackendPool(ScriptedSource([A]))
    balancer = Balancer(pool)
    for _ in range(2):
        async with balancer:
            watching = Watching(pool)
            assert not await watching.has_ended()
        assert await watching.has_ended()
    await pool.start()
    watching = Watching(pool)
    await balancer.aclose()
    assert not await watching.has_ended(), "it is somebody else's by now"
    await watching.stop()
    await pool.aclose()


async def test_the_pool_is_closed_also_when_closing_is_cancelled_while_the_checks_end() -> None:
    check = SlowToClose()
    pool = BackendPool(ScriptedSource([A]), poll_interval=60)
    balancer = Balancer(pool, checks=HealthChecks(check))
    await balancer.start()
    closing = asyncio.create_task(balancer.aclose())
    await check.closing.wait()
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    assert not pool.is_running
    check.closed.set()
    await balancer.aclose()


async def test_the_pool_is_closed_also_when_the_checks_end_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail() -> None:
        raise OSError("no more")

    pool = BackendPool(ScriptedSource([A]), poll_interval=60)
    check = SlowToClose()
    balancer = Balancer(pool, checks=HealthChecks(check))
    await pool.start()
    await pool.aclose()
    await balancer.start()
    monitor = balancer._monitor
    assert monitor is not None
    with monkeypatch.context() as patch:
        patch.setattr(type(monitor), "aclose", lambda _: fail())
        with pytest.raises(OSError, match="no more"):
            await balancer.aclose()
    assert not pool.is_running
    check.closed.set()
    await balancer.aclose()


class Asked:
    """A source that answers when the test lets it, with a list or an error."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def fetch(self) -> list[str]:
        self.asked.set()
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return [A]


class SlowSource(Asked):
    """A source that answers at once, and is closed when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer.set()
        self.is_closing = asyncio.Event()
        self.may_close = asyncio.Event()

    async def aclose(self) -> None:
        self.is_closing.set()
        await self.may_close.wait()


class Held:
    """A policy that prepares slowly, and not before it may."""

    prepares_slowly = True

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        self.begun.set()
        assert self.gate.wait(10)
        first = candidates[0]
        return lambda _: first


class Counting:
    checks = 0

    async def check(self, backend: Backend) -> None:
        self.checks += 1


async def test_who_closes_while_the_first_answer_is_awaited_leaves_nothing_running() -> None:
    source, check = Asked(), Counting()
    pool = BackendPool(source, poll_interval=60)
    balancer = Balancer(pool, checks=HealthChecks(check))
    starting = asyncio.create_task(balancer.start())
    await source.asked.wait()
    await balancer.aclose()
    with pytest.raises(PoolClosed):
        await starting
    assert not balancer.is_running
    assert not pool.is_running
    assert check.checks == 0
    source.may_answer.set()
    async with balancer:
        assert balancer.pick() == A
    assert not pool.is_running


@pytest.mark.parametrize("is_owned", [True, False])
async def test_who_closes_while_the_first_table_is_built_leaves_nothing_running(
    is_owned: bool,
) -> None:
    policy, check = Held(), Counting()
    pool = BackendPool(ScriptedSource([A]), poll_interval=60)
    if not is_owned:
        await pool.start()
    balancer = Balancer(pool, policy, checks=HealthChecks(check))
    starting = asyncio.create_task(balancer.start())
    await asyncio.to_thread(policy.begun.wait)
    closing = asyncio.create_task(balancer.aclose())
    await asyncio.sleep(0)
    policy.gate.set()
    await closing
    with pytest.raises(PoolClosed, match="the balancer was closed"):
        await starting
    assert not balancer.is_running
    assert pool.is_running is not is_owned
    assert check.checks == 0
    await pool.aclose()


async def test_of_two_starts_at_once_the_one_that_is_cancelled_takes_nothing_along() -> None:
    source = Asked()
    pool = BackendPool(source, poll_interval=60)
    balancer = Balancer(pool)
    first, second = (asyncio.create_task(balancer.start()) for _ in range(2))
    await source.asked.wait()
    first.cancel()
    await asyncio.wait({first})
    source.may_answer.set()
    await second
    assert first.cancelled()
    assert balancer.is_running
    assert pool.is_running
    await balancer.aclose()
    assert not pool.is_running, "whoever began it, the balancer did"


async def test_a_start_that_is_cancelled_while_another_builds_takes_nothing_along() -> None:
    policy = Held()
    pool = BackendPool(ScriptedSource([A]), poll_interval=60)
    balancer = Balancer(pool, policy)
    first, second = (asyncio.create_task(balancer.start()) for _ in range(2))
    await asyncio.to_thread(policy.begun.wait)
    first.cancel()
    await asyncio.wait({first})
    policy.gate.set()
    await second
    assert balancer.is_running
    await balancer.aclose()
    assert not pool.is_running


async def test_a_start_that_fails_leaves_the_pool_to_who_starts_it_then() -> None:
    source = Asked()
    source.error = OSError("down")
    source.may_answer.set()
    pool = BackendPool(source, poll_interval=60)
    balancer = Balancer(pool)
    with pytest.raises(BackendPoolError, match="down"):
        await balancer.start()
    source.error = None
    async with pool:
        await balancer.aclose()
        assert pool.is_running, "it is somebody else's"


async def test_who_starts_while_the_pool_is_being_closed_owns_it_again() -> None:
    source = SlowSource()
    pool = BackendPool(source, poll_interval=60)
    balancer = Balancer(pool)
    await balancer.start()
    closing = asyncio.create_task(balancer.aclose())
    await source.is_closing.wait()
    starting = asyncio.create_task(balancer.start())
    await asyncio.sleep(0)
    source.may_close.set()
    await closing
    await starting
    assert pool.is_running
    await balancer.aclose()
    assert not pool.is_running


async def test_who_closes_while_another_closes_waits_for_the_pool_as_well() -> None:
    source = SlowSource()
    pool = BackendPool(source, poll_interval=60)
    balancer = Balancer(pool)
    await balancer.start()
    first = asyncio.create_task(balancer.aclose())
    await source.is_closing.wait()
    second = asyncio.create_task(balancer.aclose())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not second.done()
    source.may_close.set()
    await asyncio.wait_for(second, 10)
    assert not pool.is_running
    await first


async def test_closing_that_is_cancelled_while_the_pool_ends_can_be_done_again() -> None:
    source = SlowSource()
    pool = BackendPool(source, poll_interval=60)
    balancer = Balancer(pool)
    await balancer.start()
    closing = asyncio.create_task(balancer.aclose())
    await source.is_closing.wait()
    closing.cancel()
    await asyncio.wait({closing})
    source.may_close.set()
    await balancer.aclose()
    assert not pool.is_running
