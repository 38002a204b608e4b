"""Following one pool as an application would, and counting what it sees."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from backendpool_async import BackendPool, Snapshot

_BETWEEN_READS: Final = 0.001


@dataclass(slots=True)
class Tally:
    """What happened to one pool."""

    changes_made: int = 0
    times_to_see: list[float] = field(default_factory=list)
    failures_made: int = 0
    failures_survived: int = 0
    longest_failure: float = 0.0
    served_meanwhile: int | None = None
    reasons: list[str] = field(default_factory=list)
    reads: int = 0
    reads_while_broken: int = 0
    empty_reads: int = 0


class Follower:
    """Watches a pool and reads it every millisecond, from `follow` on until that is cancelled."""

    def __init__(self, name: str, pool: BackendPool) -> None:
        self.name = name
        self.pool = pool
        self.tally: Tally = Tally()
        self._stirred = asyncio.Event()
        self.is_broken: bool = False
        self._broke_at = 0.0

    async def follow(self) -> None:
        """Do both, and let whoever waits in `until` look again after each."""
        await asyncio.gather(self._watch(), self._read())

    async def until(self, condition: Callable[[Snapshot], bool], patience: float) -> bool:
        """Return True as soon as the snapshot fits, False when it has not after `patience`."""
        deadline = time.perf_counter() + patience
        while not condition(self.pool.snapshot):
            if time.perf_counter() > deadline:
                return False
            self._stirred.clear()
            await self._stirred.wait()
        return True

    def breaks(self) -> None:
        """From now on its source is broken."""
        self.is_broken = True
        self._broke_at = time.perf_counter()
        self.tally.failures_made += 1

    def recovers(self) -> None:
        """It has overcome what was broken."""
        self.is_broken = False
        lasted = time.perf_counter() - self._broke_at
        self.tally.failures_survived += 1
        self.tally.longest_failure = max(self.tally.longest_failure, lasted)

    async def _watch(self) -> None:
        async for _ in self.pool.watch():
            self._stirred.set()

    async def _read(self) -> None:
        while True:
            self._count(len(self.pool.backends()))
            self._stirred.set()
            await asyncio.sleep(_BETWEEN_READS)

    def _count(self, served: int) -> None:
        tally = self.tally
        tally.reads += 1
        tally.empty_reads += not served
        if self.is_broken:
            tally.reads_while_broken += 1
            fewest = tally.served_meanwhile
            tally.served_meanwhile = served if fewest is None else min(fewest, served)
