"""What begins and ends with a balancer: its pool, its health checks, and a timer."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable

from backendpool_async.balance.health import HealthMonitor
from backendpool_async.balance.view_builder import ViewBuilder
from backendpool_async.errors import PoolClosed
from backendpool_async.pool import BackendPool
from backendpool_async.threads import in_thread


class Lifetime:
    """Starts the parts of a balancer and closes them; the pool only if nobody had started it.

    While it runs, a view that is out of date by the clock alone is built anew then.
    """

    __slots__ = (
        "_builder",
        "_changes_at",
        "_clock",
        "_closings",
        "_loop",
        "_monitor",
        "_owns_pool",
        "_pool",
        "_starting",
        "_starts",
        "_timer",
    )

    def __init__(
        self,
        pool: BackendPool,
        builder: ViewBuilder,
        monitor: HealthMonitor | None,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._builder = builder
        self._monitor = monitor
        self._clock = clock
        self._owns_pool = False
        self._closings = 0
        self._starts = 0
        self._changes_at = math.inf
        self.reset()

    def reset(self) -> None:
        """Begin anew in a forked child, where nothing runs."""
        self._starting = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started, on a loop that is still there, and not closed."""
        return self._loop is not None and not self._loop.is_closed()

    async def start(self, *, required: bool) -> None:
        """Start the pool, then the checks, and build the first view; see `Balancer.start`."""
        closings = self._closings
        await self._start_pool(required=required)
        self._starting += 1
        try:
            if self._builder.takes_long:
                await in_thread(self._builder.rebuild_if_stale)
            if self._closings != closings:
                raise PoolClosed(f"{self._pool._name}: the balancer was closed")
            if self._monitor is not None:
                self._monitor.start()
        except BaseException:
            await self._close_unless_another_starts()
            raise
        finally:
            self._starting -= 1
        self._loop = asyncio.get_running_loop()
        self._set_timer()

    async def aclose(self) -> None:
        """Close what was started; see `Balancer.aclose`."""
        self._closings += 1
        self._loop = None
        self._set_timer()
        async with contextlib.AsyncExitStack() as parts:
            # From the last to the first; one that fails or is cancelled does not keep the others.
            parts.push_async_callback(self._builder_gone)
            parts.push_async_callback(self._close_pool)
            if self._monitor is not None:
                parts.push_async_callback(self._monitor.aclose)

    def view_changes(self, at: float) -> None:
        """Take note, from any thread, of when the view is out of date; infinite when never."""
        self._changes_at = at
        loop = self._loop
        if loop is not None and at < math.inf:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._set_timer)

    @property
    def _is_the_last_to_start(self) -> bool:
        return self._starting == 1 and not self.is_running

    async def _start_pool(self, *, required: bool) -> None:
        # Before the wait, so that whoever closes meanwhile closes it, and whoever starts meanwhile
        # does not take it for somebody else's.
        self._owns_pool = self._owns_pool or not _is_started(self._pool)
        self._starts += 1
        self._starting += 1
        try:
            await self._pool.start(required=required)
        except BaseException:
            if self._is_the_last_to_start:
                self._owns_pool = False
            raise
        finally:
            self._starting -= 1

    async def _close_unless_another_starts(self) -> None:
        if self._is_the_last_to_start:
            await self.aclose()

    async def _close_pool(self) -> None:
        if not self._owns_pool:
            return
        starts = self._starts
        # Whoever closes meanwhile waits for it, too.
        await self._pool.aclose()
        # Whoever started meanwhile owns it.
        if self._starts == starts:
            self._owns_pool = False

    async def _builder_gone(self) -> None:
        if self._builder.is_building:
            await in_thread(self._builder.join)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop, changes_at = self._loop, self._changes_at
        if loop is not None and changes_at < math.inf:
            delay = max(0.0, changes_at - self._clock())
            self._timer = loop.call_later(delay, self._builder.invalidate)


def _is_started(pool: BackendPool) -> bool:
    # A fixed list is opened, and there is nothing to run.
    run = pool._run
    return pool._opened or (run is not None and not run.is_lost and not run.stopping)
