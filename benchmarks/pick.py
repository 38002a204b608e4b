"""What choosing a backend costs, beside a plain method, hand-written ways and hashing libraries.

``python -m benchmarks.pick [--quick]``
"""

from __future__ import annotations

import asyncio
import random
import timeit
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from backendpool_async import (
    Backend,
    BackendPool,
    Balancer,
    LeastRequest,
    Maglev,
    PeakEwma,
    RoundRobin,
)
from backendpool_async import Random as RandomPolicy
from backendpool_async.balance.policy import Policy
from benchmarks.pick_gaps import gaps_while_building
from benchmarks.pick_peers import Choice, Cycle, Slotted, keyed_libraries, unkeyed_libraries
from benchmarks.report import Report, check, is_quick

SIZES: Final = (3, 100, 10_000)
# As many keys as are written into the timed loop: so one key is not in the processor's cache
# just because it was the last one.
UNROLLED: Final = 1_000
LIMIT: Final = "a slotted class's method that returns an attribute"
CHOICE: Final = "random.choice in a method"
RING: Final = "uhashring: get_node(key)"
ACQUIRE: Final = "acquire and release"
# What is ours, and how many times the limit it may cost.
TARGETS: Final = {
    "RoundRobin": 3.0,
    "RoundRobin, weights": 3.0,
    "Random": None,
    "Random, weights": 10.0,
    f"LeastRequest, {ACQUIRE}": 15.0,
    f"LeastRequest, weights, {ACQUIRE}": 15.0,
    f"LeastRequest, all busy, {ACQUIRE}": 15.0,
    f"LeastRequest, weights, all busy, {ACQUIRE}": 15.0,
    f"PeakEwma, {ACQUIRE}": None,
    "Maglev, a key": 7.0,
}
GROWS_AT_MOST: Final = 1.3

# How one pick is written, and what `held` is in it.
Timed = tuple[str, Any]


def main() -> None:
    quick = is_quick(__doc__)
    report = Report("pick: Balancer.pick()", quick=quick)
    timers = {
        (name, size): nanoseconds(*written)
        for size in SIZES
        for name, written in everything(size).items()
    }
    samples = interleaved(timers, rounds=7 if quick else 31)
    for size in SIZES:
        show(report, size, {name: rounds for (name, n), rounds in samples.items() if n == size})
    report.section(f"{SIZES[-1]:,} backends, of {SIZES[0]}")
    for name in (LIMIT, CHOICE, *TARGETS):
        few, many = samples[name, SIZES[0]], samples[name, SIZES[-1]]
        most = GROWS_AT_MOST if name in TARGETS else None
        report.ratio(name, many, few, at_most=most)
    asyncio.run(gaps_while_building(report, rounds=3 if quick else 15))
    report.end()


def everything(size: int) -> dict[str, Timed]:
    plain, weighted = addresses(size), with_weights(size)
    check_fair(plain, weighted)
    acquire = "one = held._next()\none._leases.append(None)\none._leases.pop()"
    peers: dict[str, Timed] = {
        LIMIT: ("held.pick()", Slotted(plain[0])),
        "next(cycle) in a method": ("held.pick()", Cycle(plain)),
        CHOICE: ("held.pick()", Choice(plain)),
        **unkeyed_libraries(plain),
        **keyed_libraries(plain),
    }
    check_peers(plain, peers)
    return peers | {
        "RoundRobin": ("held.pick()", balancer(plain, RoundRobin())),
        "RoundRobin, weights": ("held.pick()", balancer(weighted, RoundRobin())),
        "Random": ("held.pick()", balancer(plain, RandomPolicy())),
        "Random, weights": ("held.pick()", balancer(weighted, RandomPolicy())),
        f"LeastRequest, {ACQUIRE}": (acquire, balancer(plain, LeastRequest())),
        f"LeastRequest, weights, {ACQUIRE}": (
            acquire,
            balancer(weighted, LeastRequest()),
        ),
        f"LeastRequest, all busy, {ACQUIRE}": (acquire, busy(balancer(plain, LeastRequest()))),
        f"LeastRequest, weights, all busy, {ACQUIRE}": (
            acquire,
            busy(balancer(weighted, LeastRequest())),
        ),
        f"PeakEwma, {ACQUIRE}": (acquire, measured(balancer(plain, PeakEwma()))),
        "Maglev, a key": ("held.pick({key!r})", balancer(plain, Maglev())),
    }


