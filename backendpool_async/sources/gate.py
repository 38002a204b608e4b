"""Letting many begin, but not all in the same moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque


class Gate:
    """Lets `width` in at once; the next ones when no more than half are inside, or time is up.

    Who is still inside after `interval` seconds counts no longer: what is slow holds up nobody.
    For one event loop.
    """

    def __init__(self, width: int, interval: float) -> None:
        self._width = width
        self._interval = interval
        self._inside = 0
        self._round = 0
        self._queue: deque[asyncio.Future[int]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def entered(self) -> int | None:
        """Return the ticket that `leave` wants back, None when there is no room at once."""
        if self._inside < self._width and not self._queue:
            self._inside += 1
            return self._round
        return None

    async def enter(self) -> int:
        """Wait for one's turn; return the ticket that `leave` wants back."""
        if (ticket := self.entered()) is not None:
            return ticket
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[int] = loop.create_future()
        self._queue.append(turn)
        if self._timer is None:
            self._timer = loop.call_later(self._interval, self._next_round)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                # Its turn may have come, and been passed over, since.
                with contextlib.suppress(ValueError):
                    self._queue.remove(turn)
            else:
                # Let in and cancelled in the same moment.
                self.leave(turn.result())
            raise

    def leave(self, ticket: int) -> None:
        """Make room for the next."""
        if ticket == self._round:
            self._inside -= 1
            # Several together: waking the loop for each of them costs as much as a lookup.
            if self._inside * 2 <= self._width:
                self._admit()

    def _next_round(self) -> None:
        self._round += 1
        self._inside = 0
        self._admit()
        self._timer = None
        if self._queue:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._interval, self._next_round)

    def _admit(self) -> None:
        while self._queue and self._inside < self._width:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(self._round)
                self._inside += 1
        if not self._queue and self._timer is not None:
            self._timer.cancel()
            self._timer = None
