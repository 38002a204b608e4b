"""What the tests of policies share: candidates, counts, and a test of fit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from backendpool_async import Backend
from backendpool_async.balance.candidate import NO_LEASES, Candidate
from backendpool_async.balance.policy import Policy


def candidates(*weights: int) -> list[Candidate]:
    return [
        Candidate(Backend(f"10.0.{n // 250}.{n % 250}:80", weight=weight))
        for n, weight in enumerate(weights)
    ]


def busy(candidate: Candidate, requests: int) -> None:
    candidate._leases[:] = [None] * (NO_LEASES + requests)


def counts(policy: Policy, among: Sequence[Candidate], times: int) -> Counter[Candidate]:
    choose = policy.prepare(among)
    return Counter(choose(None) for _ in range(times))


def fits(observed: Mapping[Candidate, int], share: Callable[[Candidate], float]) -> bool:
    """Whether chi-square accepts the counts at the level of one in a thousand."""
    whole = sum(map(share, observed))
    total = sum(observed.values())
    expected = {each: total * share(each) / whole for each in observed}
    return chi_square(observed, expected) < threshold(len(observed) - 1)


def chi_square(observed: Mapping[Candidate, int], expected: Mapping[Candidate, float]) -> float:
    return sum((observed[each] - expected[each]) ** 2 / expected[each] for each in expected)


def threshold(freedom: int) -> float:
    """Return what chi-square exceeds once in a thousand times (Wilson and Hilferty, 1931)."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + 3.0902 * math.sqrt(part)) ** 3