def show(report: Report, size: int, samples: dict[str, list[float]]) -> None:
    report.section(f"{size:,} backends")
    for name, rounds in samples.items():
        report.figure(name, rounds, "ns")
    for name, most in TARGETS.items():
        report.ratio(f"{name}: of the limit", samples[name], samples[LIMIT], at_most=most)
    ours = samples["Maglev, a key"]
    for name, rounds in samples.items():
        if "(key)" in name:
            least = 15.0 if name == RING and size == SIZES[-1] else None
            report.ratio(f"Maglev faster than {name}", rounds, ours, at_least=least)


def balancer(entries: Sequence[str], policy: Policy) -> Balancer:
    made = Balancer(BackendPool.static(entries), policy)
    made.pick("" if isinstance(policy, Maglev) else None)
    return made


def measured(of_latency: Balancer) -> Balancer:
    # As in use: what was never measured is chosen without computing anything.
    rng = random.Random(1)
    for candidate in of_latency._view.listed:
        candidate.peak = (rng.uniform(0.001, 0.1), of_latency._outcomes.clock())
    return of_latency


def busy(all_of_it: Balancer) -> Balancer:
    # Of two that are drawn, a first one without a request needs no look at the second.
    for candidate in all_of_it._view.listed:
        candidate._leases.append(None)
    return all_of_it


def check_fair(plain: list[str], weighted: list[Backend]) -> None:
    turns = balancer(plain, RoundRobin())
    counts = Counter(turns.pick() for _ in range(3 * len(plain)))
    check(counts == dict.fromkeys(plain, 3), "round robin gives each as many turns")
    turns = balancer(weighted, RoundRobin())
    counts = Counter(turns.pick() for _ in range(sum(each.weight for each in weighted)))
    check(counts == {each: each.weight for each in weighted}, "a weight is a number of turns")
    draws = balancer(weighted, RandomPolicy())
    heaviest = {each for each in weighted if each.weight == 3}
    hits = sum(draws.pick() in heaviest for _ in range(20_000)) / 20_000
    due = sum(each.weight for each in heaviest) / sum(each.weight for each in weighted)
    check(abs(hits - due) < 0.02, "a draw goes by weight")
    least = balancer(plain[:2], LeastRequest())
    taken = least._next()
    taken._leases.append(None)
    busy = taken.backend
    check(all(least.pick() != busy for _ in range(100)), "least request avoids the busy one of two")
    first, second = balancer(plain, Maglev()), balancer(plain[::-1], Maglev())
    keys = [f"user-{n}" for n in range(1_000)]
    chosen = [first.pick(key) for key in keys]
    check(chosen == [second.pick(key) for key in keys], "a key has its backend")
    check(len(set(chosen)) > min(len(plain), 600) * 0.9, "keys are spread over the backends")


def check_peers(plain: list[str], peers: dict[str, Timed]) -> None:
    for name, (statement, held) in peers.items():
        for key in ("a", "b"):
            chosen = eval(statement.format(key=key), {"held": held})
            check(chosen.removeprefix("http://") in plain, f"{name} chooses an address")


def nanoseconds(statement: str, held: object) -> Callable[[], float]:
    # Compiled apart for each: one call site for all would stay unspecialised for every one.
    written = "\n".join(statement.format(key=f"user-{n}") for n in range(UNROLLED))
    timer = timeit.Timer(written, globals={"held": held})
    timer.timeit(1)
    calls = max(1, int(0.02 / timer.timeit(1)))

    def measure() -> float:
        # What was timed before left nothing of ours in the caches: once through all of it first.
        timer.timeit(calls)
        return timer.timeit(calls) / calls / UNROLLED * 1e9

    return measure


def interleaved(
    timers: dict[tuple[str, int], Callable[[], float]], rounds: int
) -> dict[tuple[str, int], list[float]]:
    samples: dict[tuple[str, int], list[float]] = {name: [] for name in timers}
    names = list(timers)
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            samples[name].append(timers[name]())
    return samples


def addresses(size: int) -> list[str]:
    return [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:8080" for n in range(size)]


def with_weights(size: int) -> list[Backend]:
    return [Backend(each, weight=1 + n % 3) for n, each in enumerate(addresses(size))]


if __name__ == "__main__":
    main()
