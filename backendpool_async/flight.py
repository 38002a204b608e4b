"""One fetch under way: one task, one deadline, any number of waiters."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

from backendpool_async.errors import BackendPoolError, SourceError
from backendpool_async.snapshot import Snapshot
from backendpool_async.source import Answer

# How long a fetch may take to end once it has been cancelled, before it is called stubborn.
_GRACE: Final = 0.1

Outcome = Answer | BaseException
Landing = Callable[["Flight", Outcome], Snapshot | BackendPoolError]


class Flight:
    """Runs one fetch to its end or its deadline; every waiter gets what `land` makes of it.

    The outcome is the answer or the exception; with `overdue`, that of the deadline. A flight
    that is not `kept` is cancelled with its last waiter, and never lands. After the deadline, or
    after `cancel`, a fetch that swallows its cancellation is left behind: it has not `returned`
    although the flight has `ended`. `again` is for whoever wants another one after this.
    """

    __slots__ = (
        "_land",
        "_pid",
        "_timer",
        "_waiters",
        "again",
        "kept",
        "loop",
        "overdue",
        "pushes",
        "returned",
        "task",
    )

    def __init__(
        self,
        fetch: Callable[[], Coroutine[Any, Any, Answer]],
        timeout: float,
        pushes: int,
        land: Landing,
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._land: Landing | None = land
        self._waiters: list[asyncio.Future[Snapshot]] = []
        self.overdue: bool = False
        self.returned: bool = False
        self.kept: bool = False
        self.again: bool = False
        self.pushes: int = pushes
        self.task: asyncio.Task[None] = self.loop.create_task(self._fly(fetch))
        leave_quietly(self.task)
        self._pid = os.getpid()
        # After the first step of the task: a source that does not wait needs no deadline.
        self._timer: asyncio.Handle = self.loop.call_soon(self._set_deadline, timeout)
        self.task.add_done_callback(self._on_done)

    @property
    def is_lost(self) -> bool:
        """Whether its loop is closed, or belongs to the process that forked this one."""
        return self.loop.is_closed() or self._pid != os.getpid()

    @property
    def ended(self) -> bool:
        """Whether it has landed or been cancelled; nobody may join it any more."""
        return self._land is None

    async def wait(self) -> Snapshot:
        """Return or raise what it lands with. Cancelling one waiter does not cancel the others."""
        waiter: asyncio.Future[Snapshot] = self.loop.create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                if not self._waiters and not self.kept:
                    self.cancel()
            raise

    def cancel(self, reason: BackendPoolError | None = None) -> None:
        """End it without landing; who still waits gets `reason`."""
        if self._land is None:
            return
        self._land = None
        self._timer.cancel()
        self.task.cancel()
        if reason is not None:
            self._deliver(reason)

    async def gone(self, timeout: float) -> bool:
        """Wait until the task itself has ended; False when it has not within `timeout` seconds."""
        await asyncio.wait({self.task}, timeout=timeout)
        return self.task.done()

    def _set_deadline(self, timeout: float) -> None:
        self._timer = self.loop.call_later(timeout, self._on_deadline)

    def _on_deadline(self) -> None:
        self.overdue = True
        self.task.cancel()
        self._timer = self.loop.call_later(_GRACE, self._end, TimeoutError())

    async def _fly(self, fetch: Callable[[], Coroutine[Any, Any, Answer]]) -> None:
        outcome: Outcome
        try:
            outcome = await fetch()
        except asyncio.CancelledError as error:
            self._return(error)
            raise
        except Exception as error:  # noqa: BLE001 - a source may raise anything
            outcome = error
        # Here and not when the task is done: who waits is woken one turn of the loop earlier.
        self._return(outcome)

    def _return(self, outcome: Outcome) -> None:
        self.returned = True
        self._timer.cancel()
        self._end(TimeoutError() if self.overdue else outcome)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and not self.returned:
            # Before its first step.
            self._return(asyncio.CancelledError())

    def _end(self, outcome: Outcome) -> None:
        if self._land is not None:
            land, self._land = self._land, None
            self._deliver(land(self, outcome))

    def _deliver(self, result: Snapshot | BackendPoolError) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in [waiter for waiter in waiters if not waiter.done()]:
            if isinstance(result, Snapshot):
                waiter.set_result(result)
            else:
                waiter.set_exception(result.fresh() if isinstance(result, SourceError) else result)


def leave_quietly(task: asyncio.Task[Any]) -> None:
    """Let the task go without a word when its loop is closed under it.

    Whoever closes a loop without closing the pool loses nothing: the task holds no answer that
    anybody waits for, and a message at interpreter exit would only frighten.
    """
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own switch for it
