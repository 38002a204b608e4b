"""What a refresh from DNS costs: against a real knot on loopback, near and 50 ms away.

``python -m benchmarks.dns [--quick]``
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import aiodns
import dns.asyncresolver
import dns.nameserver

from backendpool_async import BackendPool
from benchmarks.knot import Knot, knot
from benchmarks.loop_gaps import LoopGaps
from benchmarks.report import Report, check, is_quick
from benchmarks.slow_upstream import slow_upstream

AT_ONCE: Final = 200
POOLS: Final = 1_000
DELAY: Final = 0.05
# Refreshes are asked for here; nothing is to happen by itself.
NEVER: Final = 3600.0

Ask = Callable[[int], Awaitable[object]]
Clients = dict[str, Ask]
Samples = dict[str, list[float]]

# No time to live: c-ares caches what has one, and a benchmark of its cache says nothing of DNS.
RECORDS: Final = {
    f"api-{n}": [f"10.{n >> 8}.{n & 255}.{host}" for host in (1, 2, 3)] for n in range(POOLS)
}


def main() -> None:
    quick = is_quick(__doc__)
    report = Report("dns: refreshes of an A record with three addresses, TTL 0", quick=quick)
    report.note(
        "getaddrinfo can only ask the system's resolver, so it looks up localhost, which is in"
        " the hosts file: threads and glibc, no DNS at all"
    )
    with knot(RECORDS, ttl=0) as server:
        asyncio.run(near(report, server, rounds=5 if quick else 25))
        with slow_upstream(server.port, DELAY) as nameserver:
            asyncio.run(far(report, nameserver, rounds=3 if quick else 11))
        asyncio.run(footprint(report, server))
    report.end()


async def near(report: Report, server: Knot, rounds: int) -> None:
    async with clients(server.nameserver) as ready:
        one = await interleaved(ready, rounds, lambda ask: in_turn(ask, 100))
        many = await interleaved(ready, rounds, all_at_once)
        gaps = await interleaved(ready, rounds, gap_of_all_at_once)
    report.section("knot on loopback, one at a time")
    rates(report, one)
    report.ratio("of bare aiodns, one at a time", one["ours"], one["aiodns"], at_least=0.8)
    report.section(f"knot on loopback, {AT_ONCE} at once")
    rates(report, many)
    report.ratio(f"of bare aiodns, {AT_ONCE} at once", many["ours"], many["aiodns"], at_least=0.8)
    report.section(f"longest gap of the event loop, {AT_ONCE} at once")
    for name, samples in gaps.items():
        report.figure(name, samples, "ms")
    report.judge("ours", gaps["ours"], "ms", at_most=10)


async def far(report: Report, nameserver: str, rounds: int) -> None:
    async with clients(nameserver) as ready:
        del ready["getaddrinfo"]
        one = await interleaved(ready, rounds, lambda ask: in_turn(ask, 5))
        many = await interleaved(ready, rounds, all_at_once)
        gaps = await interleaved(ready, rounds, gap_of_all_at_once)
    report.section(f"the same behind a relay that is {DELAY * 1e3:.0f} ms away")
    for name in one:
        report.figure(f"{name}: one lookup", [1e3 / rate for rate in one[name]], "ms")
    report.ratio("of bare aiodns, one at a time", one["ours"], one["aiodns"], at_least=0.8)
    for name in many:
        took = [AT_ONCE * 1e3 / rate for rate in many[name]]
        report.figure(f"{name}: {AT_ONCE} at once, all of them", took, "ms")
    report.ratio(f"of bare aiodns, {AT_ONCE} at once", many["ours"], many["aiodns"], at_least=0.8)
    for name, samples in gaps.items():
        report.figure(f"{name}: longest gap of the event loop", samples, "ms")
    report.judge("ours: longest gap", gaps["ours"], "ms", at_most=10)


async def footprint(report: Report, server: Knot) -> None:
    pools = [pool_of(n, server.nameserver) for n in range(POOLS)]
    idle = usage()
    async with pools[0]:
        one = usage()
        most = dict(one)
        async with contextlib.AsyncExitStack() as stack:
            sampler = stack.enter_context(sampled(most))
            began = time.perf_counter()
            await asyncio.gather(*(stack.enter_async_context(pool) for pool in pools[1:]))
            start = seconds_since(began)
            check(all(right(n, pool) for n, pool in enumerate(pools)), "every pool has its list")
            await asyncio.gather(*(pool.refresh() for pool in pools))
            sampler.cancel()
    closing = await seconds_until_released(idle["descriptors"])
    report.section(f"{POOLS:,} DNS pools: the most at any moment, more than one pool")
    limits = {"threads": 4, "descriptors": 20, "inotify instances": 1}
    for what, limit in limits.items():
        report.judge(what, [most[what] - one[what]], "", at_most=limit)
    report.figure("start all at once", [start * 1e3], "ms")
    report.figure("from closed to the last descriptor gone", [closing * 1e3], "ms")


async def seconds_until_released(descriptors: int) -> float:
    """Return how long after the close it takes: c-ares takes a channel down in its own thread."""
    began = time.perf_counter()
    for _ in range(1_000):
        if usage()["descriptors"] <= descriptors:
            return seconds_since(began)
        await asyncio.sleep(0.005)
    raise AssertionError(f"closing them leaves descriptors: {usage()}, {descriptors} before")


@contextlib.asynccontextmanager
async def clients(nameserver: str) -> AsyncIterator[Clients]:
    """Yield what can ask for the addresses of the n-th name, each seen to do so."""
    address, _, port = nameserver.partition(":")
    loop = asyncio.get_running_loop()
    plain = dns.asyncresolver.Resolver(configure=False)
    plain.nameservers = [dns.nameserver.Do53Nameserver(address, int(port))]
    async with contextlib.AsyncExitStack() as stack:
        warm = await stack.enter_async_context(aiodns.DNSResolver(nameservers=[nameserver]))
        pools = [pool_of(n, nameserver) for n in range(AT_ONCE)]
        for n, pool in enumerate(pools):
            await stack.enter_async_context(pool)
            check(right(n, pool), "the pool has the addresses")
        for n in range(AT_ONCE):
            bare = await warm.query_dns(Knot.name(f"api-{n}"), "A")
            check(len(bare.answer) == 3, "aiodns is answered")
        resolved = await plain.resolve(Knot.name("api-7"), "A")
        check(sorted(map(str, resolved)) == RECORDS["api-7"], "dnspython is answered")
        yield {
            "ours": lambda n: pools[n].refresh(),
            "aiodns": lambda n: warm.query_dns(Knot.name(f"api-{n}"), "A"),
            "dnspython": lambda n: plain.resolve(Knot.name(f"api-{n}"), "A"),
            "getaddrinfo": lambda _: loop.getaddrinfo("localhost", 80, family=socket.AF_INET),
        }


async def interleaved(
    ready: Clients, rounds: int, measure: Callable[[Ask], Awaitable[float]]
) -> Samples:
    samples: Samples = defaultdict(list)
    for number in range(rounds + 1):
        if number == 1:
            # The first round warmed sockets and threads up.
            samples.clear()
        for name in ready if number % 2 else reversed(ready):
            samples[name].append(await measure(ready[name]))
    return {name: samples[name] for name in ready}


async def in_turn(ask: Ask, lookups: int) -> float:
    """Return lookups a second, one after the other."""
    began = time.perf_counter()
    for n in range(lookups):
        await ask(n)
    return lookups / (time.perf_counter() - began)


async def all_at_once(ask: Ask) -> float:
    """Return lookups a second, begun together."""
    began = time.perf_counter()
    await asyncio.gather(*map(ask, range(AT_ONCE)))
    return AT_ONCE / (time.perf_counter() - began)


async def gap_of_all_at_once(ask: Ask) -> float:
    async with LoopGaps() as gaps:
        await asyncio.gather(*map(ask, range(AT_ONCE)))
    return gaps.longest


def rates(report: Report, samples: Samples) -> None:
    for name, rate in samples.items():
        report.figure(name, rate, "/s")


def pool_of(n: int, nameserver: str) -> BackendPool:
    return BackendPool.dns(
        Knot.name(f"api-{n}"), 8080, nameservers=[nameserver], min_ttl=NEVER, poll_interval=NEVER
    )


def right(n: int, pool: BackendPool) -> bool:
    return [backend.host for backend in pool.backends()] == RECORDS[f"api-{n}"]


@contextlib.contextmanager
def sampled(most: dict[str, int]) -> Iterator[asyncio.Task[None]]:
    """Keep the most of each count up to date while the block runs."""

    async def sample() -> None:
        while True:
            for what, count in usage().items():
                most[what] = max(most[what], count)
            await asyncio.sleep(0.005)

    task = asyncio.get_running_loop().create_task(sample())
    try:
        yield task
    finally:
        task.cancel()


def seconds_since(moment: float) -> float:
    return time.perf_counter() - moment


def usage() -> dict[str, int]:
    """Return what this process occupies of the system."""
    targets = []
    for descriptor in os.listdir("/proc/self/fd"):
        # The one that lists the directory is gone already.
        with contextlib.suppress(OSError):
            targets.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(targets),
        "inotify instances": targets.count("anon_inode:inotify"),
    }


if __name__ == "__main__":
    main()
