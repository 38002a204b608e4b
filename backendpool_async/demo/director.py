"""Doing things to the places, and noting whether the pools show what they should."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from backendpool_async import Snapshot
from backendpool_async.demo.follower import Follower
from backendpool_async.demo.load import Load
from backendpool_async.demo.screen import Screen, duration


class Deed(NamedTuple):
    """What is done to one place, and the list that its pool has to show then."""

    follower: Follower
    text: str
    do: Callable[[], Awaitable[None]]
    shows: Sequence[str]


class _Done(NamedTuple):
    deed: Deed
    before: Sequence[str]
    began: float


class Director:
    """Lets deeds happen, measures how long the pools take, and remembers what went wrong."""

    def __init__(self, screen: Screen, patience: float) -> None:
        self.unmet: list[str] = []
        self._screen = screen
        self._patience = patience

    async def change(self, *deeds: Deed) -> None:
        """Change lists; each pool has to show its new one. What was broken is mended by that."""
        done = [await self._do(deed) for deed in deeds]
        await asyncio.gather(*map(self._see_change, done))

    async def break_(self, *deeds: Deed) -> None:
        """Break places; each pool has to say so and keep its list."""
        for deed in deeds:
            deed.follower.breaks()
        done = [await self._do(deed) for deed in deeds]
        await asyncio.gather(*map(self._see_failure, done))

    async def expect(self, follower: Follower, what: str, holds: Callable[[], bool]) -> str:
        """Wait for it; return what a line may say about how long it took."""
        began = time.perf_counter()
        if await follower.until(lambda _: holds(), self._patience):
            return f"after {_since(began)}"
        self._miss(follower, what)
        return "NOT SEEN"

    def hold(self, followers: Iterable[Follower]) -> None:
        """Show what is served while all is broken."""
        for follower in followers:
            backends = follower.pool.backends()
            self._screen.shows(follower, backends, f"{follower.tally.reads_while_broken:,} reads")

    def judge(self, followers: Iterable[Follower], load: Load) -> None:
        """Note what only the tallies tell."""
        for what, times in load.failures.items():
            self.unmet.append(f"{times} requests failed: {what}")
        if not load.answers:
            self.unmet.append("no request was answered")
        for follower in followers:
            tally = follower.tally
            if tally.empty_reads:
                self.unmet.append(f"{follower.name}: {tally.empty_reads} reads were empty")
            if not tally.reads_while_broken:
                self.unmet.append(f"{follower.name}: nobody read it while it was broken")

    async def _do(self, deed: Deed) -> _Done:
        before = deed.follower.pool.backends()
        self._screen.deed(deed.text)
        began = time.perf_counter()
        await deed.do()
        return _Done(deed, before, began)

    async def _see_change(self, done: _Done) -> None:
        deed, before, began = done
        follower = deed.follower
        follower.tally.changes_made += 1
        if await self._met(
            deed,
            f"the list {' '.join(deed.shows)}",
            lambda snapshot: snapshot.error is None and _lists(snapshot, deed.shows),
        ):
            follower.tally.times_to_see.append(time.perf_counter() - began)
            if follower.is_broken:
                follower.recovers()
            self._screen.shows(follower, before, f"after {_since(began)}")

    async def _see_failure(self, done: _Done) -> None:
        deed, _, began = done
        pool = deed.follower.pool
        if await self._met(
            deed,
            "failing, with the list kept",
            lambda snapshot: snapshot.error is not None and _lists(snapshot, deed.shows),
        ) and (error := pool.snapshot.error):
            deed.follower.tally.reasons.append(error.reason)
            self._screen.fails(deed.follower, error, f"after {_since(began)}")

    async def _met(self, deed: Deed, what: str, condition: Callable[[Snapshot], bool]) -> bool:
        follower = deed.follower
        if await follower.until(condition, self._patience):
            return True
        self._miss(follower, what)
        return False

    def _miss(self, follower: Follower, what: str) -> None:
        self.unmet.append(f"{follower.name}: not seen in {duration(self._patience)}: {what}")
        self._screen.misses(follower, what)


def _lists(snapshot: Snapshot, backends: Sequence[str]) -> bool:
    return list(snapshot.backends) == list(backends)


def _since(began: float) -> str:
    return duration(time.perf_counter() - began)
