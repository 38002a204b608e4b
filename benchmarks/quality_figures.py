"""What is read off a simulated run."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from itertools import compress

from benchmarks.quality_model import (
    BACKENDS,
    CLIENTS,
    GOOD,
    RATE_EACH,
    SERVICE,
    WORKERS,
    Outcome,
)


def latency(outcome: Outcome, begin: float, end: float, share: float) -> float:
    """Return in milliseconds how long that share of the requests begun in this time took at most.

    A retry is part of its request, and so is the time of one that failed in the end.
    """
    return _quantile(compress(outcome.took, _within(outcome.began, begin, end)), share)


def p99_of_each(outcome: Outcome, window: int, end: float) -> list[float]:
    """Return the p99 of the requests begun in each so many seconds, in milliseconds."""
    taken: list[list[float]] = [[] for _ in range(int(end) // window)]
    for began, took in zip(outcome.began, outcome.took, strict=True):
        if began < end:
            taken[int(began) // window].append(took)
    return [_quantile(each, 0.99) for each in taken]


def failed(outcome: Outcome, begin: float, end: float) -> float:
    """Return how many percent of the requests begun in this time failed, with their retry."""
    return statistics.fmean(compress(outcome.failed, _within(outcome.began, begin, end))) * 100


def shares(outcome: Outcome, begin: float, end: float) -> list[float]:
    """Return of each backend how many percent of the attempts in this time it got."""
    counts = Counter(compress(outcome.asked, _within(outcome.asked_at, begin, end)))
    return [counts[number] / counts.total() * 100 for number in range(BACKENDS)]


def spread(outcome: Outcome, begin: float, end: float) -> float:
    """Return how many times the mean the busiest of the good backends got."""
    good = [shares(outcome, begin, end)[number] for number in GOOD]
    return max(good) / statistics.fmean(good)


def mean_latency_in_theory() -> float:
    """Return in seconds how long requests take in the mean when all are well, drawn at random.

    Then each backend is a queue of its own with Poisson arrivals, exponential service and
    `WORKERS` servers: Erlang's formula C.
    """
    load = CLIENTS * RATE_EACH / BACKENDS * SERVICE
    waiting = load**WORKERS / math.factorial(WORKERS) * WORKERS / (WORKERS - load)
    served = sum(load**number / math.factorial(number) for number in range(WORKERS))
    return SERVICE + waiting / (served + waiting) * SERVICE / (WORKERS - load)


def _within(times: Iterable[float], begin: float, end: float) -> list[bool]:
    return [begin <= time < end for time in times]


def _quantile(taken: Iterable[float], share: float) -> float:
    ordered = sorted(taken)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3
