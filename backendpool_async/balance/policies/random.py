"""Random: any one, whatever came before."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.policies.alias import alias_table
from backendpool_async.balance.policy import Chooser, Unkeyed


class Random:
    """Chooses a backend at random, with a probability in proportion to its weight.

    `rng`: where the randomness comes from, None: the functions of `random`.

    >>> from backendpool_async import BackendPool, Balancer
    >>> pool = BackendPool.static(["10.0.0.1:80", "10.0.0.2:80"])
    >>> Balancer(pool, Random()).pick() in pool.backends()
    True
    """

    __slots__ = ("_random",)

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self._random = random.random if rng is None else rng.random

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        """Return a chooser of these, in constant time also by weight."""
        weights = [candidate.weight for candidate in candidates]
        if min(weights) == max(weights):
            return Unkeyed(_uniform(candidates, self._random))
        return Unkeyed(_by_weight(candidates, weights, self._random))


def _uniform(
    candidates: Sequence[Candidate], random: Callable[[], float]
) -> Callable[[], Candidate]:
    count = len(candidates)
    return lambda: candidates[int(random() * count)]


def _by_weight(
    candidates: Sequence[Candidate], weights: Sequence[int], random: Callable[[], float]
) -> Callable[[], Candidate]:
    count = len(candidates)
    ends, others = alias_table(weights)

    def choose() -> Candidate:
        number = random() * count
        index = int(number)
        return candidates[index if number < ends[index] else others[index]]

    return choose
