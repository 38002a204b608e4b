"""A timer that can be set again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backendpool_async.schedule import Window, moment


class Alarm:
    """Calls `ring` once, at a moment in the window it was last set to."""

    __slots__ = ("_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, window: Window) -> None:
        """Ring in this window, and no more at the moment it was set to before."""
        self.stop()
        self._timer = self._loop.call_at(moment(self._loop.time(), window), self._ring)

    def stop(self) -> None:
        """Forget what it was set to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
