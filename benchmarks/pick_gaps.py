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
FROM_EMPTY: Final[dict[str, Callable[[], Policy]]] = {
    "Maglev, after an empty list": Maglev,
    "RoundRobin, after an empty list": RoundRobin,
}
UNFROZEN: Final = "Maglev, nothing frozen: gap"

Samples = dict[str, list[float]]


async def gaps_while_building(report: Report, rounds: int) -> None:
    """Measure every case, in turns, and print what was found."""
    samples: Samples = defaultdict(list)
    async with LoopGaps() as gaps:
        for number in range(rounds + 1):
            if number == 1:
                # The first round warmed caches up.
                samples.clear()
            await one_round(samples, gaps)
    report.section(f"{COUNT:,} backends exchanged for others, on a loop that goes on ticking")
    report.note("picks go on meanwhile, every millisecond; none saw NoBackends, first the old")
    report.note("after an empty list: first picks by weight at random, until there is a view")
    report.note("gc.freeze() before: no full collection of what was alive is part of a gap,")
    report.note("but for 'nothing frozen'; an application may freeze once it has started")
    for what, rounds_of_it in samples.items():
        if not what.endswith("gap"):
            report.figure(what, rounds_of_it, "ms")
    for what in (UNFROZEN, "nothing: gap", "uhashring made in a thread: gap"):
        if what in samples:
            report.figure(what, samples[what], "ms")
    for name in (*CASES, *FROM_EMPTY):
        report.judge(f"{name}: longest gap", samples[f"{name}: gap"], "ms", at_most=LONGEST_GAP)


async def one_round(samples: Samples, gaps: LoopGaps) -> None:
    for name in CASES:
        await another_list(samples, name, gaps)
    for name in FROM_EMPTY:
        await first_list(samples, name, gaps)
    await another_list(samples, "Maglev", gaps, frozen=False)
    await nothing(samples, gaps)
    if find_spec("uhashring") is not None:
        await ring_in_a_thread(samples, gaps)


async def another_list(samples: Samples, name: str, gaps: LoopGaps, *, frozen: bool = True) -> None:
    """Exchange the list of a started balancer, and choose until it chooses from the new one."""
    weights = 3 if "weights" in name else 1
    old, new = backends("old", weights), backends("new", weights)
    pool = BackendPool.static(old)
    async with Balancer(pool, CASES[name]()) as balancer:
        check(balancer.pick("a").startswith("old"), "the first list is in use")
        await quiet(gaps)
        if not frozen:
            gc.unfreeze()
        began = time.perf_counter()
        # In a thread: what is measured is the building. A source's answer comes from one, too.
        await asyncio.to_thread(pool.update, new)
        accepted = time.perf_counter() - began
        from_the_old = 0
        while balancer.pick("a").startswith("old"):
            from_the_old += 1
            await asyncio.sleep(0.001)
        in_use = time.perf_counter() - began
        # The next tick shows what held the loop last.
        await asyncio.sleep(0.005)
        if frozen:
            samples[f"{name}: the list accepted"].append(accepted * 1e3)
            samples[f"{name}: until the new one is in use"].append(in_use * 1e3)
        samples[f"{name}: gap" if frozen else UNFROZEN].append(gaps.longest)
        gc.unfreeze()
        check(from_the_old > 0, "the old list was in use while the new one was prepared")
        check(balancer.pick("b").startswith("new"), "the new list stays in use")


async def first_list(samples: Samples, name: str, gaps: LoopGaps) -> None:
    """Push the list of a started balancer that had none, and choose until its view is there."""
    new, pool = backends("new", 3), BackendPool.static([])
    key = "a" if "Maglev" in name else None
    async with Balancer(pool, FROM_EMPTY[name]()) as balancer:
        await quiet(gaps)
        await asyncio.to_thread(pool.update, new)
        while not balancer._view.listed:
            check(balancer.pick(key).startswith("new"), "there is a choice at once")
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.005)
        samples[f"{name}: gap"].append(gaps.longest)
        gc.unfreeze()


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
