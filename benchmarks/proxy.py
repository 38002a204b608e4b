"""Requests a second through one proxy process on its own core, beside other proxies: ``wrk``.

wrk (64 connections) and the backends (nginx, 1 KiB) have the other core. Run it on a machine with
two cores or more and nothing else to do: ``python -m benchmarks.proxy``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.knot import free_port
from benchmarks.proxies import found
from benchmarks.proxy_bodies import print_bodies
from benchmarks.proxy_servers import (
    ASGIPROXY,
    CONTESTANTS,
    FASTAPI_PROXY_LIB,
    OURS,
    OURS_AIOHTTP,
    THINNEST,
    Contestant,
    asked,
    nginx_backends,
    running,
)
from benchmarks.report import Report, check, is_quick

_BODY = "x" * 1024
_BACKENDS = 3
_CONNECTIONS = 64
_STREAMS = 1000


class Round(NamedTuple):
    """What wrk saw of one proxy: times in milliseconds."""

    rate: float
    p50: float
    p99: float


def main() -> None:
    """Measure, and print the figures beside their targets."""
    quick = is_quick(__doc__)
    rounds, seconds = (3, 1) if quick else (7, 4)
    report = Report("A proxy in one process on its own core", quick=quick)
    cores = sorted(os.sched_getaffinity(0))
    missing = [name for name in ("wrk", "nginx") if found(name) is None]
    if missing or len(cores) < 2:
        report.note(f"not measured: {' and '.join(missing) or 'a second core'} is missing")
        return
    contestants = []
    for contestant in CONTESTANTS:
        if contestant.is_there:
            contestants.append(contestant)
        else:
            report.note(f"{contestant.name} is not installed, and left out")
    ports = [free_port() for _ in range(_BACKENDS)]
    with running(
        lambda directory, port: nginx_backends(directory, [port, *ports], _BODY), cores[0]
    ):
        measured = _measured(contestants, ports, cores, rounds, seconds)
    _print(report, measured)
    _print_memory(report, cores)
    print_bodies(report, cores, 2**26 if quick else 2**30)
    report.end()


def _measured(
    contestants: Sequence[Contestant],
    ports: Sequence[int],
    cores: Sequence[int],
    rounds: int,
    seconds: int,
) -> dict[str, list[Round]]:
    with contextlib.ExitStack() as stack:
        where = {}
        for each in contestants:
            where[each.name], _ = stack.enter_context(running(each.before(ports), cores[-1]))
        for name, port in where.items():
            right = asked(port) == (200, _BODY.encode())
            check(right, f"{name} brings the backend's answer")
            _wrk(port, cores[0], 1)
        measured: dict[str, list[Round]] = {name: [] for name in where}
        for _ in range(rounds):
            for name, port in where.items():
                measured[name].append(_wrk(port, cores[0], seconds))
    return measured


def _wrk(port: int, core: int, seconds: int) -> Round:
    command = ["taskset", "-c", str(core), found("wrk") or "wrk", "-t1", f"-c{_CONNECTIONS}"]
    said = subprocess.run(
        [*command, f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/"],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 30,
    ).stdout
    check("Non-2xx" not in said, f"every answer is a 200: {said}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    times = dict(re.findall(r"^\s+(50|99)%\s+(\S+)", said, re.MULTILINE))
    if rate is None or len(times) != 2:
        raise RuntimeError(f"wrk said {said!r}")
    return Round(float(rate[1]), _milliseconds(times["50"]), _milliseconds(times["99"]))


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # type: ignore[union-attr]  # wrk's form
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}[unit]


def _print(report: Report, measured: dict[str, list[Round]]) -> None:
    report.section(f"{_CONNECTIONS} connections, {_BACKENDS} backends, 1 KiB")
    for name, rounds in measured.items():
        report.figure(name, [each.rate for each in rounds], "/s")
    report.section("how long half of the requests take at most, and 99 %")
    for name, rounds in measured.items():
        report.figure(f"{name}: p50", [each.p50 for each in rounds], "ms")
        report.figure(f"{name}: p99", [each.p99 for each in rounds], "ms")
    report.section("ours, times another's requests a second")
    for ours in (OURS, OURS_AIOHTTP):
        for theirs, at_least in ((THINNEST, 0.9), (ASGIPROXY, 1.0), (FASTAPI_PROXY_LIB, 20.0)):
            if theirs in measured:
                report.ratio(
                    f"{ours} / {theirs}",
                    [each.rate for each in measured[ours]],
                    [each.rate for each in measured[theirs]],
                    at_least=at_least if ours == OURS else None,
                )
    if OURS in measured and OURS_AIOHTTP in measured:
        report.ratio(
            f"{OURS} / {OURS_AIOHTTP}",
            [each.rate for each in measured[OURS]],
            [each.rate for each in measured[OURS_AIOHTTP]],
        )


def _print_memory(report: Report, cores: Sequence[int]) -> None:
    report.section(f"memory with {_STREAMS:,} answers that stream at once")
    with running(
        lambda _, port: [sys.executable, "-m", "benchmarks.proxy_apps", "streams", str(port), "0"],
        cores[0],
        "/ready",
    ) as (backend, _):
        for contestant in CONTESTANTS:
            if contestant.name not in (OURS, OURS_AIOHTTP, THINNEST):
                continue
            with running(contestant.before([backend]), cores[-1], "/ready") as (port, process):
                before = _resident(process)
                report.figure(f"{contestant.name}: before", [before], "MiB")
                most = asyncio.run(_most_with_streams(port, process))
                report.figure(
                    f"{contestant.name}: for each stream",
                    [(most - before) * 1024 / _STREAMS],
                    "KiB",
                )


async def _most_with_streams(port: int, process: int) -> float:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(_STREAMS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            writer.write(b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n")
            await reader.readuntil(b"x" * 100)
        await asyncio.sleep(2)
        return _resident(process)


def _resident(process: int) -> float:
    """Return how much memory a process has, in MiB."""
    with open(f"/proc/{process}/status", encoding="ascii") as lines:
        (kibibytes,) = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(kibibytes) / 1024


if __name__ == "__main__":
    main()
