"""A timer that can be set again, rung early, and waited for by one task."""

from __future__ import annotations

import asyncio

from backendpool_async.schedule import Window, moment


class Alarm:
    """Rings once at a moment in the window it was last set to, or when it is told to."""

    __slots__ = ("_loop", "_rung", "_timer", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._rung = False

    async def wait(self) -> None:
        """Return when it has rung since the last wait; at once when it already has."""
        if not self._rung:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._rung = False

    def set(self, window: Window) -> None:
        """Ring in this window, and no more at the moment it was set to before."""
        self.stop()
        self._timer = self._loop.call_at(moment(self._loop.time(), window), self.ring)

    def ring(self) -> None:
        """Ring now; what it was set to stays."""
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def stop(self) -> None:
        """Forget what it was set to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
