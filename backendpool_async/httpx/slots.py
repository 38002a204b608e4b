"""How many connections may be in use at once, and who waits for that."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar("T")


class Slots:
    """A limited number of slots, handed on in the order of waiting; None: unlimited.

    Whoever waits is told as well when it might do without one. Those of one `kind` could do with
    the same: what one of them finds nothing in, the others need not look at. While anybody waits no
    slot is free.
    """

    __slots__ = ("_by_kind", "_free", "_waiting")

    def __init__(self, limit: int | None) -> None:
        self._free = limit
        # Whoever waits longest comes first.
        self._waiting: OrderedDict[_Waiter, None] = OrderedDict()
        self._by_kind: dict[Hashable, OrderedDict[_Waiter, None]] = {}

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
        if kind not in self._by_kind:
            found = without()
            if found is not None:
                return found
        waiter = self._join(kind)
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
                        self._remove(waiter)
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
            waiter = self._remove(next(iter(self._waiting)))
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

    def wake(self, *kinds: Hashable) -> None:
        """Let whoever of each kind waits longest look whether it can do without a slot.

        They look in the order of the kinds. Who finds something wakes the next one of its kind.
        """
        if not self._waiting:
            return
        for kind in kinds:
            for waiter in self._by_kind.get(kind, ()):
                if not waiter.woken.cancelled():
                    if not waiter.woken.done():
                        waiter.woken.set_result(None)
                    break

    def refuse(self, message: str) -> None:
        """Let everybody who waits get a RuntimeError."""
        while self._waiting:
            waiter = self._remove(next(iter(self._waiting)))
            waiter.refusal = message
            if not waiter.woken.done():
                waiter.woken.set_result(None)

    def _join(self, kind: Hashable) -> _Waiter:
        waiter = _Waiter(kind)
        self._waiting[waiter] = None
        self._by_kind.setdefault(kind, OrderedDict())[waiter] = None
        return waiter

    def _remove(self, waiter: _Waiter) -> _Waiter:
        del self._waiting[waiter]
        alike = self._by_kind[waiter.kind]
        del alike[waiter]
        if not alike:
            del self._by_kind[waiter.kind]
        return waiter

    def _leave(self, waiter: _Waiter) -> None:
        if waiter.has_slot:
            # It was handed over in the moment in which the waiting ended.
            self.give()
        elif waiter in self._waiting:
            self._remove(waiter)
            self.wake(waiter.kind)


class _Waiter:
    __slots__ = ("has_slot", "kind", "refusal", "woken")

    def __init__(self, kind: Hashable) -> None:
        self.kind = kind
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.has_slot = False
        self.refusal: str | None = None
