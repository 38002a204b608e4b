"""What an event loop feels while the table of 10,000 backends is built, and what is chosen then."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Final

from backendpool_async import Backend, BackendPool, Balancer, Maglev, RoundRobin
from backendpool_async.balance.policy import Policy
from benchmarks.loop_gaps import LoopGaps
from benchmarks.pick_peers import uhashring_of
from benchmarks.report import Report, check

COUNT: Final = 10_000
LONGEST_GAP: Final = 5.0
CASES: Final[dict[str, Callable[[], Policy]]] = {
    "Maglev": Maglev,
    "Maglev, weights": Maglev,
    "RoundRobin, weights": RoundRobin,
}

Samples = dict[str, list[float]]


async def gaps_while_building(report: Report, rounds: int) -> None:
    """Measure every case, in turns, and print what was found."""
    samples: Samples = defaultdict(list)
    async with LoopGaps() as gaps:
        for number in range(rounds + 1):
            if number == 1:
                # The first round warmed caches up.
                samples.clear()
            for name in CASES:
                await another_list(samples, name, gaps)
            await nothing(samples, gaps)
            if find_spec("uhashring") is not None:
                await ring_in_a_thread(samples, gaps)
    report.section(f"{COUNT:,} backends exchanged for others, on a loop that goes on ticking")
    report.note("picks go on meanwhile, every millisecond; none saw NoBackends, first the old")
    for what, rounds_of_it in samples.items():
        if not what.endswith("gap"):
            report.figure(what, rounds_of_it, "ms")
    for what in ("nothing: gap", "uhashring made in a thread: gap"):
        if what in samples:
            report.figure(what, samples[what], "ms")
    for name in CASES:
        report.judge(f"{name}: longest gap", samples[f"{name}: gap"], "ms", at_most=LONGEST_GAP)


async def another_list(samples: Samples, name: str, gaps: LoopGaps) -> None:
    """Exchange the list of a started balancer, and choose until it chooses from the new one."""
    weights = 3 if "weights" in name else 1
    old, new = backends("old", weights), backends("new", weights)
    pool = BackendPool.static(old)
    async with Balancer(pool, CASES[name]()) as balancer:
        check(balancer.pick("a").startswith("old"), "the first list is in use")
        await quiet(gaps)
        began = time.perf_counter()
        # In a thread: what is measured is the building. A source's answer comes from one, too.
        await asyncio.to_thread(pool.update, new)
        samples[f"{name}: the list accepted"].append((time.perf_counter() - began) * 1e3)
        from_the_old = 0
        while balancer.pick("a").startswith("old"):
            from_the_old += 1
            await asyncio.sleep(0.001)
        samples[f"{name}: until the new one is in use"].append((time.perf_counter() - began) * 1e3)
        # The next tick shows what held the loop last.
        await asyncio.sleep(0.005)
        samples[f"{name}: gap"].append(gaps.longest)
        gc.unfreeze()
        check(from_the_old > 0, "the old list was in use while the new one was prepared")
        check(balancer.pick("b").startswith("new"), "the new list stays in use")


async def ring_in_a_thread(samples: Samples, gaps: LoopGaps) -> None:
    addresses = backends("new", 1)
    await quiet(gaps)
    began = time.perf_counter()
    await asyncio.to_thread(uhashring_of, addresses)
    samples["uhashring made in a thread"].append((time.perf_counter() - began) * 1e3)
    await asyncio.sleep(0.005)
    samples["uhashring made in a thread: gap"].append(gaps.longest)
    gc.unfreeze()


async def nothing(samples: Samples, gaps: LoopGaps) -> None:
    await quiet(gaps)
    await asyncio.sleep(0.3)
    samples["nothing: gap"].append(gaps.longest)
    gc.unfreeze()


async def quiet(gaps: LoopGaps) -> None:
    # What is alive before is no part of the collections to come, and no part of their gaps.
    gc.collect()
    gc.freeze()
    await asyncio.sleep(0.01)
    gaps.reset()


def backends(name: str, weights: int) -> Sequence[Backend]:
    return [Backend(f"{name}-{n}.internal:8080", weight=1 + n % weights) for n in range(COUNT)]
