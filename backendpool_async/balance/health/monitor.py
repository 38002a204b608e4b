"""HealthMonitor: runs the health checks of one balancer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from backendpool_async.balance.health.check_runner import CandidateOf, Changed, CheckRunner
from backendpool_async.balance.health.settings import HealthChecks
from backendpool_async.balance.subset import Subset
from backendpool_async.live import LiveList


class HealthMonitor:
    """Checks every backend of a pool's list, and notes what comes of it on its candidate.

    `is_healthy` of a candidate is the verdict, None before the first result; when the backend
    leaves the list it stays, until the first result after its return. `healthy_since` is when it
    was found well after having been unhealthy; `last_failure` is that of the latest check that
    failed. `changed` is called, on the event loop, with a level of `logging` and a sentence when a
    backend becomes unhealthy and when it is healthy again. With a `subset`, only its backends are
    checked. `clock` stamps; what is due when goes by the time of the event loop.
    """

    __slots__ = ("_candidate_of", "_changed", "_checks", "_clock", "_pool", "_runner", "_subset")

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
        self._candidate_of = candidate_of
        self._changed = changed
        self._clock = clock
        self._subset = subset
        self._runner: CheckRunner | None = None

    def start(self) -> None:
        """Check from now on; nothing happens when it does already.

        It can be started again after `aclose()`, on any event loop: the last verdicts stand until
        the first results. Raises RuntimeError without a running event loop, when it runs on
        another one, and while it is being closed.
        """
        runner = self._current_runner()
        if runner is None:
            self._runner = CheckRunner(
                self._checks,
                self._pool,
                self._candidate_of,
                self._changed,
                self._clock,
                self._subset,
            )
        elif runner.stopping:
            raise RuntimeError("the health checks are being closed; await aclose() first")

    async def aclose(self) -> None:
        """Stop checking; the verdicts stay. Twice, or never started, does no harm.

        Returns when the checks under way have ended and the check has released what it held; what
        swallows its cancellation is given up after `timeout`. Raises RuntimeError when it runs on
        another event loop.
        """
        runner = self._current_runner()
        if runner is not None:
            await runner.stop()

    def _current_runner(self) -> CheckRunner | None:
        loop, runner = asyncio.get_running_loop(), self._runner
        if runner is None or runner.is_lost or runner.task.done():
            self._runner = None
            return None
        if runner.loop is not loop:
            raise RuntimeError("the health checks run on another event loop; close them there")
        return runner
