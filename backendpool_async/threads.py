"""Calls that block, run where they block nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


Start = Callable[[Callable[[], None]], None]


def alone(call: Callable[[], None]) -> None:
    """Start a call in a thread of its own."""
    threading.Thread(target=call, name="backendpool", daemon=True).start()


class FewThreads:
    """Starts calls in at most `limit` threads, which end when none is left; the rest queue up."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._forget()
        if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
            # A fork copies no threads.
            os.register_at_fork(after_in_child=self._forget)

    def start(self, call: Callable[[], None]) -> None:
        """Start it as soon as there is a thread for it."""
        with self._lock:
            self._calls.append(call)
            if self._threads == self._limit:
                return
            self._threads += 1
        try:
            alone(self._work)
        except RuntimeError:
            # The process has as many threads as it may. A later call may get one.
            with self._lock, contextlib.suppress(ValueError):
                self._threads -= 1
                self._calls.remove(call)
            raise

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._threads = 0

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._threads -= 1
                    return
                call = self._calls.popleft()
            call()


class ShortLivedThreads(Executor):
    """An executor of daemon threads that are gone when their calls end.

    Nothing is left to close, and a call that never returns (a dead NFS mount, a resolver without
    a network) cannot hold up the end of the interpreter, as a pool of threads would. Starting a
    thread costs about as much as handing a call to one that waits. When the event loop that asked
    is closed meanwhile, the result is dropped without a word.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, start: Start) -> None:
        self._loop = loop
        self._start = start

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            outcome: Callable[[], None]
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
                outcome = _setter(future.set_exception, error)
            else:
                outcome = _setter(future.set_result, result)
            if not self._loop.is_closed():
                outcome()

        self._start(call)
        return future


def _setter(setter: Callable[[Any], None], value: object) -> Callable[[], None]:
    return lambda: setter(value)


async def in_thread(function: Callable[[], T], start: Start = alone) -> T:
    """Return what `function` returns, run in a thread that is left behind on cancellation."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(ShortLivedThreads(loop, start), function)
