"""Least request: the less busy of two."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Final

from backendpool_async.balance.candidate import NO_LEASES, Candidate
from backendpool_async.balance.pauses import collected
from backendpool_async.balance.policies.smooth import scaled
from backendpool_async.balance.policy import Chooser, Unkeyed

# One of as many places as a candidate has weight: whose it is, its leases, the weight, where the
# places of those behind it begin, and how many are not its own.
_Place = tuple[Candidate, list[None], int, int, int]

_PLACES_AT_LEAST: Final = 8192


class LeastRequest:
    """Chooses, of two different backends drawn at random, the one with fewer requests in flight.

    Nearly as good as asking all of them, and without the stampede to the one that looks best
    (Mitzenmacher, "The power of two choices in randomized load balancing", IEEE Transactions on
    Parallel and Distributed Systems 12(10), 2001).

    Where weights differ, two are drawn by weight and compared in requests in flight per weight, as
    nginx does with ``random two least_conn``; between equals the first one drawn is chosen. So
    idle backends get requests by weight (exactly, while the weights add up to no more than 8,192
    or 16 a backend; see `scaled`), and one that hangs gets none while the other one drawn is
    better off. Envoy instead makes the turns of a busy backend rarer, which still
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
        in_one = len(one._leases)
        if in_one == NO_LEASES:
            return one
        other = candidates[index - 1 - int((number - index) * others)]
        return one if in_one <= len(other._leases) else other

    return Unkeyed(choose)


def _fewer_in_flight_per_weight(
    candidates: Sequence[Candidate], weights: Sequence[int], random: Callable[[], float]
) -> Unkeyed:
    shares = scaled(weights, entries_at_least=_PLACES_AT_LEAST)
    total = sum(shares)
    places = collected(_places(candidates, weights, shares, total))

    def choose() -> Candidate:
        number = random() * total
        index = int(number)
        one, leases, weight, behind, others = places[index]
        in_one = len(leases) - NO_LEASES
        if not in_one:
            return one
        other, leases, other_weight, _, _ = places[behind + int((number - index) * others)]
        in_other = len(leases) - NO_LEASES
        return one if in_one * other_weight <= in_other * weight else other

    return Unkeyed(choose)


def _places(
    candidates: Sequence[Candidate], weights: Sequence[int], shares: Sequence[int], total: int
) -> Iterator[_Place]:
    end = 0
    for candidate, weight, share in zip(candidates, weights, shares, strict=True):
        end += share
        # Counted from the end of all places, so that going on from the last leads to the first.
        place = (candidate, candidate._leases, weight, end - total, total - share)
        yield from repeat(place, share)
