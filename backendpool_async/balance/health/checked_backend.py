"""One backend as far as its checks go: what they said, and when the next one is due."""

from __future__ import annotations

import heapq
import math

from backendpool_async.backend import Backend


class CheckedBackend:
    """A backend of the list, the verdict on it, and the results in a row that speak against it."""

    __slots__ = ("_against", "backend", "due", "is_healthy", "is_listed", "reason")

    def __init__(self, backend: Backend, due: float) -> None:
        self.backend: Backend = backend
        self.due: float = due
        self.is_listed: bool = True
        self.is_healthy: bool | None = None
        """The verdict, None before the first result."""
        self.reason: str = ""
        """Why a check of it failed last."""
        self._against: int = 0

    def passed(self, rise: int) -> None:
        """Count a success; the first result, or `rise` in a row, make it healthy."""
        self._count(True, rise)

    def failed(self, reason: str, fall: int) -> None:
        """Count a failure; the first result, or `fall` in a row, make it unhealthy."""
        self.reason = reason
        self._count(False, fall)

    def _count(self, result: bool, needed: int) -> None:
        self._against = 0 if result is self.is_healthy else self._against + 1
        if self.is_healthy is None or self._against >= needed:
            self.is_healthy = result
            self._against = 0


class DueQueue:
    """When each checked is due; who is no longer listed, or due at another time, is passed over."""

    __slots__ = ("_heap", "_number")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, CheckedBackend]] = []
        self._number = 0

    def add(self, checked: CheckedBackend) -> None:
        """Note its `due`."""
        # Of those due at the same time, the first noted is the first.
        self._number += 1
        heapq.heappush(self._heap, (checked.due, self._number, checked))

    def pop(self, now: float) -> CheckedBackend | None:
        """Take out and return the one that is due first, None when that is later than `now`."""
        while self.next_due <= now:
            due, _, checked = heapq.heappop(self._heap)
            if checked.is_listed and checked.due == due:
                return checked
        return None

    @property
    def next_due(self) -> float:
        """When to ask next, infinite when nobody is left."""
        return self._heap[0][0] if self._heap else math.inf
