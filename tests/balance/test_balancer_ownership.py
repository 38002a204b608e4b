"""What a balancer closes, and what it does not."""

from __future__ import annotations

import asyncio

import pytest

from backendpool_async import Backend, BackendPool, Balancer, HealthChecks
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
    balancer = Balancer(pool, checks=HealthChecks(SlowToClose()))
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
    check = monitor._checks.check
    assert isinstance(check, SlowToClose)
    check.closed.set()
    await balancer.aclose()
