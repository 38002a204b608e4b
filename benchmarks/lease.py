"""What a whole lease costs beside an empty ``async with``, and what is remembered of a backend.

``python -m benchmarks.lease [--quick]``
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable, Coroutine
from textwrap import indent
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Self

from backendpool_async import BackendPool, Balancer, Failure, LeastRequest, PeakEwma, RoundRobin
from backendpool_async import Random as RandomPolicy
from backendpool_async.balance.policy import Policy
from backendpool_async.errors import describe
from benchmarks.report import Report, check, is_quick

# Each statement is written so many times into the timed loop.
UNROLLED: Final = 100
BACKENDS: Final = 100
REMEMBERED: Final = 10_000
POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    "RoundRobin": RoundRobin,
    "Random": RandomPolicy,
    "LeastRequest": LeastRequest,
    "PeakEwma": PeakEwma,
}
EMPTY: Final = "async with of an empty class"
# Deciding and counting: what `Lease` does between entering and leaving, but for reporting.
CORE: Final = "one = held._next()\none._leases.append(None)\none._leases.pop()"
AT_MOST: Final = 2.0


class Empty:
    """The least that an ``async with`` can cost: its two methods do nothing."""

    __slots__ = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


def main() -> None:
    quick = is_quick(__doc__)
    report = Report("lease: async with balancer.lease()", quick=quick)
    check_leases()
    timers = {EMPTY: nanoseconds("async with held():\n  pass", Empty)}
    for name, policy in POLICIES.items():
        balancer = over(BACKENDS, policy())
        learn(balancer)
        timers[name] = nanoseconds("async with held.lease():\n  pass", balancer)
        timers[f"{name}: with"] = nanoseconds("with held.lease():\n  pass", balancer)
        # Deciding and counting, without the object that remembers to undo it and reports.
        timers[f"{name}: core"] = nanoseconds(CORE, balancer)
    samples = interleaved(timers, rounds=9 if quick else 41)
    report.section(f"{BACKENDS} backends")
    report.figure(EMPTY, samples[EMPTY], "ns")
    for name in POLICIES:
        show(report, name, samples)
    for name in ("RoundRobin", "PeakEwma"):
        remembered(report, name)
    report.end()


def show(report: Report, name: str, samples: dict[str, list[float]]) -> None:
    core = samples[f"{name}: core"]
    report.section(name)
    report.figure("async with balancer.lease()", samples[name], "ns")
    report.figure("with balancer.lease()", samples[f"{name}: with"], "ns")
    report.figure("the sync core: acquire and release", core, "ns")
    together = [a + b for a, b in zip(samples[EMPTY], core, strict=True)]
    report.ratio("of the empty one and the core", samples[name], together, at_most=AT_MOST)


def remembered(report: Report, name: str) -> None:
    pool = BackendPool.static(addresses(REMEMBERED))
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        balancer = Balancer(pool, POLICIES[name]())
        balancer.pick()
        at_first = held_since(before)
        candidates, scores = balancer._view.listed, balancer._outcomes
        for candidate in candidates:
            # As the end of a lease does, of a connection that was refused at once.
            reason = describe(ConnectionRefusedError(111, "Connection refused"))
            scores.failed(candidate, 0.001, scores.clock(), Failure.CONNECT, reason)
        after_failures = held_since(before)
    finally:
        tracemalloc.stop()
    check(len(candidates) == REMEMBERED, "all are known")
    check(all(each.failures == 1 for each in candidates), "each has failed once")
    report.section(f"memory a backend, of {REMEMBERED:,}: {name}")
    report.figure("in the balancer, after the first pick", [at_first], "B")
    report.figure("after each backend has failed once", [after_failures], "B")


def held_since(before: int) -> float:
    gc.collect()
    return (tracemalloc.get_traced_memory()[0] - before) / REMEMBERED


def check_leases() -> None:
    balancer = over(2, LeastRequest())
    with balancer.lease() as one, balancer.lease() as other:
        check(one.backend != other.backend, "a lease is counted while it is held")
    known = balancer._view.listed
    check(not any(each.in_flight for each in known), "it is not when it is left")
    check(sum(each.requests for each in known) == 2, "each is reported")


def learn(balancer: Balancer) -> None:
    # As in use: what was never measured is chosen without computing anything.
    rng = random.Random(1)
    for candidate in balancer._view.listed:
        candidate.latency = rng.uniform(0.001, 0.1)
        candidate.peak = (candidate.latency, balancer._outcomes.clock())


def over(size: int, policy: Policy) -> Balancer:
    balancer = Balancer(BackendPool.static(addresses(size)), policy)
    balancer.pick()
    return balancer


def nanoseconds(statement: str, held: object) -> Callable[[], float]:
    """Return a function that times one statement of a coroutine, which need not ever wait."""
    # Compiled apart for each: one call site for all would stay unspecialised for every one.
    body = "\n".join([statement] * UNROLLED)
    written = f"async def run(held, calls):\n for _ in range(calls):\n{indent(body, '  ')}"
    namespace: dict[str, Callable[[object, int], Coroutine[Any, Any, None]]] = {}
    exec(written, namespace)
    run = namespace["run"]
    calls = max(1, int(0.02 / seconds(run(held, 10)) * 10))
    return lambda: seconds(run(held, calls)) / calls / UNROLLED * 1e9


def seconds(coroutine: Coroutine[Any, Any, None]) -> float:
    began = perf_counter()
    try:
        coroutine.send(None)
    except StopIteration:
        return perf_counter() - began
    raise AssertionError("nothing in here is to wait")


def interleaved(timers: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in timers}
    names = list(timers)
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            samples[name].append(timers[name]())
    return samples


def addresses(size: int) -> list[str]:
    return [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:8080" for n in range(size)]


if __name__ == "__main__":
    main()
