"""The live list: one snapshot, swapped by one reference store, read and pushed from any thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import TypeVar

from backendpool_async.backend import Backend, same
from backendpool_async.bulk import parse_backends
from backendpool_async.copies import CopiesShare
from backendpool_async.errors import PoolClosed, SourceError
from backendpool_async.snapshot import Snapshot

Follower = TypeVar("Follower")

# Writers only; no reader takes it. One for all pools: it is held for a few instructions, and a
# fork can then wait until no thread holds it. Reentrant: a signal handler that
# pushes while it is held may lose to the push it interrupts, but never waits for it.
_writing = threading.RLock()
if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(
        before=_writing.acquire,
        after_in_parent=_writing.release,
        after_in_child=_writing.release,
    )


class LiveList(CopiesShare):
    """What readers and pushers of a pool see; the rest of the pool keeps it fresh."""

    __slots__ = (
        "__weakref__",
        "_closed",
        "_closings",
        "_max_backends",
        "_name",
        "_negatives",
        "_pushes",
        "_shrinks",
        "_snapshot",
        "_wakers",
    )

    def __init__(self, name: str, initial: tuple[Backend, ...], max_backends: int) -> None:
        self._name = name
        self._snapshot = Snapshot(initial)
        self._max_backends = max_backends
        self._pushes = 0
        self._negatives = 0
        self._shrinks = 0
        self._closings = 0
        self._closed = False
        self._wakers: dict[Callable[[], None], int] = {}

    def backends(self) -> tuple[Backend, ...]:
        """Return the list as it is now; lock-free, from any task or thread, at any time.

        Empty when nothing was learned yet or when the source said "none" often enough. A
        failing source leaves it as it was. Take it once per unit of work: two calls may see two
        lists.

        >>> from backendpool_async import BackendPool
        >>> BackendPool.static(["10.0.0.1:8080"]).backends()
        (Backend('10.0.0.1:8080'),)
        """
        return self._snapshot.backends

    @property
    def snapshot(self) -> Snapshot:
        """The list together with its generation, its age and the latest error, as one object."""
        return self._snapshot

    def update(self, entries: Iterable[str]) -> None:
        """Replace the list by a pushed one; atomic, from any thread, also without `start()`.

        A refresh that began earlier no longer counts; the next one replaces what was pushed. An
        empty list applies at once. Raises `InvalidBackend` and changes nothing when one entry is
        bad or there are more than `max_backends`.

        >>> from backendpool_async import BackendPool
        >>> pool = BackendPool.static(["10.0.0.1:8080"])
        >>> pool.update(["10.0.0.2:8080"])
        >>> pool.backends()
        (Backend('10.0.0.2:8080'),)
        """
        backends = parse_backends(entries, self._max_backends)
        with _writing:
            self._pushes += 1
            self._negatives = self._shrinks = 0
            held = self._snapshot
            self._swap(backends, held.refreshed_at, held.error)

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the current snapshot, then the newest each time `generation` moves.

        A slow reader skips what it missed; nothing queues up. Works on any event loop, whoever
        changes the list. Ends when the pool is closed.

        >>> async def follow(pool):
        ...     async for snapshot in pool.watch():
        ...         print(snapshot.generation, *snapshot.backends)
        """
        return _Watch(self)

    async def wait_ready(self, timeout: float | None = None, min_backends: int = 1) -> Snapshot:
        """Return the snapshot as soon as it has `min_backends`.

        Raises TimeoutError after `timeout` seconds (None: never), naming what the source said
        last, and `PoolClosed` when the pool is closed before.

        >>> import asyncio
        >>> from backendpool_async import BackendPool
        >>> pool = BackendPool.static(["10.0.0.1:8080"])
        >>> asyncio.run(pool.wait_ready()).backends
        (Backend('10.0.0.1:8080'),)
        """
        closings = self._closings
        try:
            async with asyncio.timeout(timeout):
                while len((snapshot := self._snapshot).backends) < min_backends:
                    if self._closed or self._closings != closings:
                        raise self._closed_error()
                    await self._moved_from(snapshot.generation, closings)
        except TimeoutError:
            raise self._not_ready_error(timeout, min_backends) from None
        return snapshot

    async def _moved_from(self, generation: int, closings: int) -> None:
        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake() -> None:
            # A waiter whose loop was closed under it waits no more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, woken)

        self._add_waker(wake)
        try:
            # Unless another thread was faster than the registration.
            if (  # pragma: no branch - see above
                self._snapshot.generation == generation and self._closings == closings
            ):
                await woken
        finally:
            self._remove_waker(wake)

    def _add_waker(self, waker: Callable[[], None]) -> None:
        with _writing:
            self._wakers[waker] = os.getpid()

    def _remove_waker(self, waker: Callable[[], None]) -> None:
        with _writing:
            self._wakers.pop(waker, None)

    def _tell(self, follower: Follower, changed: Callable[[Follower], None]) -> Callable[[], None]:
        """Call `changed` with the follower at every change, in whatever thread makes it.

        As long as somebody else keeps the follower, or until what is returned is called.
        """

        def wake() -> None:
            if (alive := reference()) is not None:  # pragma: no branch - a moment before it is gone
                changed(alive)

        # No lock is taken in here: the collector calls it at any time, in any thread.
        reference = weakref.ref(follower, lambda _: self._wakers.pop(wake, None))
        self._add_waker(wake)
        return partial(self._remove_waker, wake)

    def _wake(self) -> None:
        with _writing:
            # A forked child shares the pipes that wake its parent's loops: a call of its parent's
            # wakers would be felt over there.
            process = os.getpid()
            # A copy in one step: the garbage collector may remove one at any time.
            wakers = list(self._wakers.items())
        for waker, of in wakers:
            if of == process:
                waker()
            else:  # pragma: no cover - in a forked child, which is not traced
                self._wakers.pop(waker, None)

    def _take(self, backends: tuple[Backend, ...], pushes: int) -> bool:
        """Publish a good answer, unless a list was pushed since it was asked for."""
        with _writing:
            if self._pushes != pushes:
                return False
            if backends:
                self._negatives = self._shrinks = 0
            self._swap(backends, time.monotonic(), None)
            return True

    def _fail(self, error: SourceError) -> None:
        with _writing:
            held = self._snapshot
            self._snapshot = Snapshot(held.backends, held.generation, held.refreshed_at, error)

    def _close(self) -> None:
        with _writing:
            self._closed = True
            self._closings += 1
        self._wake()

    def _swap(
        self, backends: tuple[Backend, ...], refreshed_at: float | None, error: SourceError | None
    ) -> None:
        held = self._snapshot
        if same(held.backends, backends):
            self._snapshot = Snapshot(held.backends, held.generation, refreshed_at, error)
            return
        self._snapshot = Snapshot(backends, held.generation + 1, refreshed_at, error)
        self._wake()

    def _closed_error(self) -> PoolClosed:
        return PoolClosed(f"{self._name}: the pool was closed")

    def _not_ready_error(self, timeout: float | None, min_backends: int) -> TimeoutError:
        snapshot = self._snapshot
        why = f"; the latest error: {snapshot.error}" if snapshot.error else ""
        return TimeoutError(
            f"{self._name}: {len(snapshot.backends)} of {min_backends} backends"
            f" after {timeout} s{why}"
        )


class _Watch(AsyncIterator[Snapshot]):
    # Not an async generator: one that is left by `break` keeps its waker until it is collected.

    __slots__ = ("_closings", "_live", "_seen")

    def __init__(self, live: LiveList) -> None:
        self._live = live
        self._closings = live._closings
        self._seen = -1

    async def __anext__(self) -> Snapshot:
        live = self._live
        while (snapshot := live._snapshot).generation == self._seen:
            if live._closed or live._closings != self._closings:
                raise StopAsyncIteration
            await live._moved_from(snapshot.generation, self._closings)
        self._seen = snapshot.generation
        return snapshot


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
