"""Backends whose checks a test decides on, and a monitor of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from backendpool_async import Backend, BackendPool
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.candidate_registry import CandidateRegistry
from backendpool_async.balance.health import Check, CheckRunner, HealthChecks, HealthMonitor

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
WELL = None
SICK = ConnectionRefusedError("nobody there")
HANGS = "hangs"
DEAF = "deaf"


class Checkup:
    """A check that does what `will` says of a backend, and is `WELL` with the others.

    An exception is raised, a number of seconds slept; what `HANGS` waits until it is cancelled,
    and what is `DEAF` beyond that, until it is `released`.
    """

    def __init__(self) -> None:
        self.will: dict[str, object] = {}
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.seen: list[Backend] = []
        self.running: defaultdict[str, int] = defaultdict(int)
        self.most_at_once = 0
        self.cancellations = 0
        self.closings = 0
        self.released = asyncio.Event()

    @property
    def all_times(self) -> list[float]:
        return sorted(time for times in self.times.values() for time in times)

    async def check(self, backend: Backend) -> None:
        self.seen.append(backend)
        self.times[backend].append(asyncio.get_running_loop().time())
        self.running[backend] += 1
        assert self.running[backend] == 1, "checked twice at once"
        self.most_at_once = max(self.most_at_once, sum(self.running.values()))
        try:
            await self._play(self.will.get(backend, WELL))
        except asyncio.CancelledError:
            self.cancellations += 1
            raise
        finally:
            self.running[backend] -= 1

    async def aclose(self) -> None:
        self.closings += 1

    async def _play(self, will: object) -> None:
        if isinstance(will, BaseException):
            raise will
        if isinstance(will, float):
            await asyncio.sleep(will)
        elif will == HANGS:
            await asyncio.get_running_loop().create_future()
        elif will == DEAF:
            while not self.released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.released.wait()


class Ward:
    """A pool of given backends, what is known about them, and what was said of changes."""

    def __init__(
        self, check: Check, *backends: str, pool: BackendPool | None = None, **settings: Any
    ) -> None:
        self.pool = pool or BackendPool.static(backends)
        self.said: list[str] = []
        self.now = 0.0
        self._registry = CandidateRegistry(600)
        self.monitor = HealthMonitor(
            partial(
                CheckRunner,
                HealthChecks(check, **settings),
                self.pool,
                self._registry.get_or_create,
                lambda _level, said: self.say(said),
                clock=lambda: self.now,
            )
        )

    def say(self, said: str) -> None:
        self.said.append(said)

    def known(self, backend: str) -> Candidate:
        return self._registry.get_or_create(Backend(backend))

    def verdicts(self, *backends: str) -> list[bool | None]:
        return [self.known(backend).is_healthy for backend in backends]


@asynccontextmanager
async def ward(check: Check, *backends: str, **settings: Any) -> AsyncIterator[Ward]:
    made = Ward(check, *backends, **settings)
    made.monitor.start()
    try:
        yield made
    finally:
        await made.monitor.aclose()


def others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def soon() -> None:
    """Return when all that can happen at this time has happened."""
    for _ in range(20):
        await asyncio.sleep(0)
