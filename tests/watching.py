"""A pool whose file is watched, and what a test does to it and awaits of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from servers import until

from backendpool_async import Answer, BackendPool
from backendpool_async.sources.watched_file import WatchedFileSource

# Far beyond the end of any test: what is seen, is seen by the watch.
NEVER = 3600.0


class Observed(WatchedFileSource):
    """Counts its fetches, and knows when it waits for a change."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, max_entries=10)
        self.fetches = 0

    async def fetch(self) -> Answer:
        self.fetches += 1
        return await super().fetch()


@asynccontextmanager
async def watched(path: Path) -> AsyncIterator[tuple[BackendPool, Observed]]:
    source = Observed(path)
    pool = BackendPool(source, poll_interval=NEVER)
    await pool.start(required=False)
    try:
        # The first `changed` returns at once; the fetch after it finds the watch in place.
        await until(lambda: source.fetches >= 2)
        yield pool, source
    finally:
        await pool.aclose()


async def served(pool: BackendPool, *backends: str) -> None:
    await until(lambda: pool.backends() == backends)


async def settled(source: Observed) -> None:
    """Return when all that happened until now has been looked at."""
    while True:
        fetches = source.fetches
        await asyncio.sleep(0.02)
        if source.fetches == fetches:
            return


def write(path: Path, content: str) -> None:
    path.write_text(content)


def replace(path: Path, content: str) -> None:
    new = path.with_name("new")
    new.write_text(content)
    new.rename(path)
