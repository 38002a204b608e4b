"""What a read costs, beside a plain method and beside a lock with a list copy.

``python -m benchmarks.reads [--quick]``
"""

from __future__ import annotations

import threading
import time
import timeit
from collections.abc import Callable, Sequence
from typing import Final

from backendpool_async import BackendPool
from benchmarks.report import Report, check, is_quick

SIZES: Final = (3, 100, 10_000, 100_000)
# Each statement is written so many times into the timed loop, which itself costs as much as a
# third of a read.
UNROLLED: Final = 50
THREADS: Final = 8
WRITE_EVERY: Final = 0.001


class Slotted:
    """The least that a method returning what an object holds can cost."""

    __slots__ = ("_held",)

    def __init__(self, held: object) -> None:
        self._held = held

    def backends(self) -> object:
        return self._held


class Empty:
    """The least that a method can cost."""

    __slots__ = ()

    def backends(self) -> None:
        pass


class LockAndCopy:
    """The design of the original: a lock around the list, and a copy for every reader."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._list = list(entries)

    def backends(self) -> list[str]:
        with self._lock:
            return self._list.copy()

    def update(self, entries: Sequence[str]) -> None:
        fresh = list(entries)
        with self._lock:
            self._list = fresh


def main() -> None:
    quick = is_quick(__doc__)
    report = Report("reads: BackendPool.backends()", quick=quick)
    for size in SIZES:
        one_thread(report, size, rounds=15 if quick else 61)
    for size in (3, 10_000):
        many_threads(report, size, rounds=3 if quick else 9)
    report.end()


def one_thread(report: Report, size: int, rounds: int) -> None:
    entries = addresses(size)
    pool, original = BackendPool.static(entries), LockAndCopy(entries)
    slotted = Slotted(pool.backends())
    check(list(pool.backends()) == original.backends() == entries, "both return the list")
    check(pool.backends() is slotted.backends(), "a read makes nothing new")

    # One copy of a long list takes as long as thousands of reads: fewer calls are timed.
    slow = max(1, 2_000 // size)
    timed = {
        "ours": nanoseconds(pool, calls := 400),
        "slotted": nanoseconds(slotted, calls),
        "empty": nanoseconds(Empty(), calls),
        "original": nanoseconds(original, slow),
    }
    samples = interleaved(timed, rounds)
    report.section(f"{size:,} backends, one thread")
    report.figure("backends()", samples["ours"], "ns")
    report.figure("a slotted class's method that returns an attribute", samples["slotted"], "ns")
    report.figure("an empty method", samples["empty"], "ns")
    report.figure("lock and list copy, as the original", samples["original"], "ns")
    report.ratio("of the slotted method", samples["ours"], samples["slotted"], at_most=1.1)
    report.ratio("of the empty method", samples["ours"], samples["empty"], at_most=1.3)
    least = {3: 7.0, 10_000: 500.0}.get(size)
    report.ratio("faster than the original", samples["original"], samples["ours"], at_least=least)


def many_threads(report: Report, size: int, rounds: int) -> None:
    old, new = addresses(size), addresses(size)[::-1]
    pool, original = BackendPool.static(old), LockAndCopy(old)
    for held in (pool, original):
        whole_lists_only(held, old, new)
    rates: dict[str, list[float]] = {"ours": [], "original": []}
    for number in range(rounds):
        for name in sorted(rates, reverse=number % 2 == 1):
            held = pool if name == "ours" else original
            rates[name].append(reads_per_second(held, old, new, seconds=0.5))
    report.section(f"{size:,} backends, {THREADS} reading threads and a writer every millisecond")
    report.figure("backends(), all threads", [rate / 1e3 for rate in rates["ours"]], "k/s")
    report.figure("lock and list copy", [rate / 1e3 for rate in rates["original"]], "k/s")
    least = 50.0 if size == 3 else None
    report.ratio("as many reads", rates["ours"], rates["original"], at_least=least)


def nanoseconds(held: object, calls: int) -> Callable[[], float]:
    # Compiled apart for each: one call site for all would stay unspecialised for every one.
    timer = timeit.Timer("\n".join(["held.backends()"] * UNROLLED), globals={"held": held})
    return lambda: timer.timeit(calls) / calls / UNROLLED * 1e9


def interleaved(timed: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in timed}
    names = list(timed)
    for name in names:
        timed[name]()
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            samples[name].append(timed[name]())
    return samples


def reads_per_second(
    held: BackendPool | LockAndCopy, old: list[str], new: list[str], seconds: float
) -> float:
    stop = threading.Event()
    counts: list[int] = []

    def read() -> None:
        count = 0
        while not stop.is_set():
            for _ in range(100):
                held.backends()
            count += 100
        counts.append(count)

    threads = [threading.Thread(target=read) for _ in range(THREADS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    write(held, old, new, until=began + seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def whole_lists_only(held: BackendPool | LockAndCopy, old: list[str], new: list[str]) -> None:
    stop = threading.Event()
    torn: list[object] = []

    def read() -> None:
        while not stop.is_set():
            seen = list(held.backends())
            if seen not in (old, new):
                torn.append(seen)

    threads = [threading.Thread(target=read) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    write(held, old, new, until=time.perf_counter() + 0.1)
    stop.set()
    for thread in threads:
        thread.join()
    check(not torn, "readers see whole lists only")


def write(held: BackendPool | LockAndCopy, old: list[str], new: list[str], until: float) -> None:
    while time.perf_counter() < until:
        for entries in (old, new):
            held.update(entries)
            time.sleep(WRITE_EVERY)


def addresses(size: int) -> list[str]:
    return [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:8080" for n in range(size)]


if __name__ == "__main__":
    main()
