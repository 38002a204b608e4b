"""What a thousand health checks a second cost, of a core.

``python -m benchmarks.checks [--quick]``
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

from backendpool_async import Backend, BackendPool
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.health import (
    Check,
    CheckRunner,
    HealthChecks,
    HealthMonitor,
    HttpCheck,
    TcpCheck,
)
from benchmarks.report import Report, check, is_quick

# Each has an address of its own in 127.0.0.0/8, and each is checked once a second.
BACKENDS: Final = 1_000
# All are checked at once at first, and then apart.
PARTED_AFTER: Final = 2.0
MANY: Final = 64

Samples = dict[str, list[float]]
Running = Callable[[list[Backend], Counter[str]], AbstractAsyncContextManager[None]]


class Connect:
    """The least that asyncio does to connect and close."""

    async def check(self, backend: Backend) -> None:
        with socket.socket() as connection:
            connection.setblocking(False)
            address = (backend.host, backend.port)
            await asyncio.get_running_loop().sock_connect(connection, address)


class Streams:
    """A check as it is written by hand, with a time limit."""

    async def check(self, backend: Backend) -> None:
        async with asyncio.timeout(2.0):
            _, writer = await asyncio.open_connection(backend.host, backend.port)
            writer.close()
            await writer.wait_closed()


def monitored(checked: Callable[[], Check]) -> Running:
    """Return what has a `HealthMonitor` check the backends, and counts its verdicts."""

    @contextlib.asynccontextmanager
    async def running(entries: list[Backend], counts: Counter[str]) -> AsyncIterator[None]:
        candidates = {each: Candidate(each) for each in entries}

        def candidate_of(backend: Backend) -> Candidate:
            counts[backend] += 1
            return candidates[backend]

        checks = HealthChecks(checked(), interval=1.0)
        pool = BackendPool.static(entries)
        monitor = HealthMonitor(partial(CheckRunner, checks, pool, candidate_of, print))
        monitor.start()
        yield
        await monitor.aclose()
        check(all(each.is_healthy for each in candidates.values()), "all are found well")

    return running


def by_hand(checked: Callable[[], Check]) -> Running:
    """Return what checks each backend in a task that sleeps in between."""

    @contextlib.asynccontextmanager
    async def running(entries: list[Backend], counts: Counter[str]) -> AsyncIterator[None]:
        at_once = asyncio.Semaphore(MANY)
        probe = checked()

        async def keep_checking(backend: Backend) -> None:
            due = time.monotonic() + random.random()
            while True:
                await asyncio.sleep(due - time.monotonic())
                async with at_once:
                    await probe.check(backend)
                counts[backend] += 1
                due += 1.0

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(keep_checking(each)) for each in entries]
            yield
            for task in tasks:
                task.cancel()

    return running


OURS: Final = "HealthMonitor, TcpCheck"
BARE: Final = "a task a backend, loop.sock_connect"
STREAMS: Final = "a task a backend, asyncio.open_connection"
CASES: Final[dict[str, Running]] = {
    OURS: monitored(TcpCheck),
    "HealthMonitor, HttpCheck": monitored(HttpCheck),
    BARE: by_hand(Connect),
    STREAMS: by_hand(Streams),
}


def main() -> None:
    quick = is_quick(__doc__)
    report = Report(f"checks: {BACKENDS:,} backends, each once a second", quick=quick)
    seconds, rounds = (3.0, 2) if quick else (10.0, 9)
    used, rates = asyncio.run(measure(seconds, rounds))
    report.section("CPU time of the process that checks, of a core")
    report.note("over loopback, where the kernel does the server's half of connecting in it, too")
    for what in CASES:
        report.figure(what, used[what], "%")
    report.section("CPU time a check")
    each: Samples = {
        what: [share * 1e4 / rate for share, rate in zip(used[what], rates[what], strict=True)]
        for what in CASES
    }
    for what, costs in each.items():
        report.figure(what, costs, "us")
    report.ratio("TcpCheck: of a task a backend with streams", each[OURS], each[STREAMS])
    report.ratio("TcpCheck: of a task a backend with a bare socket", each[OURS], each[BARE])
    report.section("checks a second")
    for what in CASES:
        report.figure(what, rates[what], "/s")
    report.end()


async def measure(seconds: float, rounds: int) -> tuple[Samples, Samples]:
    used: Samples = defaultdict(list)
    rates: Samples = defaultdict(list)
    async with server() as port:
        entries = backends(port)
        for number in range(rounds):
            for name in CASES if number % 2 else reversed(CASES):
                counts: Counter[str] = Counter()
                async with CASES[name](entries, counts):
                    await asyncio.sleep(PARTED_AFTER)
                    counts.clear()
                    began, before = time.perf_counter(), time.process_time()
                    await asyncio.sleep(seconds)
                    took = time.perf_counter() - began
                    used[name].append((time.process_time() - before) / took * 100)
                    rate = counts.total() / took
                check(0.9 < rate / BACKENDS < 1.1, f"{name}: {BACKENDS} checks a second: {rate}")
                check(len(counts) == BACKENDS, f"{name}: every backend is checked")
                rates[name].append(rate)
    return used, rates


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[int]:
    """Yield the port of a server in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.checks_server", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.terminate()
        await process.wait()


def backends(port: int) -> list[Backend]:
    return [Backend(f"127.0.{n >> 8}.{n & 255}:{port}") for n in range(1, BACKENDS + 1)]


if __name__ == "__main__":
    main()
