"""HealthMonitor: starts and closes the health checks of one balancer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from backendpool_async.balance.health.check_runner import CheckRunner


class HealthMonitor:
    """Runs checks between `start()` and `aclose()`, once at a time, each time by a new runner.

    `begin` makes it, on the event loop that runs. The verdicts of the last one stay meanwhile.
    """

    __slots__ = ("_begin", "_runner")

    def __init__(self, begin: Callable[[], CheckRunner]) -> None:
        self._begin = begin
        self._runner: CheckRunner | None = None

    def start(self) -> None:
        """Check from now on; nothing happens when it does already.

        It can be started again after `aclose()`, on any event loop: the last verdicts stand until
        the first results. Raises RuntimeError without a running event loop, when it runs on
        another one, and while it is being closed.
        """
        runner = self._current_runner()
        if runner is None:
            self._runner = self._begin()
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
