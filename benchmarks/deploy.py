"""Rolling deploys under a steady load: how many requests fail because a backend is replaced.

``python -m benchmarks.deploy [--quick]``: five backends, each a process, are replaced one after the
other, again and again, while requests come at fixed times (an open loop). In the second half the
old one is killed while it is still listed. Each through the httpx transport, the aiohttp middleware
and the reverse proxy.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final

from backendpool_async import BackendPool, Balancer
from backendpool_async.demo.fleet import Fleet, Instance
from backendpool_async.demo.load import Load
from backendpool_async.demo.places import ListFile
from backendpool_async.retries import Retries
from benchmarks.deploy_ways import through_httpx, through_middleware, through_proxy
from benchmarks.report import Report, check, is_quick

BACKENDS: Final = 5
RATE: Final = 500.0
ANSWERS_AFTER: Final = 0.005
# Between the end of an old one's listing and its SIGTERM.
DRAINING: Final = 0.1
# For so long a killed one is still listed.
UNTOLD: Final = 0.2

Ask = Callable[[], Awaitable[str]]
Way = Callable[[Balancer, Retries], AbstractAsyncContextManager[Ask]]
WAYS: Final[dict[str, Way]] = {
    "httpx transport": through_httpx,
    "aiohttp middleware": through_middleware,
    "reverse proxy": through_proxy,
}


def main() -> None:
    quick = is_quick(__doc__)
    report = Report("deploy: requests that fail while backends are replaced", quick=quick)
    asyncio.run(measured(report, deploys=2 if quick else 20))
    report.end()


async def measured(report: Report, deploys: int) -> None:
    for kills in (False, True):
        for name, way in WAYS.items():
            before = "killed before it is deregistered" if kills else "drained, then stopped"
            report.section(
                f"{name}: {deploys} deploys of {BACKENDS} backends at {RATE:g}/s, each {before}"
            )
            await deployed(report, way, deploys, kills=kills)


async def deployed(report: Report, way: Way, deploys: int, *, kills: bool) -> None:
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="backendpool-"))
        deployment = Deployment(
            ListFile(directory), await stack.enter_async_context(Fleet(ANSWERS_AFTER))
        )
        await deployment.begin()
        balancer = await stack.enter_async_context(
            Balancer(BackendPool.file(deployment.file.path, watch=sys.platform == "linux"))
        )
        ask = await stack.enter_async_context(way(balancer, Retries(idempotent=kills)))
        load = Load(ask, RATE)
        began = time.perf_counter()
        async with load.going_on():
            for generation in range(1, deploys + 1):
                await deployment.roll(generation, kills=kills)
        took = time.perf_counter() - began
        check_load(load, took, deploys)
        report.note(f"{took:.0f} s, {load.requests:,} requests")
        for failure, times in load.failures.most_common(5):
            report.note(f"{times} failed: {failure}")
        report.judge("requests that failed", [float(load.failures.total())], "", at_most=0)
        report.figure("tried again on another backend", [float(balancer.explain().retries)], "")
        for percent in (50, 99):
            within = load.percentile(percent)
            check(within is not None, "requests were answered")
            report.figure(f"answered within, p{percent}", [(within or 0.0) * 1e3], "ms")


def check_load(load: Load, took: float, deploys: int) -> None:
    check(load.requests > 0.95 * RATE * took, "the load was as high as it says")
    names = {name(number, of) for number in range(BACKENDS) for of in range(deploys + 1)}
    # The last generation may be listed for an instant only.
    check(len(names & set(load.answers)) >= BACKENDS * deploys, "every backend was used")


class Deployment:
    """Five backends and the file that lists them."""

    def __init__(self, file: ListFile, fleet: Fleet) -> None:
        self.file = file
        self._fleet = fleet
        self._running: list[Instance] = []

    async def begin(self) -> None:
        """Start the first generation."""
        self._running = [await self._fleet.start(name(number, 0)) for number in range(BACKENDS)]
        await self._publish()

    async def roll(self, generation: int, *, kills: bool) -> None:
        """Replace one after the other."""
        for number in range(BACKENDS):
            old = self._running[number]
            self._running.append(await self._fleet.start(name(number, generation)))
            await self._publish()
            if kills:
                await old.kill()
                await asyncio.sleep(UNTOLD)
            self._running[number] = self._running.pop()
            await self._publish()
            if not kills:
                await asyncio.sleep(DRAINING)
                await old.stop()

    async def _publish(self) -> None:
        await self.file.publish([each.address for each in self._running])


def name(number: int, generation: int) -> str:
    return f"api-{number}.v{generation}"


if __name__ == "__main__":
    main()
