"""What refreshing a pool from a file of 100,000 lines costs, and what the event loop feels of it.

``python -m benchmarks.refresh [--quick]``
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import tempfile
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

from backendpool_async import BackendPool
from benchmarks.loop_gaps import LoopGaps
from benchmarks.report import Report, check, is_quick

LINES: Final = 100_000
DIFFERENT: Final = 10
# In these seconds after a refresh the loop goes on ticking, through a full garbage collection.
AFTERWARDS: Final = 0.05

_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = rf"(?=[a-z0-9_.-]{{1,253}}:)(?![^:]*\.[0-9]+:)(?:{_LABEL}\.)*{_LABEL}"
_PORT: Final = (
    r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
)
is_valid: Final = re.compile(rf"(?:(?:{_OCTET}\.){{3}}{_OCTET}|{_NAME}):{_PORT}").fullmatch

Samples = dict[str, list[float]]


def bare(path: str) -> list[str]:
    """The least that reading and checking such a file can be written as."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    lines.pop()
    for line in lines:
        if not is_valid(line):
            raise ValueError(line)
    return lines


def main() -> None:
    quick = is_quick(__doc__)
    report = Report(f"refresh: a file of {LINES:,} lines", quick=quick)
    report.note(
        "in all: from the call to the snapshot. gap: the longest time between two ticks of a"
        f" task that sleeps 1 ms, during the refresh and in the {AFTERWARDS * 1e3:.0f} ms after"
        " it, a full garbage collection among them"
    )
    rounds = 5 if quick else 25
    kinds = (("IPv4 addresses", addresses()), ("DNS names", names()))
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "backends.txt")
        for kind, lines in kinds:
            samples = asyncio.run(measure(path, lines, rounds))
            show(report, kind, samples)
        report.section("memory that a pool holds")
        for kind, lines in kinds:
            held = asyncio.run(bytes_a_backend(path, lines))
            report.judge(f"beyond a backend's text, {kind}", [held], "B", at_most=160)
    report.end()


def show(report: Report, kind: str, samples: Samples) -> None:
    report.section(f"{LINES:,} {kind}")
    for what, label in (
        ("bare", "bare: read, split, one regex a line, in a thread"),
        ("cold", "cold refresh"),
        ("warm", f"warm refresh, {DIFFERENT} lines differ"),
        ("unchanged", "unchanged refresh"),
    ):
        report.figure(f"{label}: in all", samples[what], "ms")
        report.figure(f"{label.partition(':')[0]}: gap", samples[f"{what} gap"], "ms")
    report.figure("nothing: gap", samples["nothing gap"], "ms")
    report.ratio("cold: of bare", samples["cold"], samples["bare"], at_most=1.5)
    report.ratio("warm: of bare", samples["warm"], samples["bare"], at_most=0.7)
    report.judge("unchanged: in all", samples["unchanged"], "ms", at_most=1.5)
    report.judge("cold: longest gap", samples["cold gap"], "ms", at_most=4)
    report.judge("warm: longest gap", samples["warm gap"], "ms", at_most=4)


async def measure(path: str, lines: list[str], rounds: int) -> Samples:
    samples: Samples = defaultdict(list)
    async with LoopGaps() as gaps:
        for number in range(rounds + 1):
            if number == 1:
                # The first round warmed caches up.
                samples.clear()
            replace(path, lines)
            pool = BackendPool.file(path)
            changed = [f"changed-{number}-{n}:80" for n in range(DIFFERENT)]
            changed += lines[DIFFERENT:]

            async def cold(pool: BackendPool = pool) -> None:
                await pool.refresh()

            async def peer() -> None:
                await asyncio.to_thread(bare, path)

            for what, call in (("bare", peer), ("cold", cold))[:: 1 if number % 2 else -1]:
                await timed(samples, what, call, gaps)
            check(list(pool.backends()) == lines, "the pool has the lines of the file")
            await timed(samples, "unchanged", cold, gaps)
            replace(path, changed)
            await timed(samples, "warm", cold, gaps)
            check(list(pool.backends()) == changed, "the pool has the lines that differ")
            del pool
            await timed(samples, "nothing", nothing, gaps)
    check(bare(path) == changed, "the peer reads the file too")
    with contextlib.suppress(ValueError):
        replace(path, ["10.0.0.256:80"])
        bare(path)
        check(False, "the peer is strict")
    return samples


async def timed(
    samples: Samples, what: str, call: Callable[[], Awaitable[None]], gaps: LoopGaps
) -> None:
    # What is alive before is no part of the collections to come, and no part of their gaps.
    gc.collect()
    gc.freeze()
    await asyncio.sleep(0.01)
    gaps.reset()
    began = time.perf_counter()
    await call()
    samples[what].append((time.perf_counter() - began) * 1e3)
    await asyncio.sleep(AFTERWARDS / 2)
    gc.collect()
    await asyncio.sleep(AFTERWARDS / 2)
    samples[f"{what} gap"].append(gaps.longest)
    gc.unfreeze()


async def nothing() -> None:
    await asyncio.sleep(0.05)


async def bytes_a_backend(path: str, lines: list[str]) -> float:
    replace(path, lines)
    pool = BackendPool.file(path)
    gc.collect()
    tracemalloc.start()
    try:
        await pool.refresh()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    check(len(pool.backends()) == LINES, "all lines are held")
    return (held - sum(map(len, lines))) / LINES


def replace(path: str, lines: list[str]) -> None:
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    os.replace(f"{path}.new", path)


def addresses() -> list[str]:
    return [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:{8000 + n % 100}" for n in range(LINES)]


def names() -> list[str]:
    return [f"api-{n:05}.eu-west-{n % 3}.prod.internal:8080" for n in range(LINES)]


if __name__ == "__main__":
    main()
