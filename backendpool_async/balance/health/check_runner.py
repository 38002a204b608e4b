"""What checks the backends between `start()` and `aclose()`: one task, and one a check."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from backendpool_async.backend import Backend
from backendpool_async.balance.candidate import Candidate, LastFailure
from backendpool_async.balance.health.check import ClosableCheck
from backendpool_async.balance.health.check_run import CheckRun
from backendpool_async.balance.health.checked_backend import CheckedBackend, DueQueue
from backendpool_async.balance.health.settings import HealthChecks
from backendpool_async.balance.subset import Subset
from backendpool_async.errors import describe
from backendpool_async.flight import leave_quietly
from backendpool_async.live import LiveList
from backendpool_async.logs import log
from backendpool_async.schedule import first_poll, moment, next_poll

# A list of 10,000 is gone through in parts, with whatever else the loop has to do in between.
_AT_A_STRETCH: Final = 512
# So many checks begin before the loop has its turn: each costs 0.1 ms of its time or more.
_AT_A_TURN: Final = 8

CandidateOf = Callable[[Backend], Candidate]
Changed = Callable[[int, str], None]


class CheckRunner:
    """Follows the list and checks who is due, until it is stopped.

    What comes of it is noted on each backend's candidate: `is_healthy` is the verdict, None before
    the first result; when the backend leaves the list it stays, until the first result after its
    return. `healthy_since` is when it was found well after having been unhealthy; `last_failure`
    is that of the latest check that failed. `changed` is called, on the event loop, with a level of
    `logging` and a sentence when a backend becomes unhealthy and when it is healthy again. With a
    `subset`, only its backends are checked. `clock` stamps; what is due when goes by the time of
    the event loop.

    Also when something other than `stop` cancels its task, it ends what is under way.
    """

    def __init__(
        self,
        checks: HealthChecks,
        pool: LiveList,
        candidate_of: CandidateOf,
        changed: Changed,
        clock: Callable[[], float] = time.monotonic,
        subset: Subset | None = None,
    ) -> None:
        self._checks = checks
        self._pool = pool
        self._subset = subset
        self._candidate_of = candidate_of
        self._changed = changed
        self._clock = clock
        self._checked: dict[Backend, CheckedBackend] = {}
        self._due = DueQueue()
        # By address, so that one which comes back is not checked twice at once.
        self._runs: dict[Backend, CheckRun] = {}
        self._under_way: set[CheckRun] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._pid = os.getpid()
        self._woken = asyncio.Event()
        self.stopping: bool = False
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.task: asyncio.Task[None] = self.loop.create_task(self._keep_checking())
        leave_quietly(self.task)

    @property
    def is_lost(self) -> bool:
        """Whether its loop is closed, or belongs to the process that forked this one."""
        return self.loop.is_closed() or self._pid != os.getpid()

    async def stop(self) -> None:
        """Return when it has ended everything."""
        self.stopping = True
        self._woken.set()
        # Not `await self.task`: that would swallow a cancellation of the caller's own.
        await asyncio.wait({self.task})

    async def _keep_checking(self) -> None:
        # Not `watch()`: it ends with the pool, which may be closed and started again meanwhile.
        self._pool._add_waker(self._wake)
        try:
            while not self.stopping:
                self._woken.clear()
                await self._sync_with_list(self._listed())
                await self._woken.wait()
        except asyncio.CancelledError:
            # Not `finally`: a task that is collected with its closed loop cannot await any more.
            await self._release()
            raise
        await self._release()

    def _listed(self) -> Sequence[Backend]:
        listed = self._pool.backends()
        return listed if self._subset is None else self._subset.of(listed)

    def _wake(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._woken.set)
        except RuntimeError:
            # The loop was closed under it.
            self._pool._remove_waker(self._wake)

    async def _sync_with_list(self, backends: Sequence[Backend]) -> None:
        for gone in self._checked.keys() - set(backends):
            self._remove(gone)
        for number, backend in enumerate(backends, 1):
            checked = self._checked.get(backend)
            if checked is None:
                self._add(backend)
            else:
                # The address is the same, its attributes may be others.
                checked.backend = backend
            if number % _AT_A_STRETCH == 0:
                self._begin_due(self.loop.time())
                await asyncio.sleep(0)
        self._begin_due(self.loop.time())

    def _add(self, backend: Backend) -> None:
        checked = self._checked[backend] = CheckedBackend(backend, self.loop.time())
        # An earlier check of the same address may take its time to end; this one is due then.
        run = self._runs.get(backend)
        if run is None or run.is_given_up:
            self._due.add(checked)

    def _remove(self, backend: Backend) -> None:
        self._checked.pop(backend).is_listed = False
        run = self._runs.get(backend)
        if run is not None:
            run.cancel()

    def _begin_due(self, now: float) -> None:
        for _ in range(_AT_A_TURN):
            if self.stopping or len(self._under_way) >= self._checks.concurrency:
                # Whatever ends next begins the next.
                self._set_timer(math.inf)
                return
            checked = self._due.pop(now)
            if checked is None:
                break
            self._begin(checked, now)
        self._set_timer(self._due.next_due)

    def _set_timer(self, at: float) -> None:
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._on_timer) if at < math.inf else None

    def _on_timer(self) -> None:
        # A timer may ring a little early, by the resolution of the clock.
        now = max(self.loop.time(), self._timer_at)
        self._timer_at = math.inf
        self._begin_due(now)

    def _begin(self, checked: CheckedBackend, now: float) -> None:
        interval = self._checks.interval
        # Those that are new together part after their first check.
        window = first_poll(interval) if checked.is_healthy is None else next_poll(interval)
        checked.due = moment(now, window)
        if checked.backend in self._runs:
            # It was given up and has not ended: never two of one backend, and no news is bad news.
            self._judge(checked, "its check hangs and swallows cancellation")
            self._due.add(checked)
            return
        run = CheckRun(
            checked, self._checks.check, self._checks.timeout, self._judge, self._on_ended
        )
        self._runs[checked.backend] = run
        self._under_way.add(run)

    def _on_ended(self, run: CheckRun) -> None:
        backend = run.checked.backend
        self._under_way.discard(run)
        checked = self._checked.get(backend)
        if checked is not None:
            if run.task.done() and run.is_given_up:
                # At last: nothing was asked meanwhile.
                checked.due = self.loop.time()
            self._due.add(checked)
        if run.task.done():
            del self._runs[backend]
        else:
            log(
                logging.WARNING,
                f"{self._pool._name}: the check of {backend} swallows cancellation;"
                f" given up after {self._checks.timeout:g} s",
            )
        self._begin_due(self.loop.time())

    def _judge(self, checked: CheckedBackend, reason: str | None) -> None:
        backend = checked.backend
        candidate = self._candidate_of(backend)
        before = candidate.is_healthy
        if reason is None:
            checked.passed(self._checks.rise)
        else:
            checked.failed(reason, self._checks.fall)
            candidate.last_failure = LastFailure(self._clock(), reason)
        if checked.is_healthy and before is False:
            # Before the verdict: another thread may look at both.
            candidate.healthy_since = self._clock()
        candidate.is_healthy = checked.is_healthy
        if checked.is_healthy and before is False:
            self._changed(logging.INFO, f"{backend} is healthy again")
        elif checked.is_healthy is False and before is not False:
            self._changed(logging.WARNING, f"{backend} is unhealthy: {checked.reason}")

    async def _release(self) -> None:
        self.stopping = True
        self._pool._remove_waker(self._wake)
        self._set_timer(math.inf)
        runs = list(self._runs.values())
        for run in runs:
            run.cancel()
        if runs:
            await asyncio.wait({run.task for run in runs}, timeout=self._checks.timeout)
        for run in runs:
            run.give_up()
        await self._close_check()

    async def _close_check(self) -> None:
        check, timeout = self._checks.check, self._checks.timeout
        if not isinstance(check, ClosableCheck):
            return
        closing = self.loop.create_task(self._aclose(check))
        leave_quietly(closing)
        await asyncio.wait({closing}, timeout=timeout)
        if not closing.done():
            closing.cancel()
            log(
                logging.WARNING,
                f"{self._pool._name}: the aclose() of its check takes over {timeout:g} s",
            )

    async def _aclose(self, check: ClosableCheck) -> None:
        try:
            await check.aclose()
        except Exception as error:  # noqa: BLE001 - a check may raise anything
            log(
                logging.WARNING,
                f"{self._pool._name}: the aclose() of its check failed: {describe(error)}",
            )
