"""The pool for code without an event loop: Flask, Celery, scripts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeVar, Unpack

from anyio.from_thread import BlockingPortal

from backendpool_async import pool as asynchronous
from backendpool_async.backend import Backend
from backendpool_async.constructors import Constructors, PoolOptions
from backendpool_async.copies import CopiesShare
from backendpool_async.portal import SHARED, run_bounded
from backendpool_async.snapshot import Snapshot
from backendpool_async.source import Source, SourceFunction
from backendpool_async.sources.static import StaticSource

T = TypeVar("T")


class BackendPool(CopiesShare, Constructors):
    """`backendpool_async.BackendPool` with blocking methods; the same constructors and reads.

    Reads, `update()` and a fixed list need no thread. `refresh()` is one blocking fetch on the
    calling thread. Between `start()` and `close()`, or inside ``with``, one background thread
    keeps the list fresh, the same for all pools of the process. Every method may be called from
    any thread. Called on the thread of a running event loop, a method that blocks raises
    RuntimeError: there, the asyncio pool is the right one.

    >>> pool = BackendPool.static(["10.0.0.1:8080"])
    >>> pool.backends()
    (Backend('10.0.0.1:8080'),)
    """

    __slots__ = ("__weakref__", "_callers", "_fetching", "_lock", "_pid", "_pool", "_portal")

    def __init__(self, source: Source | SourceFunction, **options: Unpack[PoolOptions]) -> None:
        self._pool = asynchronous.BackendPool(source, **options)
        self._own()

    def backends(self) -> tuple[Backend, ...]:
        """Return the list as it is now; lock-free, from any thread, at any time."""
        return self._pool._snapshot.backends

    @property
    def snapshot(self) -> Snapshot:
        """The list together with its generation, its age and the latest error, as one object."""
        return self._pool._snapshot

    @property
    def refreshes(self) -> Mapping[str, int]:
        """How many refreshes came to what, as `backendpool_async.BackendPool.refreshes` has it."""
        return self._pool.refreshes

    def update(self, entries: Iterable[str]) -> None:
        """Replace the list by a pushed one, as `backendpool_async.BackendPool.update` does."""
        self._pool.update(entries)

    def start(self, *, required: bool = True) -> None:
        """Refresh once, then keep the list fresh in the background until `close()`.

        Nothing happens when it runs already, or for a fixed list. Raises as the asyncio pool
        does when there is nothing to serve, unless ``required=False``. A child process after
        `fork()` starts its own.
        """
        self._may_block()
        if isinstance(self._pool._source, StaticSource):
            self._pool._closed = False
            return
        closings = self._pool._closings
        self._exclusively()
        # Not beside a `refresh()` of another thread, on an event loop of its own.
        with self._fetching, self._exclusively():
            portal = self._enter()
        try:
            portal.call(self._unless_closed, closings, lambda: self._pool.start(required=required))
        except Exception:
            raise
        except BaseException:
            # Ctrl-C interrupts the waiting, not what is waited for.
            portal.call(self._pool.aclose)
            raise
        finally:
            self._leave()

    def refresh(self) -> Snapshot:
        """Ask the source now and return the snapshot that came of it; works without `start()`.

        Raises a `SourceError` when the source failed, after which the list is what it was, and
        `PoolClosed` when the pool is closed meanwhile.
        """
        self._may_block()
        closings = self._pool._closings
        self._exclusively()
        with self._fetching:
            with self._exclusively():
                portal = self._portal and self._enter()
            if portal is None:
                refreshing = self._unless_closed(closings, self._pool.refresh)
                return run_bounded(refreshing, self._pool._timeout)
        try:
            return portal.call(self._unless_closed, closings, self._pool.refresh)
        finally:
            self._leave()

    def wait_ready(self, timeout: float | None = None, min_backends: int = 1) -> Snapshot:
        """Return the snapshot as soon as it has `min_backends`.

        Raises TimeoutError after `timeout` seconds (None: never), and `PoolClosed` when the pool
        is closed before.
        """
        self._may_block()
        pool = self._pool
        deadline = None if timeout is None else time.monotonic() + timeout
        closings = pool._closings
        with _Bell(pool) as bell:
            while len((snapshot := pool._snapshot).backends) < min_backends:
                if pool._closed or pool._closings != closings:
                    raise pool._closed_error()
                if not bell.wait(deadline):
                    raise pool._not_ready_error(timeout, min_backends)
        return snapshot

    def watch(self) -> Iterator[Snapshot]:
        """Yield the current snapshot, then, blocking, the newest each time `generation` moves.

        A slow reader skips what it missed. Ends when the pool is closed.
        """
        self._may_block()
        pool = self._pool
        closings = pool._closings
        seen = -1
        while True:
            with _Bell(pool) as bell:
                while (snapshot := pool._snapshot).generation == seen:
                    if pool._closed or pool._closings != closings:
                        return
                    self._may_block()
                    bell.wait(None)
            seen = snapshot.generation
            yield snapshot

    def close(self) -> None:
        """Stop refreshing; who waits gets `PoolClosed`, and `watch()` ends. The list stays."""
        self._may_block()
        with self._exclusively():
            portal = self._portal and self._enter()
            if portal is None:
                # Under the lock: a `start()` of another thread comes before it or after it.
                self._pool._close()
        if portal is not None:
            try:
                portal.call(self._pool.aclose)
            finally:
                self._leave()
            return
        flight = self._pool._flight
        if flight is not None:
            # Another thread is in `refresh()`, on an event loop of its own.
            with contextlib.suppress(RuntimeError):
                flight.loop.call_soon_threadsafe(flight.cancel, self._pool._closed_error())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"sync {self._pool!r}"

    def _own(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._fetching = threading.Lock()
        self._portal: BlockingPortal | None = None
        self._callers = 0

    async def _unless_closed(self, closings: int, call: Callable[[], Awaitable[T]]) -> T:
        # By another thread, since this call began.
        if self._pool._closings != closings:
            raise self._pool._closed_error()
        return await call()

    def _enter(self) -> BlockingPortal:
        # Under the lock. Every call and the run hold the portal: the last of them lets it go.
        if self._portal is None:
            self._portal = SHARED.acquire()
        self._callers += 1
        return self._portal

    def _leave(self) -> None:
        with self._exclusively():
            self._callers -= 1
            run = self._pool._run
            if self._callers or (run is not None and not run.is_lost):
                return
            self._portal = None
        SHARED.release()

    def _exclusively(self) -> threading.Lock:
        if self._pid != os.getpid():  # pragma: no cover - in a forked child, which is not traced
            # Forked: the thread that kept it fresh, or held the lock, is not in this process.
            self._own()
        return self._lock

    def _may_block(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise RuntimeError(
            f"{self!r} would block the running event loop; use backendpool_async.BackendPool"
        )


class _Bell:
    """Rings in a blocked thread when the list changes or the pool is closed."""

    def __init__(self, pool: asynchronous.BackendPool) -> None:
        self._pool = pool
        self._event = threading.Event()
        self._ring = self._event.set

    def __enter__(self) -> Self:
        self._pool._add_waker(self._ring)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool._remove_waker(self._ring)

    def wait(self, deadline: float | None) -> bool:
        """Wait for the next ring; False when there was none before the deadline."""
        rung = self._event.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        self._event.clear()
        return rung
