"""Which ways to choose are compared, under which trouble; simulated by one process a core."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Final

from backendpool_async import LeastRequest, PeakEwma, RoundRobin
from backendpool_async import Random as RandomPolicy
from backendpool_async.balance.policy import Policy
from benchmarks.quality_model import Case, Outcome, Script, simulate

Clock = Callable[[], float]

# Trouble that stays: ejections end and are renewed while it lasts.
STAYS: Final = Script(trouble=10.0, returns=math.inf, end=70.0)
# One dies and is back before the ejections end; no other trouble, to see that one thing.
RETURN: Final = Script(trouble=10.0, returns=25.0, end=90.0, has_slow=False)
# Nothing happens.
CALM: Final = Script(trouble=math.inf, returns=math.inf, end=20.0)


def round_robin(rng: random.Random, _clock: Clock) -> Policy:
    return RoundRobin(rng=rng)


def at_random(rng: random.Random, _clock: Clock) -> Policy:
    return RandomPolicy(rng=rng)


def least_request(rng: random.Random, _clock: Clock) -> Policy:
    return LeastRequest(rng=rng)


def peak_ewma(rng: random.Random, clock: Clock) -> Policy:
    return PeakEwma(rng=rng, clock=clock)


# Not Maglev: it is for affinity, and its tables are built in threads, which know no virtual time.
WITHOUT_HEALTH: Final = (
    Case("Random, no health", at_random, None),
    Case("RoundRobin, no health", round_robin, None),
)
EJECTING: Final = (
    Case("Random", at_random),
    Case("RoundRobin", round_robin),
    Case("LeastRequest", least_request),
    Case("PeakEwma", peak_ewma),
)
STAYING: Final = WITHOUT_HEALTH + EJECTING
BLACK_HOLES: Final = tuple(replace(case, is_black_hole=True) for case in STAYING)
SLOW_START: Final = 30.0
RETURNING: Final = (
    WITHOUT_HEALTH[1],
    *(
        replace(case, name=f"{case.name}, slow start {seconds:g} s", slow_start=seconds)
        for case in EJECTING[1:]
        for seconds in (0.0, SLOW_START)
    ),
)


def simulate_all(
    cases: Iterable[Case], script: Script, seeds: int
) -> dict[str, tuple[Outcome, ...]]:
    """Return for each case what came of it with each seed."""
    # Not forked: this process may have threads.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as processes:
        futures = {
            case.name: [processes.submit(simulate, case, script, seed) for seed in range(seeds)]
            for case in cases
        }
        return {name: tuple(each.result() for each in runs) for name, runs in futures.items()}
