"""A timer that can be set again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backendpool_async.schedule import Window, moment


class Alarm:
    """Calls `ring` once, at a moment in the window it was last set to."""

    __slots__ = ("_due", "_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, window: Window) -> None:
        """Ring in this window, and no more at the moment it was set to before."""
        self._due = moment(self._loop.time(), window)
        if self._timer is not None:
            if self._timer.when() <= self._due:
                # Put off when it expires: a timer that is set and cancelled costs more than that.
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._due, self._expire)

    def stop(self) -> None:
        """Forget what it was set to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.when() < self._due:
            self._timer = self._loop.call_at(self._due, self._expire)
        else:
            self._ring()
