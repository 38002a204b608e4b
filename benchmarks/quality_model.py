"""A simulated service in virtual time: clients with a balancer each, and backends that queue.

Every figure is of the simulated seconds; how fast the machine is does not matter.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from backendpool_async import BackendPool, Balancer, NoBackends, OutlierEjection
from backendpool_async.balance.policy import Policy
from backendpool_async.testing.virtual_time import VirtualTimeLoop

CLIENTS: Final = 100
BACKENDS: Final = 20
SLOW, DEAD = 0, 1
GOOD: Final = range(2, BACKENDS)
WORKERS: Final = 3
SERVICE: Final = 0.010
SLOWER: Final = 10.0
TIMEOUT: Final = 1.0
RATE_EACH: Final = 30.0
# What a backend that was restarted serves at first takes so many times as long, and that is made
# good by so many requests: caches fill as they are asked.
COLDER: Final = 5.0
WARMED_BY: Final = 300.0

DEFAULTS: Final = OutlierEjection()

MakePolicy = Callable[[random.Random, Callable[[], float]], Policy]


@dataclass(frozen=True, slots=True)
class Case:
    """One way to choose, under one kind of trouble."""

    name: str
    policy: MakePolicy
    ejection: OutlierEjection | None = DEFAULTS
    slow_start: float = 0.0
    is_black_hole: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """What happens when, in seconds: one dies, another may get slow, and the dead one comes back.

    It comes back cold, as after a restart.
    """

    trouble: float
    returns: float
    end: float
    has_slow: bool = True


@dataclass(slots=True)
class Outcome:
    """What the clients saw: of each request when it began, how long it took, and if it failed."""

    began: array[float] = field(default_factory=lambda: array("d"))
    took: array[float] = field(default_factory=lambda: array("d"))
    failed: array[int] = field(default_factory=lambda: array("b"))
    # Of each attempt: when, and at which backend.
    asked_at: array[float] = field(default_factory=lambda: array("d"))
    asked: array[int] = field(default_factory=lambda: array("b"))
    refusals: int = 0
    """How often a balancer had none to choose."""


class Server:
    """First come, first served by `WORKERS` at a time; who gives up while waiting leaves the queue.

    What becomes of a request is known when it arrives, so that it costs one timer.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._free_at = [0.0] * WORKERS
        self._served = math.inf
        self.slower = 1.0
        self.is_dead = False

    def answer_time(self, now: float) -> float:
        """Return how long a request that arrives now takes, at most `TIMEOUT`."""
        begins = max(now, self._free_at[0])
        if begins - now >= TIMEOUT:
            return TIMEOUT
        colder = 1.0 + (COLDER - 1.0) * math.exp(-self._served / WARMED_BY)
        ends = begins + self._rng.expovariate(1.0 / (SERVICE * self.slower * colder))
        # A worker finishes what it began, also when nobody waits for it any more.
        heapq.heapreplace(self._free_at, ends)
        self._served += 1
        return min(ends - now, TIMEOUT)

    def restart(self) -> None:
        """Be back, with nothing in the caches."""
        self._served = 0.0
        self.is_dead = False


class Service:
    """All clients and backends of one case."""

    def __init__(self, case: Case, script: Script, seed: int) -> None:
        self._case = case
        self._script = script
        self._seed = seed
        self._loop = asyncio.get_running_loop()
        self._servers = [Server(random.Random(f"{seed} server {n}")) for n in range(BACKENDS)]
        self._addresses = [f"10.0.0.{n}:80" for n in range(BACKENDS)]
        self._numbers = {address: n for n, address in enumerate(self._addresses)}
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """Return what the clients saw until the end."""
        script, loop = self._script, self._loop
        loop.call_at(script.trouble, self._make_trouble)
        loop.call_at(script.returns, self._servers[DEAD].restart)
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._client(number))
        return self.outcome

    def _make_trouble(self) -> None:
        if self._script.has_slow:
            self._servers[SLOW].slower = SLOWER
        self._servers[DEAD].is_dead = True

    async def _client(self, number: int) -> None:
        rng = random.Random(f"{self._seed} client {number}")
        policy = self._case.policy(random.Random(f"{self._seed} policy {number}"), self._loop.time)
        async with (
            Balancer(
                BackendPool.static(self._addresses),
                policy,
                ejection=self._case.ejection,
                slow_start=self._case.slow_start,
                clock=self._loop.time,
            ) as balancer,
            asyncio.TaskGroup() as requests,
        ):
            # Requests come when they come, whatever became of those before.
            due = rng.expovariate(RATE_EACH)
            while due < self._script.end:
                await asyncio.sleep(due - self._loop.time())
                requests.create_task(self._request(balancer))
                due += rng.expovariate(RATE_EACH)

    async def _request(self, balancer: Balancer) -> None:
        outcome, began = self.outcome, self._loop.time()
        has_failed = False
        try:
            first = await self._attempt(balancer, ())
            if first is not None:
                has_failed = await self._attempt(balancer, (first,)) is not None
        except NoBackends:
            outcome.refusals += 1
            has_failed = True
        outcome.began.append(began)
        outcome.took.append(self._loop.time() - began)
        outcome.failed.append(has_failed)

    async def _attempt(self, balancer: Balancer, exclude: tuple[str, ...]) -> str | None:
        """Return None when it was answered, else who did not."""
        lease = balancer.lease(exclude=exclude)
        try:
            async with lease:
                number = self._numbers[lease.backend]
                self.outcome.asked_at.append(self._loop.time())
                self.outcome.asked.append(number)
                await self._exchange(self._servers[number])
        except (ConnectionRefusedError, TimeoutError):
            return lease.backend
        return None

    async def _exchange(self, server: Server) -> None:
        if server.is_dead and not self._case.is_black_hole:
            # The answer of its host's kernel takes no time to speak of.
            raise ConnectionRefusedError
        took = TIMEOUT if server.is_dead else server.answer_time(self._loop.time())
        await asyncio.sleep(took)
        if took >= TIMEOUT:
            raise TimeoutError


def simulate(case: Case, script: Script, seed: int) -> Outcome:
    """Return what becomes of one case; the same for the same seed."""
    # For what draws from the functions of `random`: how long an ejection takes, a retry.
    random.seed(f"{seed} {case.name}")

    async def run() -> Outcome:
        return await Service(case, script, seed).run()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(run())
