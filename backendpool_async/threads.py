"""Calls that block, run where they block nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ShortLivedThreads(Executor):
    """An executor that gives each call a daemon thread of its own, gone when the call ends.

    Nothing is left to close, and a call that never returns (a dead NFS mount, a resolver without
    a network) cannot hold up the end of the interpreter, as a pool of threads would. Starting a
    thread costs about as much as handing a call to one that waits. When the event loop that asked
    is closed meanwhile, the result is dropped without a word.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def call() -> None:
            outcome: Callable[[], None]
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
                outcome = _setter(future.set_exception, error)
            else:
                outcome = _setter(future.set_result, result)
            if not self._loop.is_closed():
                outcome()

        threading.Thread(target=call, name="backendpool", daemon=True).start()
        return future


def _setter(setter: Callable[[Any], None], value: object) -> Callable[[], None]:
    return lambda: setter(value)


async def in_thread(function: Callable[[], T]) -> T:
    """Return what `function` returns, run in a thread that is left behind on cancellation."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(ShortLivedThreads(loop), function)
