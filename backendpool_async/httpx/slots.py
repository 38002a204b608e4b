"""How many connections may be in use at once, and who waits for that."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """A limited number of slots, handed on in the order of waiting; None: unlimited."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, limit: int | None) -> None:
        self._free = limit
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def take_now(self) -> bool:
        """Take a slot if one is free."""
        if self._free is None:
            return True
        if self._free:
            self._free -= 1
            return True
        return False

    async def take(self, timeout: float | None) -> None:
        """Wait for a slot. Raises TimeoutError after `timeout` seconds, what `refuse` says."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.cancelled() and waiter.exception() is None:
                # It was handed over in the moment in which the waiting ended.
                self.give()
            raise

    def give(self) -> None:
        """Give a slot back, to whoever waits longest."""
        if self._free is None:
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1

    def refuse(self, message: str) -> None:
        """Let everybody who waits get a RuntimeError."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(RuntimeError(message))
