"""One thread with an event loop, shared by all blocking pools that are kept fresh."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from backendpool_async.flight import leave_quietly

T = TypeVar("T")


# How long the end of the thread is waited for: a source that swallows cancellation holds it up.
_PATIENCE: Final = 5.0


def run_bounded(main: Coroutine[Any, Any, T], patience: float) -> T:
    """Run a coroutine as `asyncio.run` does, but leave behind a task that does not end.

    `asyncio.run` waits for ever for one that swallows its cancellation.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
            leave_quietly(task)
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=patience))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class SharedPortal:
    """Starts the thread for the first user and ends it with the last.

    A daemon thread, ended at interpreter exit too: a pool that nobody closed holds nothing up.
    After a fork the child begins anew, as its parent's threads are not in it.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._users = 0
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None

    def acquire(self) -> BlockingPortal:
        """Return the portal, to be given back with `release`."""
        if self._pid != os.getpid():  # pragma: no cover - in a forked child, which is not traced
            self._begin()
        with self._lock:
            if self._portal is None:
                started: Future[BlockingPortal] = Future()
                self._thread = threading.Thread(
                    target=_run, args=(started,), name="backendpool", daemon=True
                )
                self._thread.start()
                self._portal = started.result()
            self._users += 1
            return self._portal

    def release(self) -> None:
        """Give it back."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._end()

    def end_at_exit(self) -> None:  # pragma: no cover - at exit; tested in subprocesses
        """End the thread, whoever still uses it."""
        if self._pid == os.getpid():
            with self._lock:
                self._end()

    def _end(self) -> None:
        portal, self._portal = self._portal, None
        if portal is not None and self._thread is not None:  # pragma: no branch - at exit only
            portal.call(portal.stop, True)
            self._thread.join(_PATIENCE)


def _run(started: Future[BlockingPortal]) -> None:
    try:
        anyio.run(_serve, started)
    except BaseException as error:
        if started.done():  # pragma: no cover - after it was handed out, nothing here fails
            raise
        started.set_exception(error)


async def _serve(started: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()


SHARED = SharedPortal()
atexit.register(SHARED.end_at_exit)
