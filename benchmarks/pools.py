"""What thousands of polled pools on one event loop cost while nothing changes.

``python -m benchmarks.pools [--quick]``

Every design and size runs in a process of its own, all of them at the same time: they are idle
but for the polling, and each counts its own processor time.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import random
import statistics
import time
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

from backendpool_async import BackendPool
from backendpool_async.testing.virtual_time import VirtualTimeLoop
from benchmarks.loop_gaps import LoopGaps
from benchmarks.report import Report, check, is_quick

ANSWER: Final = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]
SLICES: Final = 10
HOUR: Final = 3600

Fetch = Callable[[], Awaitable[list[str]]]


class Naive:
    """The peer: a task a list, that fetches and sleeps; jittered, and with a deadline, as ours."""

    def __init__(self, fetch: Fetch, *, poll_interval: float) -> None:
        self._fetch = fetch
        self._interval = poll_interval
        self._list: list[str] = []

    async def start(self) -> None:
        await self._refresh()
        self._task = asyncio.create_task(self._poll())

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    def backends(self) -> list[str]:
        return self._list

    def _first_wait(self) -> float:
        return random.uniform(0.9, 1.1)

    async def _poll(self) -> None:
        await asyncio.sleep(self._interval * self._first_wait())
        while True:
            await self._refresh()
            await asyncio.sleep(self._interval * random.uniform(0.9, 1.1))

    async def _refresh(self) -> None:
        async with asyncio.timeout(5):
            self._list = list(await self._fetch())


class SettledNaive(Naive):
    """The same as it is after some hours, when its tasks no longer ask in one burst."""

    def _first_wait(self) -> float:
        return random.uniform(0, 1)


DESIGNS: Final[dict[str, type[BackendPool | Naive]]] = {
    "ours": BackendPool,
    "naive": SettledNaive,
}
FROM_THE_START: Final[dict[str, type[BackendPool | Naive]]] = {
    "ours": BackendPool,
    "naive": Naive,
}


class Plan(NamedTuple):
    """One process: which design, how many of them, for how long."""

    design: str
    pools: int
    interval: float
    seconds: float
    delay: float


@dataclass(frozen=True)
class Measured:
    """What one process found out about itself."""

    start: float
    close: float
    percents: list[float]
    held: float
    resident: float
    gap: float


def main() -> None:
    quick = is_quick(__doc__)
    report = Report("pools: thousands of them, polled, on one event loop", quick=quick)
    # As many fetches a second from fewer pools: the same load, settled in a fifth of the time.
    interval, sizes = (6.0, (200, 2_000)) if quick else (30.0, (1_000, 10_000))
    seconds = 10.0 if quick else 30.0
    # Each begins when the one before has started its pools: starting is all but idle.
    plans = [
        Plan(design, size, interval, seconds, delay=3.0 * number)
        for number, (size, design) in enumerate((s, d) for s in sizes for d in DESIGNS)
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(plans), mp_context=context) as processes:
        results = dict(zip(plans, processes.map(idle, plans), strict=True))
        hours = {
            design: processes.submit(busiest_second, design, 200 if quick else 1_000, interval)
            for design in DESIGNS
        }
        for size in sizes:
            show(report, {p.design: (p, m) for p, m in results.items() if p.pools == size})
        report.section("a simulated hour, its first second excluded: there all of them start")
        for design, hour in hours.items():
            target = 3.0 if design == "ours" else None
            label = f"{design}: fetches of the busiest second, of the mean"
            report.judge(label, [hour.result()], "x", at_most=target)
    report.end()


def show(report: Report, results: dict[str, tuple[Plan, Measured]]) -> None:
    plan, _ = results["ours"]
    report.section(f"{plan.pools:,} pools, polled every {plan.interval:g} s")
    heaviest = plan.pools * 30 / plan.interval >= 10_000
    for name, (_, measured) in results.items():
        limit = 1.5 if heaviest and name == "ours" else None
        # Not the median of the slices: whoever asks in bursts is idle in most of them.
        mean = statistics.fmean(measured.percents)
        report.judge(f"{name}: idle, of one core", [mean], "%", at_most=limit)
        slices = f"{name}: {SLICES} slices of {plan.seconds / SLICES:g} s"
        report.figure(slices, measured.percents, "%")
        report.figure(f"{name}: CPU a refresh", [mean * 1e4 * plan.interval / plan.pools], "us")
    for name, (_, measured) in results.items():
        limit = 4 if name == "ours" else None
        held, resident = [measured.held / 1024], [measured.resident / 1024]
        report.judge(f"{name}: memory held, a pool", held, "KiB", at_most=limit)
        report.judge(f"{name}: resident memory, a pool", resident, "KiB", at_most=limit)
    for name, (_, measured) in results.items():
        report.figure(f"{name}: start all at once", [measured.start * 1e3], "ms")
        report.figure(f"{name}: close all at once", [measured.close * 1e3], "ms")
        report.figure(f"{name}: longest gap of the loop in 3 s", [measured.gap], "ms")


def idle(plan: Plan) -> Measured:
    return asyncio.run(_idle(plan))


async def _idle(plan: Plan) -> Measured:
    fetches = 0

    async def fetch() -> list[str]:
        nonlocal fetches
        fetches += 1
        return ANSWER

    await asyncio.sleep(plan.delay)
    gc.collect()
    before = resident()
    make = DESIGNS[plan.design]
    pools = [make(fetch, poll_interval=plan.interval) for _ in range(plan.pools)]
    began = time.perf_counter()
    await asyncio.gather(*(pool.start() for pool in pools))
    start = time.perf_counter() - began
    # After the longest first wait they are spread as they will be for ever.
    await asyncio.sleep(plan.interval * 1.2)

    percents = []
    polled = fetches
    for _ in range(SLICES):
        began, used = time.perf_counter(), time.process_time()
        await asyncio.sleep(plan.seconds / SLICES)
        percents.append((time.process_time() - used) / (time.perf_counter() - began) * 100)
    expected = plan.pools * plan.seconds / plan.interval
    check(0.8 < (fetches - polled) / expected < 1.2, f"each polls every {plan.interval} s")
    check(all(list(pool.backends()) == ANSWER for pool in pools), "all of them have the list")
    grown = resident() - before

    async with LoopGaps() as gaps:
        await asyncio.sleep(3)
    began = time.perf_counter()
    await asyncio.gather(*(pool.aclose() for pool in pools))
    close = time.perf_counter() - began
    check(len(asyncio.all_tasks()) == 1, "closing them leaves no task")
    held = await held_by_one(make, fetch)
    return Measured(start, close, percents, held, grown / plan.pools, gaps.longest)


async def held_by_one(make: type[BackendPool | Naive], fetch: Fetch) -> float:
    """Return the bytes that stay allocated for one of a hundred running pools.

    Resident memory also counts what was needed only while all of them started at once.
    """
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        pools = [make(fetch, poll_interval=30) for _ in range(100)]
        for pool in pools:
            await pool.start()
        await asyncio.sleep(0.01)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    await asyncio.gather(*(pool.aclose() for pool in pools))
    return held / len(pools)


def busiest_second(design: str, pools: int, interval: float) -> float:
    """Return how many times the mean a simulated hour's busiest second is."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_busiest_second(design, pools, interval))


async def _busiest_second(design: str, pools: int, interval: float) -> float:
    loop = asyncio.get_running_loop()
    seconds: Counter[int] = Counter()

    async def fetch() -> list[str]:
        seconds[int(loop.time())] += 1
        return ANSWER

    running = [FROM_THE_START[design](fetch, poll_interval=interval) for _ in range(pools)]
    await asyncio.gather(*(pool.start() for pool in running))
    check(seconds.pop(0) == pools, "all of them ask when they start")
    await asyncio.sleep(HOUR)
    await asyncio.gather(*(pool.aclose() for pool in running))
    mean = seconds.total() / HOUR
    check(0.8 < mean / (pools / interval) < 1.2, f"each polls every {interval} s")
    return max(seconds.values()) / mean


def resident() -> int:
    """Return the bytes of memory that this process occupies."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
