"""Round robin: one after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import cycle, islice

from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.pauses import collected
from backendpool_async.balance.policies.smooth import smooth_sequence
from backendpool_async.balance.policy import Chooser, Unkeyed


class RoundRobin:
    """Chooses one backend after the other, a backend of weight w in w of the turns.

    Turns are spread evenly; large weights are rounded (see `smooth_sequence`). The first turn is a
    random one: processes that start together do not all begin with the same backend. When the list
    changes, it goes on with the backend that was next, or the next one after it that is still
    there; with weights, at a random one of its turns, so that frequent changes favour nobody.

    `rng`: where the randomness comes from, None: the functions of `random`.

    >>> from backendpool_async import BackendPool, Balancer
    >>> balancer = Balancer(BackendPool.static(["10.0.0.1:80", "10.0.0.2:80"]), RoundRobin())
    >>> sorted([balancer.pick(), balancer.pick()])
    [Backend('10.0.0.1:80'), Backend('10.0.0.2:80')]
    """

    __slots__ = ("_next", "_period", "_random")

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self._random = random.random if rng is None else rng.random
        self._next: Callable[[], Candidate] | None = None
        self._period = 0

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        """Return a chooser that goes on where the one before has come to."""
        turns = _turns(candidates)
        start = self._start(candidates, turns)
        # One call of a function in C: a method of ours would take twice as long.
        choose = cycle(turns[start:] + turns[:start]).__next__
        self._next, self._period = choose, len(turns)
        return Unkeyed(choose)

    def _start(self, candidates: Sequence[Candidate], turns: Sequence[Candidate]) -> int:
        upcoming = self._upcoming({candidate.backend for candidate in candidates})
        starts: Sequence[int] = range(len(turns))
        if upcoming is not None:
            address = upcoming.backend
            starts = collected(n for n, each in enumerate(turns) if each.backend == address)
        return starts[int(self._random() * len(starts))]

    def _upcoming(self, present: set[str]) -> Candidate | None:
        if self._next is None:
            return None
        # A cycle shows what comes next only by giving it away. Whoever still chooses with the old
        # one goes on behind it, so that no turn is taken twice.
        upcoming = islice(iter(self._next, None), self._period)
        return next((each for each in upcoming if each.backend in present), None)


def _turns(candidates: Sequence[Candidate]) -> list[Candidate]:
    weights = [candidate.weight for candidate in candidates]
    if min(weights) == max(weights):
        return list(candidates)
    return collected(candidates[index] for index in smooth_sequence(weights))
