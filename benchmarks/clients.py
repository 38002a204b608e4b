"""CPU time of a client's request: httpx, httpx2 and aiohttp, by themselves and over a live list.

``python -m benchmarks.clients [--quick]``
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from time import process_time
from types import ModuleType
from typing import Any, Final

import aiohttp
import httpx
import httpx2
import yarl

from backendpool_async import BackendPool, Balancer
from backendpool_async.aiohttp import BackendConnector, backend_middleware
from backendpool_async.errors import counted
from backendpool_async.httpx import BackendTransport
from benchmarks.clients_server import BODY
from benchmarks.report import Report, check, is_quick

Ask = Callable[[], Awaitable[bytes]]

BACKENDS: Final = 8
# Microseconds of CPU time that one sample takes at least.
SAMPLE: Final = 80_000
# What is measured, what it is measured beside, and at most how many times that it may cost with
# so many requests in flight.
PAIRS: Final = (
    ("httpx and BackendTransport", "httpx", {1: 1.1, 64: 0.2}),
    ("httpx2 and BackendTransport", "httpx2", {1: 1.1, 64: None}),
    ("aiohttp and backend_middleware", "aiohttp", {1: 1.08, 64: 1.08}),
    ("aiohttp, BackendConnector and backend_middleware", "aiohttp", {1: 1.08, 64: 1.08}),
)


async def main() -> None:
    quick = is_quick(__doc__)
    report = Report("clients: CPU time of a request in the client's process", quick=quick)
    with backends() as addresses:
        for known, in_flight in ((1, 1), (BACKENDS, 1), (BACKENDS, 64)):
            async with clients(addresses[:known]) as asking:
                await check_answers(asking)
                report.section(f"{in_flight} in flight, {counted(known)}, 1 KiB answers")
                samples = await interleaved(asking, in_flight, rounds=7 if quick else 31)
                show(report, samples, in_flight)
    report.end()


def show(report: Report, samples: dict[str, list[float]], in_flight: int) -> None:
    for name, times in samples.items():
        report.figure(name, times, "us")
    for name, beside, most in PAIRS:
        report.ratio(
            f"{name}: of {beside}", samples[name], samples[beside], at_most=most[in_flight]
        )


async def interleaved(
    asking: dict[str, Ask], in_flight: int, rounds: int
) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in asking}
    requests = {}
    for name, ask in asking.items():
        # Connections are opened outside of what is measured.
        await microseconds(ask, in_flight, 4 * in_flight)
        once = await microseconds(ask, in_flight, 4 * in_flight)
        requests[name] = max(4 * in_flight, int(SAMPLE / once))
    names = list(asking)
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            samples[name].append(await microseconds(asking[name], in_flight, requests[name]))
    return samples


async def microseconds(ask: Ask, in_flight: int, requests: int) -> float:
    """Return the CPU time of one request, of so many, so many at once."""
    left = iter(range(requests))

    async def worker() -> None:
        for _ in left:
            await ask()

    gc.collect()
    gc.disable()
    try:
        began = process_time()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return (process_time() - began) / requests * 1e6
    finally:
        gc.enable()


@contextlib.asynccontextmanager
async def clients(addresses: list[str]) -> AsyncIterator[dict[str, Ask]]:
    """Every client, ready to ask one backend after the other."""
    balancer = Balancer(BackendPool.static(addresses))
    async with contextlib.AsyncExitStack() as stack:
        asking: dict[str, Ask] = {}
        for library in (httpx, httpx2):
            plain, over_balancer = httpx_clients(library, balancer)
            urls = itertools.cycle([library.URL(f"http://{each}/users") for each in addresses])
            logical = itertools.repeat(library.URL("http://api/users"))
            asking[library.__name__] = httpx_asking(await stack.enter_async_context(plain), urls)
            asking[f"{library.__name__} and BackendTransport"] = httpx_asking(
                await stack.enter_async_context(over_balancer), logical
            )
        over = (backend_middleware(balancer, host="api"),)
        sessions = {
            "aiohttp": (aiohttp.TCPConnector(limit=0), (), addresses),
            "aiohttp and backend_middleware": (aiohttp.TCPConnector(limit=0), over, ["api"]),
            "aiohttp, BackendConnector and backend_middleware": (
                BackendConnector(balancer, limit=0),
                over,
                ["api"],
            ),
        }
        for name, (connector, used, hosts) in sessions.items():
            session = aiohttp.ClientSession(connector=connector, middlewares=used)
            await stack.enter_async_context(session)
            asking[name] = aiohttp_asking(session, distinct(hosts))
        yield asking


def httpx_clients(library: ModuleType, balancer: Balancer) -> tuple[Any, Any]:
    """The two clients of either library, which are not of the same type."""
    limits = library.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=None
    )
    over = BackendTransport(balancer, limits=limits, verify=False)
    return library.AsyncClient(limits=limits, verify=False), library.AsyncClient(transport=over)


def httpx_asking(client: httpx.AsyncClient, urls: Iterator[httpx.URL]) -> Ask:
    async def ask() -> bytes:
        return (await client.get(next(urls))).content

    return ask


def aiohttp_asking(session: aiohttp.ClientSession, urls: Iterator[yarl.URL]) -> Ask:
    async def ask() -> bytes:
        async with session.get(next(urls)) as response:
            return await response.read()

    return ask


def distinct(hosts: list[str]) -> Iterator[yarl.URL]:
    """URLs none of which is asked for twice: what is kept of a URL is of no use to the next one."""
    for number, host in enumerate(itertools.cycle(hosts)):
        yield yarl.URL(f"http://{host}/users?page={number}", encoded=True)


async def check_answers(asking: dict[str, Ask]) -> None:
    for name, ask in asking.items():
        answers = await asyncio.gather(*(ask() for _ in range(BACKENDS)))
        check(answers == [BODY] * BACKENDS, f"{name} gets the answers")


@contextlib.contextmanager
def backends() -> Iterator[list[str]]:
    """Run the backends in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.clients_server", str(BACKENDS)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield [f"127.0.0.1:{int(process.stdout.readline())}" for _ in range(BACKENDS)]
        finally:
            process.stdin.close()
            process.wait()


if __name__ == "__main__":
    asyncio.run(main())
