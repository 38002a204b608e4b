"""A count that a test can wait for."""

from __future__ import annotations

import asyncio


class Tally:
    """Counts events on one event loop at a time, and wakes who waits for a number of them."""

    def __init__(self) -> None:
        self.count = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def add(self) -> None:
        """Count one more."""
        self.count += 1
        for times, reached in self._waiters:
            if times <= self.count and not reached.done():
                reached.set_result(None)

    async def reached(self, times: int) -> None:
        """Return when `times` were counted in all; at once when they were."""
        if self.count < times:
            reached = asyncio.get_running_loop().create_future()
            self._waiters.append((times, reached))
            await reached
