"""A pool fed by hand, one line at a time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from backendpool_async.bulk import DEFAULT_MAX_BACKENDS
from backendpool_async.errors import SourceError
from backendpool_async.pool import BackendPool
from backendpool_async.snapshot import Snapshot
from backendpool_async.testing.scripted import ScriptedSource


class FedSource(ScriptedSource):
    """The source of a pool that a test feeds by hand; `fed_pool` makes both.

    Each method returns once the pool has asked for what was fed and made up its mind: with the
    snapshot that came of it, whose `error` is a `SourceError` when the answer was not taken. What
    was fed last is also what every later poll finds. Raises `PoolClosed` when the pool is closed
    meanwhile. `calls` and `times` are those of a `ScriptedSource`.
    """

    pool: BackendPool

    async def answer(self, *entries: str) -> Snapshot:
        """Let the source list exactly these backends.

        >>> import asyncio
        >>> async def main():
        ...     async with fed_pool("10.0.0.1:8080") as (pool, feed):
        ...         await feed.answer("10.0.0.1:8080", "10.0.0.2:8080")
        ...         print(*pool.backends())
        >>> asyncio.run(main())
        10.0.0.1:8080 10.0.0.2:8080
        """
        return await self._feed(entries)

    async def fail(self, error: BaseException | type[BaseException]) -> Snapshot:
        """Let the source raise this, from now on.

        >>> import asyncio
        >>> async def main():
        ...     async with fed_pool("10.0.0.1:8080") as (pool, feed):
        ...         snapshot = await feed.fail(OSError("no route"))
        ...         print(*snapshot.backends, repr(snapshot.error.__cause__))
        >>> asyncio.run(main())
        10.0.0.1:8080 OSError('no route')
        """
        return await self._feed(error)

    async def empty(self) -> Snapshot:
        """Let the source say "none"; one negative answer of the `empty_after` it takes.

        >>> import asyncio
        >>> async def main():
        ...     async with fed_pool("10.0.0.1:8080", empty_after=2) as (pool, feed):
        ...         print(*(await feed.empty()).backends)
        ...         print(*(await feed.empty()).backends)
        >>> asyncio.run(main())
        10.0.0.1:8080
        <BLANKLINE>
        """
        return await self._feed(())

    async def _feed(self, step: object) -> Snapshot:
        self.then(step)
        # Once, unless a refresh was under way that had been answered before.
        while self._coming:
            with contextlib.suppress(SourceError):
                await self.pool.refresh()
        return self.pool.snapshot


@contextlib.asynccontextmanager
async def fed_pool(
    *initial: str,
    poll_interval: float = 30.0,
    timeout: float = 5.0,
    empty_after: int | None = 3,
    max_backends: int = DEFAULT_MAX_BACKENDS,
) -> AsyncIterator[tuple[BackendPool, FedSource]]:
    """Start a pool whose source is fed by hand, and close it at the end.

    The source lists `initial`; without any it begins with one negative answer. The keywords are
    those of `BackendPool`, which raises what they are refused with.

    >>> import asyncio
    >>> async def main():
    ...     async with fed_pool("10.0.0.1:8080", "10.0.0.2:8080") as (pool, feed):
    ...         await feed.answer("10.0.0.2:8080")
    ...         print(*pool.backends())
    >>> asyncio.run(main())
    10.0.0.2:8080
    """
    feed = FedSource(initial)
    pool = feed.pool = BackendPool(
        feed,
        poll_interval=poll_interval,
        timeout=timeout,
        empty_after=empty_after,
        max_backends=max_backends,
    )
    try:
        await pool.start(required=bool(initial))
        yield pool, feed
    finally:
        await pool.aclose()
