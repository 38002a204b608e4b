"""Deterministic subsetting: each of many clients uses some of many backends."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from backendpool_async.backend import Backend
from backendpool_async.keywords import count


@dataclass(frozen=True, slots=True)
class Subset:
    """Of all backends, the `size` that belong to client number `client`.

    Thousands of clients that each keep connections to each of thousands of backends are too many
    connections. With the clients numbered from 0 on, without gaps (a replica's ordinal), every
    backend is in as many subsets as any other, give or take one a round: in each round as many
    clients as there are whole subsets share out one shuffle of the list. A list of up to `size`
    is used whole.

    The algorithm is that of "Site Reliability Engineering" (Beyer et al., 2016), chapter 20. Its
    price is paid when the list changes: of its 20, a client keeps about 10 when one of 310 backends
    goes or one comes to 300, and about 2 when one of 300 goes, since there are 14 whole subsets
    then and not 15. So it is not for lists that change all the time, nor where a new connection is
    dear. Raises TypeError or ValueError.

    >>> backends = tuple(Backend(f"10.0.0.{n}:80") for n in range(6))
    >>> first, second = Subset(client=0, size=3), Subset(client=1, size=3)
    >>> sorted(first.of(backends) + second.of(backends)) == list(backends)
    True
    """

    client: int
    size: int

    def __post_init__(self) -> None:
        count("size", self.size)
        if isinstance(self.client, bool) or not isinstance(self.client, int):
            raise TypeError(f"client={self.client!r} is no whole number")
        if self.client < 0:
            raise ValueError(f"client={self.client!r} is not at least 0")

    def of(self, backends: Sequence[Backend]) -> tuple[Backend, ...]:
        """Return the subset, in the order of the list; the same whatever that order is."""
        if len(backends) <= self.size:
            return tuple(backends)
        subsets = len(backends) // self.size
        round_number, place = divmod(self.client, subsets)
        shuffled = sorted(backends)
        random.Random(round_number).shuffle(shuffled)
        # What is left over when the division is not even goes round, too.
        chosen = set(shuffled[place * self.size : (place + 1) * self.size])
        return tuple(backend for backend in backends if backend in chosen)
