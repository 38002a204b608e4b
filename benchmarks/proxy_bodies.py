"""What one large body costs a proxy in memory, in either direction."""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.proxy_servers import CONTESTANTS, OURS, OURS_AIOHTTP, running
from benchmarks.report import Report, check

_PIECE: Final = b"x" * 65_536
_AT_MOST: Final = 20.0


def print_bodies(report: Report, cores: Sequence[int], size: int) -> None:
    """Send one body down and one up, and print how far the memory of the proxy rises at most."""
    report.section(f"memory for one body of {size // 2**20:,} MiB")
    with running(
        lambda _, port: [sys.executable, "-m", "benchmarks.proxy_apps", "bodies", str(port), "0"],
        cores[0],
        "/ready",
    ) as (backend, _):
        for contestant in CONTESTANTS:
            if contestant.name not in (OURS, OURS_AIOHTTP):
                continue
            with running(contestant.before([backend]), cores[-1], "/ready") as (port, process):
                for way, transfer in (("down", _down), ("up", _up)):
                    before = most_resident(process)
                    began = time.perf_counter()
                    transfer(port, size)
                    took = time.perf_counter() - began
                    report.figure(f"{contestant.name}: {way}", [size / 2**20 / took], "MiB/s")
                    report.judge(
                        f"{contestant.name}: {way}, growth of memory",
                        [most_resident(process) - before],
                        "MiB",
                        at_most=_AT_MOST,
                    )


def most_resident(process: int) -> float:
    """Return how much memory a process has had at most, in MiB."""
    with open(f"/proc/{process}/status", encoding="ascii") as lines:
        (kibibytes,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kibibytes) / 1024


def _down(port: int, size: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", f"/{size}")
    answer = connection.getresponse()
    read = 0
    while piece := answer.read(len(_PIECE)):
        read += len(piece)
    connection.close()
    check(read == size, "the whole body came through")


def _up(port: int, size: int) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(size // len(_PIECE)):
            yield _PIECE

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("PUT", "/", pieces(), {"Content-Length": str(size)})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    check(answer.status == 200, "the whole body arrived")
