"""Maglev: the same key to the same backend."""

from __future__ import annotations

import random
from collections.abc import Sequence
from heapq import merge
from operator import attrgetter
from typing import Final
from zlib import crc32

from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.pauses import CHUNK, collected
from backendpool_async.balance.policies.maglev_table import maglev_table
from backendpool_async.balance.policies.primes import PRIMES, is_prime
from backendpool_async.balance.policy import Chooser

_SLOTS_EACH: Final = 100
_MOST_SLOTS: Final = 16_777_259

_address = attrgetter("backend")


class Maglev:
    """Chooses by key: a key keeps its backend, whoever asks and whatever the order of the list.

    The mapping depends on the addresses, their weights and `slots` alone, so it is the same in
    every process and after every restart. When one of n backends goes, the keys it had are spread
    over the others, and some other keys move too, the more of them the fewer slots there are for
    each backend. With the default table and 10 backends hardly more than 1/n of all keys move, with
    100 of them 1.6/n, with 300 of them 4/n, with 650 of them 6/n, but 2.3/n with 1,048,583 slots.
    So for hundreds of backends ask for more `slots`: a million of them take half a second to
    prepare, in a thread, and 2 MB. Shares differ by about a hundredth. Without a key (None) a
    random slot decides. See `maglev_table` for the method and its source.

    `slots`: the size of the table, a prime number up to 16,777,259; TypeError or ValueError if it
    is not. Where there are not 100 slots for each backend, the next larger of 65,537, 262,147,
    1,048,583 and 4,194,319 is taken: with the default beyond 655, 2,621 and 10,485 backends, and
    above 41,943 there are fewer. Crossing such a border moves nearly every key; a service that may
    cross it better asks for the larger table from the beginning.

    `rng`: where the randomness without a key comes from, None: the functions of `random`.

    >>> from backendpool_async import BackendPool, Balancer
    >>> pool = BackendPool.static(["10.0.0.1:80", "10.0.0.2:80"])
    >>> balancer = Balancer(pool, Maglev())
    >>> balancer.pick("user-1") is balancer.pick("user-1")
    True
    """

    __slots__ = ("_random", "_slots")

    prepares_slowly = True

    def __init__(self, slots: int = PRIMES[0], *, rng: random.Random | None = None) -> None:
        if isinstance(slots, bool) or not isinstance(slots, int):
            raise TypeError(f"slots={slots!r} is no whole number")
        if not (slots <= _MOST_SLOTS and is_prime(slots)):
            raise ValueError(f"slots={slots!r} is no prime number up to {_MOST_SLOTS}")
        self._slots = slots
        self._random = random.random if rng is None else rng.random

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        """Return a chooser of these; takes about half a second for a million slots."""
        ordered = _sorted_by_address(candidates)
        weights = [candidate.weight for candidate in ordered]
        size = self._size(len(ordered))
        # Indexes and not the candidates themselves: every full garbage collection would have to
        # follow a million references more.
        table = maglev_table([candidate.backend for candidate in ordered], weights, size)
        random = self._random

        def choose(key: str | None) -> Candidate:
            if key is None:
                return ordered[table[int(random() * size)]]
            try:
                return ordered[table[crc32(key.encode()) % size]]
            except UnicodeEncodeError:
                # Half of a surrogate pair, or a byte that was no UTF-8 where the key comes from.
                return ordered[table[crc32(key.encode("utf-8", "surrogatepass")) % size]]

        return choose

    def _size(self, count: int) -> int:
        sizes = (self._slots, *(size for size in PRIMES if size > self._slots))
        return next((size for size in sizes if size >= count * _SLOTS_EACH), sizes[-1])


def _sorted_by_address(candidates: Sequence[Candidate]) -> list[Candidate]:
    # A hundred thousand sorted at once would stop everything for a tenth of a second.
    parts = (candidates[start : start + CHUNK] for start in range(0, len(candidates), CHUNK))
    return collected(merge(*(sorted(part, key=_address) for part in parts), key=_address))
