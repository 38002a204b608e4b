"""Least request: the less busy of two."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Final

from backendpool_async.balance.candidate import NO_LEASES, Candidate
from backendpool_async.balance.policies.alias import alias_table
from backendpool_async.balance.policy import Chooser, Unkeyed

# So often another one is drawn, when the second is the first again.
_DRAWS: Final = 8


class LeastRequest:
    """Chooses, of two different backends drawn at random, the one with fewer requests in flight.

    Nearly as good as asking all of them, and without the stampede to the one that looks best
    (Mitzenmacher, "The power of two choices in randomized load balancing", IEEE Transactions on
    Parallel and Distributed Systems 12(10), 2001).

    Where weights differ, two are drawn by weight and compared in requests in flight per weight, as
    nginx does with ``random two least_conn``; between equals the first one drawn is chosen. So
    idle backends get requests exactly by weight, and one that hangs gets none while the other
    one drawn is better off. Envoy instead makes the turns of a busy backend rarer, which still
    sends to one that hangs. Among two or three backends, a light one gets more than its share
    while there are fewer requests in flight than weights.

    `rng`: where the randomness comes from, None: the functions of `random`.

    >>> import asyncio
    >>> from backendpool_async import BackendPool, Balancer
    >>> pool = BackendPool.static(["10.0.0.1:80", "10.0.0.2:80"])
    >>> async def main() -> None:
    ...     async with Balancer(pool, LeastRequest()) as balancer:
    ...         async with balancer.lease() as one, balancer.lease() as other:
    ...             print(one.backend != other.backend)
    >>> asyncio.run(main())
    True
    """

    __slots__ = ("_random",)

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self._random = random.random if rng is None else rng.random

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        """Return a chooser of these."""
        if len(candidates) == 1:
            return Unkeyed(repeat(candidates[0]).__next__)
        weights = [candidate.weight for candidate in candidates]
        if min(weights) == max(weights):
            return _fewer_in_flight(candidates, self._random)
        return _fewer_in_flight_per_weight(candidates, weights, self._random)


def _fewer_in_flight(candidates: Sequence[Candidate], random: Callable[[], float]) -> Unkeyed:
    count, others = len(candidates), len(candidates) - 1

    def choose() -> Candidate:
        # As `uniform_pairs` draws them; written out, it takes a fifth less time.
        number = random() * count
        index = int(number)
        one = candidates[index]
        other = candidates[index - 1 - int((number - index) * others)]
        return one if len(one._leases) <= len(other._leases) else other

    return Unkeyed(choose)


def _fewer_in_flight_per_weight(
    candidates: Sequence[Candidate], weights: Sequence[int], random: Callable[[], float]
) -> Unkeyed:
    count = len(candidates)
    ends, others = alias_table(weights)

    def choose() -> Candidate:
        number = random() * count
        index = int(number)
        one = index if number < ends[index] else others[index]
        for _ in range(_DRAWS):
            number = random() * count
            index = int(number)
            other = index if number < ends[index] else others[index]
            if other != one:
                break
        else:
            # It outweighs the others by far: any of them will do.
            other = index if index != one else index - 1
        first, second = candidates[one], candidates[other]
        in_first = len(first._leases) - NO_LEASES
        in_second = len(second._leases) - NO_LEASES
        return first if in_first * weights[other] <= in_second * weights[one] else second

    return Unkeyed(choose)
