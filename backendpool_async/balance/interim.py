"""Choosing from a long list while its first view is being built elsewhere."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from random import random
from typing import Final
from zlib import crc32

from backendpool_async.backend import Backend
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.candidate_registry import CandidateRegistry
from backendpool_async.balance.ejection import Listing, is_available
from backendpool_async.balance.subset import Subset
from backendpool_async.balance.view import Among, View, ViewRules, unhealthy
from backendpool_async.live import LiveList
from backendpool_async.snapshot import Snapshot

_DRAWS: Final = 8
_CRC: Final = 1 << 32


class InterimChooser:
    """Chooses by weight, and by a key what the same key is given meanwhile.

    Whom it chooses among is by the rules; it looks at neither load nor the policy. It draws, which
    takes no time, and goes by what it drew. Only when it drew too many that are not available, or
    nobody that will do, it goes through the list and applies the rules.
    """

    __slots__ = ("_clock", "_known", "_pool", "_registry", "_rules", "_subset")

    def __init__(
        self,
        pool: LiveList,
        subset: Subset | None,
        registry: CandidateRegistry,
        rules: ViewRules,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._subset = subset
        self._registry = registry
        self._rules = rules
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Keep no list: there is a view."""
        self._known: _Known | None = None

    def choose(self, key: str | None, avoided: Collection[str]) -> Candidate | None:
        """Return one that is not avoided, None when none is left."""
        known, now = self._current(), self._clock()
        found = self._drawn(known, key, avoided, now)
        if found is None and known.among is None:
            self._learn(known, now)
            found = self._drawn(known, key, avoided, now)
        return found or self._beside(known, key, avoided, now)

    def listing(self) -> Listing:
        """Return whom it chooses among, the same object while the list is the same."""
        known = self._current()
        if known.listing is None:
            candidates = self._candidates(known)
            known.listing = Listing(candidates, unhealthy(candidates), len(candidates))
        return known.listing

    def view(self) -> View:
        """Return what the view would be, for whoever asks what is known; no weight is changed."""
        known = self._current()
        candidates = self._candidates(known)
        among = self._rules.among(candidates, self._clock())
        return View(
            available=among.available,
            chosen_among=among.chosen_among,
            is_panic=among.is_panic,
            snapshot=known.snapshot,
            listed=candidates,
            unhealthy=unhealthy(candidates),
        )

    def _current(self) -> _Known:
        snapshot, known = self._pool.snapshot, self._known
        if known is None or known.snapshot.backends is not snapshot.backends:
            backends = snapshot.backends
            listed = backends if self._subset is None else self._subset.of(backends)
            known = self._known = _Known(snapshot, listed, self._rules.zone)
        return known

    def _candidates(self, known: _Known) -> Sequence[Candidate]:
        if known.candidates is None:
            known.candidates = [self._registry.get_or_create(each) for each in known.listed]
        return known.candidates

    def _drawn(
        self, known: _Known, key: str | None, avoided: Collection[str], now: float
    ) -> Candidate | None:
        among = known.among
        drawn = known.by_weight.some() if key is None else known.by_key.some_of(key)
        candidates = [self._registry.get_or_create(each) for each in drawn]
        if among is None:
            out = sum(not is_available(each, now) for each in candidates)
            if 2 * out >= len(candidates):
                # It may be a panic, or the own zone may not suffice.
                return None
        for each in candidates:
            if each.backend not in avoided and (
                is_available(each, now) or (among is not None and among.is_panic)
            ):
                return each
        return None

    def _beside(
        self, known: _Known, key: str | None, avoided: Collection[str], now: float
    ) -> Candidate | None:
        among = known.among or self._learn(known, now)
        found = among.beside(key, avoided)
        if found is None or among.is_panic or is_available(found, now):
            return found
        # It was ejected since, and so may others be.
        return self._learn(known, now).beside(key, avoided)

    def _learn(self, known: _Known, now: float) -> Among:
        among = self._rules.among(self._candidates(known), now)
        known.learn(among)
        return among


class _Known:
    """What is known of one list: whom to draw from, and more when the rules were applied."""

    def __init__(self, snapshot: Snapshot, listed: Sequence[Backend], zone: str | None) -> None:
        self.snapshot = snapshot
        self.listed = listed
        self.candidates: Sequence[Candidate] | None = None
        self.listing: Listing | None = None
        self.among: Among | None = None
        near = [] if zone is None else [each for each in listed if each.zone == zone]
        self._has_near = bool(near)
        self.by_weight = self.by_key = _Draws(near or listed)

    def learn(self, among: Among) -> None:
        """Draw from now on from those to choose among."""
        self.among = among
        self.by_weight = _Draws([each.backend for each in among.chosen_among])
        if self._has_near and (among.is_panic or among.chosen_among is among.available):
            self.by_key = self.by_weight
        # Else keys go on drawing from the same ones: they keep what they were given.


class _Draws:
    """Some of one list at a time, the first to be preferred, all by weight."""

    def __init__(self, listed: Sequence[Backend]) -> None:
        self._listed = listed

    def some(self) -> Sequence[Backend]:
        """At random."""
        return self._at(self._listed, self._ends, (random() for _ in range(_DRAWS)))

    def some_of(self, key: str) -> Sequence[Backend]:
        """The same for the same key."""
        data = key.encode(errors="surrogatepass")
        numbers = (crc32(data, number) / _CRC for number in range(_DRAWS))
        return self._at(self._sorted, self._sorted_ends, numbers)

    @cached_property
    def _ends(self) -> Sequence[int]:
        return _ends(self._listed)

    @cached_property
    def _sorted(self) -> Sequence[Backend]:
        # Whatever the order of the list is, also that of another process.
        return sorted(self._listed)

    @cached_property
    def _sorted_ends(self) -> Sequence[int]:
        return _ends(self._sorted)

    @staticmethod
    def _at(
        listed: Sequence[Backend], ends: Sequence[int], numbers: Iterable[float]
    ) -> Sequence[Backend]:
        return [listed[bisect_right(ends, number * ends[-1])] for number in numbers if ends]


def _ends(listed: Sequence[Backend]) -> Sequence[int]:
    return list(accumulate(each.weight for each in listed))
