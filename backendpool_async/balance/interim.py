"""Choosing from a long list while its first view is being built elsewhere."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from itertools import accumulate
from random import choice, random
from typing import Final
from zlib import crc32

from backendpool_async.backend import Backend
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.candidate_registry import CandidateRegistry
from backendpool_async.balance.ejection import is_available
from backendpool_async.balance.rendezvous import rendezvous
from backendpool_async.balance.subset import Subset
from backendpool_async.live import LiveList

_DRAWS: Final = 8


class InterimChooser:
    """Chooses by weight at random, and by a key what the same key is given meanwhile.

    It looks at neither zones nor load nor the policy, and takes about as long as a draw, but for
    the first choice from a list.
    """

    __slots__ = ("_clock", "_drawn", "_panic_threshold", "_pool", "_registry", "_subset")

    def __init__(
        self,
        pool: LiveList,
        subset: Subset | None,
        registry: CandidateRegistry,
        clock: Callable[[], float],
        panic_threshold: float,
    ) -> None:
        self._pool = pool
        self._subset = subset
        self._registry = registry
        self._clock = clock
        self._panic_threshold = panic_threshold
        self.forget()

    def forget(self) -> None:
        """Keep no list: there is a view."""
        self._drawn: tuple[Sequence[Backend], _Draws] | None = None

    def choose(self, key: str | None, avoided: Collection[str]) -> Candidate | None:
        """Return an available one that is not avoided, in a panic any other; None without one."""
        draws, now = self._draws(), self._clock()
        for backend in draws.by_weight() if key is None else draws.by_key(key):
            candidate = self._registry.get_or_create(backend)
            if backend not in avoided and is_available(candidate, now):
                return candidate
        return self._search(key, avoided, now)

    def listed(self) -> Sequence[Candidate]:
        """Return whom it chooses among, the same object while the list is the same."""
        draws = self._draws()
        if draws.candidates is None:
            draws.candidates = [self._registry.get_or_create(each) for each in draws.listed]
        return draws.candidates

    def _draws(self) -> _Draws:
        backends, drawn = self._pool.backends(), self._drawn
        if drawn is None or drawn[0] is not backends:
            listed = backends if self._subset is None else self._subset.of(backends)
            drawn = self._drawn = (backends, _Draws(listed))
        return drawn[1]

    def _search(self, key: str | None, avoided: Collection[str], now: float) -> Candidate | None:
        listed = self.listed()
        available = [each for each in listed if is_available(each, now)]
        is_panic = len(available) < self._panic_threshold * len(listed)
        left = [each for each in (listed if is_panic else available) if each.backend not in avoided]
        if not left:
            return None
        return rendezvous(key, left) if key is not None else choice(left)


class _Draws:
    """Some of one list at a time, the first to be preferred."""

    def __init__(self, listed: Sequence[Backend]) -> None:
        self.listed = listed
        self.candidates: Sequence[Candidate] | None = None

    @cached_property
    def _ends(self) -> Sequence[int]:
        return list(accumulate(each.weight for each in self.listed))

    @cached_property
    def _sorted(self) -> Sequence[Backend]:
        # Whatever the order of the list is, also that of another process.
        return sorted(self.listed)

    def by_weight(self) -> Sequence[Backend]:
        listed, ends = self.listed, self._ends
        return [listed[bisect_right(ends, random() * ends[-1])] for _ in range(_DRAWS) if ends]

    def by_key(self, key: str) -> Sequence[Backend]:
        listed, first = self._sorted, crc32(key.encode(errors="surrogatepass"))
        return [listed[(first + n) % len(listed)] for n in range(min(_DRAWS, len(listed)))]
