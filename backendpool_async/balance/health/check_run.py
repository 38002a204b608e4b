"""One check under way: its task, its deadline, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backendpool_async.balance.health.check import Check, reason_of
from backendpool_async.balance.health.checked_backend import CheckedBackend
from backendpool_async.flight import leave_quietly

Judge = Callable[[CheckedBackend, str | None], None]


class CheckRun:
    """Checks one backend, and tells `judge` once what is wrong with it: None when it is well.

    The deadline is a failure by itself, and the check is cancelled then. One that swallows that is
    given up after another `timeout`. `ended` is called when the check is over, and when it is
    given up.
    """

    __slots__ = (
        "_ended",
        "_judge",
        "_loop",
        "_timeout",
        "_timer",
        "checked",
        "is_given_up",
        "task",
    )

    def __init__(
        self,
        checked: CheckedBackend,
        check: Check,
        timeout: float,
        judge: Judge,
        ended: Callable[[CheckRun], None],
    ) -> None:
        self.checked: CheckedBackend = checked
        self.is_given_up: bool = False
        self._timeout = timeout
        self._judge: Judge | None = judge
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(timeout, self._on_deadline)
        self.task: asyncio.Task[None] = self._loop.create_task(self._run(check))
        leave_quietly(self.task)
        self.task.add_done_callback(self._on_done)

    def cancel(self) -> None:
        """End the check; what it says counts no more."""
        if self._judge is not None:
            self._judge = None
            self._give_up_later()
        self.task.cancel()

    def give_up(self) -> None:
        """Wait no more for a check that swallows its cancellation."""
        if not self.is_given_up and not self.task.done():
            self.is_given_up = True
            self._timer.cancel()
            self._ended(self)

    async def _run(self, check: Check) -> None:
        # Nothing is judged in here: the garbage of a closed loop ends with a GeneratorExit, too.
        await check.check(self.checked.backend)

    def _on_deadline(self) -> None:
        self._give_up_later()
        self.task.cancel()
        self._tell(f"no answer within {self._timeout:g} s")

    def _tell(self, reason: str | None) -> None:
        judge, self._judge = self._judge, None
        if judge is not None:
            judge(self.checked, reason)

    def _give_up_later(self) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(self._timeout, self.give_up)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._timer.cancel()
        try:
            self._tell_outcome(task)
        finally:
            self._ended(self)

    def _tell_outcome(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            # Not when it was the check: something that it awaited may have been.
            if not task.cancelling():
                self._tell(reason_of(asyncio.CancelledError()))
            return
        error = task.exception()
        if not isinstance(error, (KeyboardInterrupt, SystemExit)):
            self._tell(None if error is None else reason_of(error))
