"""How many connections may be in use at once, and who waits for that."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar("T")


class Slots:
    """A limited number of slots, handed on in the order of waiting; None: unlimited.

    Whoever waits is told as well when it might do without one. While anybody waits no slot is free.
    """

    __slots__ = ("_free", "_waiting")

    def __init__(self, limit: int | None) -> None:
        self._free = limit
        self._waiting: deque[_Waiter] = deque()

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

    async def take(
        self, timeout: float | None, kind: Hashable, without: Callable[[], T | None]
    ) -> T | None:
        """Wait for a slot, and return None with one, or what `without` returned instead of one.

        `without` is asked at once, unless somebody of the same `kind` waits already, and whenever
        `wake` says so; None: it takes a slot. Raises TimeoutError after `timeout` seconds, what
        `refuse` says, and what `without` raises.
        """
        if all(each.kind != kind for each in self._waiting):
            found = without()
            if found is not None:
                return found
        waiter = _Waiter(kind)
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    await waiter.woken
                    if waiter.has_slot:
                        return None
                    if waiter.refusal is not None:
                        raise RuntimeError(waiter.refusal)
                    found = without()
                    if found is not None:
                        self._waiting.remove(waiter)
                        # There may be more of what it found.
                        self.wake(kind)
                        return found
                    waiter.woken = asyncio.get_running_loop().create_future()
        except BaseException:
            self._leave(waiter)
            raise

    def give(self) -> None:
        """Give a slot back, to whoever waits longest."""
        if self._free is None:
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if waiter.woken.cancelled():
                continue
            waiter.has_slot = True
            if waiter.woken.done():
                # What it was woken for is for the next one.
                self.wake(waiter.kind)
            else:
                waiter.woken.set_result(None)
            return
        self._free += 1

    def wake(self, kind: Hashable) -> None:
        """Let whoever of the kind waits longest look whether it can do without a slot.

        Who finds something wakes the next one.
        """
        for waiter in self._waiting:
            if waiter.kind == kind and not waiter.woken.cancelled():
                if not waiter.woken.done():
                    waiter.woken.set_result(None)
                return

    def refuse(self, message: str) -> None:
        """Let everybody who waits get a RuntimeError."""
        while self._waiting:
            waiter = self._waiting.popleft()
            waiter.refusal = message
            if not waiter.woken.done():
                waiter.woken.set_result(None)

    def _leave(self, waiter: _Waiter) -> None:
        if waiter.has_slot:
            # It was handed over in the moment in which the waiting ended.
            self.give()
        elif waiter in self._waiting:
            self._waiting.remove(waiter)
            self.wake(waiter.kind)


class _Waiter:
    __slots__ = ("has_slot", "kind", "refusal", "woken")

    def __init__(self, kind: Hashable) -> None:
        self.kind = kind
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.has_slot = False
        self.refusal: str | None = None
