"""How long a change takes until a pool shows it, beside stat every second and three proxies.

``python -m benchmarks.propagation [--quick]``
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import asyncinotify

from backendpool_async import BackendPool
from benchmarks.http_answers import answering, ask
from benchmarks.knot import Knot, knot
from benchmarks.proxies import PROXIES, Proxy, found, running
from benchmarks.report import Report, check, is_quick, percentile

Write = Callable[[str, list[str]], None]

# Pools that follow names of their own: each change is seen by all, each at a moment of its own.
NAMES: Final = 25
TTL: Final = 1


def main() -> None:
    quick = is_quick(__doc__)
    report = Report("propagation: from a change to the list that shows it", quick=quick)
    asyncio.run(files(report, changes=40 if quick else 200, polled=5 if quick else 20))
    with knot({f"api-{n}": ["10.0.0.1"] for n in range(NAMES)}, ttl=TTL) as server:
        asyncio.run(names(report, server, changes=2 if quick else 8))
    asyncio.run(requests(report, changes=5 if quick else 20))
    report.end()


async def files(report: Report, changes: int, polled: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path, other = (os.path.join(directory, sub, "list") for sub in ("watched", "polled"))
        for each in (path, other):
            os.mkdir(os.path.dirname(each))
            rename(each, backends_of(0))
        delays: dict[str, list[float]] = {"rename": [], "in place": []}
        moments: list[float] = []
        told: list[float] = []
        async with (
            BackendPool.file(path, watch=True) as pool,
            bare_inotify(path, told),
            asyncio.TaskGroup() as tasks,
        ):
            # On its own file, which changes more rarely: it would miss most of these changes.
            polling = tasks.create_task(seen_by_stat(other, polled))
            for number in range(1, changes + 1):
                kind, write = (("rename", rename), ("in place", in_place))[number % 2]
                began, seen = await seen_by_pool(pool, path, write, backends_of(number))
                delays[kind].append(seen - began)
                moments.append(began)
                # No more than the ten changes a second that a pool follows at once.
                await asyncio.sleep(random.uniform(0.11, 0.15))
    report.section("a watched file of 100 lines, changed by")
    for kind, samples in delays.items():
        in_milliseconds = [delay * 1e3 for delay in samples]
        report.figure(f"{kind}: seen by the pool", in_milliseconds, "ms")
        report.judge(f"{kind}: p50", [percentile(in_milliseconds, 50)], "ms", at_most=5)
        report.judge(f"{kind}: p99", [percentile(in_milliseconds, 99)], "ms", at_most=10)
    check(len(told) == changes, "the kernel tells once of each change")
    kernel = [(event - began) * 1e3 for began, event in zip(moments, told, strict=True)]
    report.figure("the kernel's event in a task, nothing read", kernel, "ms")
    report.figure("p99 of that: the machine's own share", [percentile(kernel, 99)], "ms")
    by_stat = [delay * 1e3 for delay in polling.result()]
    report.figure("rename: seen by stat every second", by_stat, "ms")


@contextlib.asynccontextmanager
async def bare_inotify(path: str, told: list[float]) -> AsyncIterator[None]:
    """Note when the kernel tells of a change, which is the earliest that anybody can know it."""

    async def listen(events: asyncinotify.Inotify) -> None:
        async for event in events:
            if str(event.name) == os.path.basename(path):
                told.append(time.perf_counter())  # noqa: PERF401 - read while it grows

    with asyncinotify.Inotify() as events:
        kinds = asyncinotify.Mask.CLOSE_WRITE | asyncinotify.Mask.MOVED_TO
        events.add_watch(os.path.dirname(path), kinds)
        listening = asyncio.create_task(listen(events))
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.wait({listening})


async def seen_by_pool(
    pool: BackendPool, path: str, write: Write, lines: list[str]
) -> tuple[float, float]:
    """Return when the change was made, and when a task that follows the pool saw it."""
    watch = pool.watch()
    await anext(watch)
    seen = asyncio.create_task(anext_of(watch))
    # It has to wait already when the change comes.
    await asyncio.sleep(0.005)
    began = time.perf_counter()
    write(path, lines)
    async with asyncio.timeout(10):
        at = await seen
    check(list(pool.backends()) == lines, "the pool shows the change, whole")
    return began, at


async def anext_of(watch: AsyncIterator[object]) -> float:
    await anext(watch)
    return time.perf_counter()


async def seen_by_stat(path: str, changes: int) -> list[float]:
    """Return the delays of the usual way: the time of modification, asked for every second."""
    delays = []
    for number in range(1, changes + 1):
        before = os.stat(path).st_mtime_ns
        # The change comes at any moment between two looks.
        began = time.perf_counter() + random.uniform(0, 1)
        changer = asyncio.get_running_loop().call_at(
            asyncio.get_running_loop().time() + began - time.perf_counter(),
            rename,
            path,
            backends_of(number),
        )
        while True:
            await asyncio.sleep(1)
            if os.stat(path).st_mtime_ns != before:
                break
        check(lines_of(path) == backends_of(number), "polling shows the change")
        delays.append(time.perf_counter() - began)
        changer.cancel()
    return delays


async def names(report: Report, server: Knot, changes: int) -> None:
    lateness: list[float] = []
    after_change: list[float] = []
    pools = [
        BackendPool.dns(server.name(f"api-{n}"), 8080, nameservers=[server.nameserver], min_ttl=0.1)
        for n in range(NAMES)
    ]
    async with contextlib.AsyncExitStack() as stack:
        for pool in pools:
            await stack.enter_async_context(pool)
        for number in range(2, changes + 2):
            # Their moments part, and the change falls anywhere between them.
            await asyncio.sleep(random.uniform(1.5, 2.5))
            new = f"10.0.0.{number}"
            watching = [asyncio.create_task(seen_by_name(pool, new)) for pool in pools]
            records = {f"api-{n}": [new] for n in range(NAMES)}
            await asyncio.to_thread(server.set, records, ttl=TTL)
            changed = time.monotonic()
            for seen, old_answer in await asyncio.gather(*watching):
                lateness.append((seen - (old_answer + TTL)) * 1e3)
                after_change.append((seen - changed) * 1e3)
    report.section(f"a DNS name with a TTL of {TTL} s, {NAMES} pools")
    report.figure("seen after the old answer's TTL", lateness, "ms")
    report.figure("seen after the change", after_change, "ms")
    report.figure("p99 after the old answer's TTL", [percentile(lateness, 99)], "ms")
    check(min(lateness) > -50, "no answer is replaced before its time to live has passed")


async def seen_by_name(pool: BackendPool, new: str) -> tuple[float, float]:
    """Return when the change was seen, and when the last answer without it came."""
    old_answer = 0.0
    async with asyncio.timeout(30):
        while (snapshot := pool.snapshot).backends[0].host != new:
            old_answer = snapshot.refreshed_at or 0.0
            await asyncio.sleep(0.002)
    return snapshot.refreshed_at or 0.0, old_answer


async def requests(report: Report, changes: int) -> None:
    report.section("until a request lands on the new backend")
    async with answering() as first, answering() as second:
        await requests_by_pool(report, (first, second), changes)
        for kind in PROXIES:
            label = f"{kind.__name__}: {kind.means}"
            if found(kind.binary) is None:
                report.note(f"{label}: skipped, {kind.binary} is not installed")
                continue
            with running(kind, first) as proxy:
                await proxy.ready()
                report.figure(label, await requests_by_proxy(proxy, (first, second), changes), "ms")


async def requests_by_pool(report: Report, backends: tuple[int, int], changes: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "list")
        rename(path, [f"127.0.0.1:{backends[0]}"])
        async with BackendPool.file(path, watch=True) as pool:

            async def change(backend: int) -> None:
                rename(path, [f"127.0.0.1:{backend}"])

            delays = [
                await landed(change, lambda: ask(pool.backends()[0].port), backend)
                for backend in alternating(backends, changes)
            ]
    report.figure("a pool, its file watched", delays, "ms")


async def requests_by_proxy(proxy: Proxy, backends: tuple[int, int], changes: int) -> list[float]:
    check(await ask(proxy.port) == backends[0], "the proxy passes requests on")
    return [
        await landed(proxy.change, lambda: ask(proxy.port), backend)
        for backend in alternating(backends, changes)
    ]


async def landed(
    change: Callable[[int], Awaitable[None]],
    request: Callable[[], Awaitable[int | None]],
    backend: int,
) -> float:
    """Return the milliseconds from a change to the end of the first request that shows it."""
    # Long enough for a reload to be over in every way, so that the next one is not put off.
    await asyncio.sleep(random.uniform(0.2, 0.3))
    began = time.perf_counter()
    await change(backend)
    async with asyncio.timeout(15):
        while True:
            # Between the old listener and the new one a request may find neither.
            with contextlib.suppress(OSError):
                if await request() == backend:
                    return (time.perf_counter() - began) * 1e3


def alternating(backends: tuple[int, int], changes: int) -> list[int]:
    return [backends[(number + 1) % 2] for number in range(changes)]


def rename(path: str, lines: list[str]) -> None:
    in_place(f"{path}.new", lines)
    os.replace(f"{path}.new", path)


def in_place(path: str, lines: list[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def lines_of(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return file.read().split()


def backends_of(number: int) -> list[str]:
    return [f"10.{number >> 8}.{number & 255}.{n}:8080" for n in range(100)]


if __name__ == "__main__":
    main()
