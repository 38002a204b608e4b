"""One thread with an event loop, shared by all blocking pools that are kept fresh."""

from __future__ import annotations

import atexit
import os
import threading
from concurrent.futures import Future

import anyio
from anyio.from_thread import BlockingPortal


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
        if self._pid != os.getpid():
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

    def end_at_exit(self) -> None:
        """End the thread, whoever still uses it."""
        if self._pid == os.getpid():
            with self._lock:
                self._end()

    def _end(self) -> None:
        portal, self._portal = self._portal, None
        if portal is not None and self._thread is not None:
            portal.call(portal.stop, True)
            self._thread.join()


def _run(started: Future[BlockingPortal]) -> None:
    try:
        anyio.run(_serve, started)
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)


async def _serve(started: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()


SHARED = SharedPortal()
atexit.register(SHARED.end_at_exit)
