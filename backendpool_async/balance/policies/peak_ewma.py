"""Peak EWMA: the one of two that promises to answer sooner."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from math import exp
from typing import Final

from backendpool_async.balance.candidate import NO_LEASES, Candidate
from backendpool_async.balance.policies.pairs import uniform_pairs, weighted_pairs
from backendpool_async.balance.policy import Chooser, Unkeyed
from backendpool_async.keywords import seconds as checked_seconds

# Finagle's Long.MaxValue >> 16 nanoseconds: more than any measurement.
PENALTY: Final = 140_737.488
# Smaller differences than this are noise, and would decide everything where weights differ: two
# backends are both drawn each time.
_CLEARLY_LESS: Final = 0.9
# In proportion without a limit, a light one would starve for hours after one slow answer, and what
# a heavy one does would be forgotten before it is drawn again.
_SLOWEST: Final = 0.5
_FASTEST: Final = 2.0


class PeakEwma:
    """Chooses, of two different backends drawn at random, the one with the lower expected latency.

    That is a moving average in which a slow answer counts at once and in full and is forgotten
    with the time constant `decay`, in seconds, times the requests in flight including this one. A
    backend that was never measured is tried first, but by one request at a time: until it is
    measured, it is worse than any other.

    The metric is that of Finagle's ``PeakEwma.scala`` (Twitter, Apache License 2.0); averaging over
    uneven distances in time follows Eckner, "Algorithms for Unevenly Spaced Time Series".

    Where weights differ, two are drawn by weight, requests in flight count by weight, and the first
    one drawn is chosen unless the other one promises to answer in a tenth less time: so backends
    that are equally fast get requests by weight, also while few are in flight. What a light one
    promised is forgotten more slowly than what a heavy one did, because it is measured more rarely:
    with the time constant over its weight beside the average, but at most twice and at least half
    of it. Where that is not enough, with a few requests a second or with weights of more than ten
    times the average, heavy ones get somewhat less than by weight.

    `rng`: where the randomness comes from, None: the functions of `random`. `clock`: the one that
    `observe` is told the time by, in seconds. Raises ValueError if `decay` is not above zero.

    >>> from backendpool_async import BackendPool, Balancer
    >>> balancer = Balancer(BackendPool.static(["10.0.0.1:80"]), PeakEwma(decay=5.0))
    >>> balancer.pick()
    Backend('10.0.0.1:80')
    """

    __slots__ = ("_clock", "_decay", "_lock", "_random")

    def __init__(
        self,
        decay: float = 10.0,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decay = checked_seconds("decay", decay)
        self._random = random.random if rng is None else rng.random
        self._clock = clock
        self.after_fork()

    def after_fork(self) -> None:
        """Begin anew in a forked child: a thread that held the lock is not in it."""
        # One that may be taken twice: a lease can end in a finalizer, anywhere.
        self._lock = threading.RLock()

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        """Return a chooser of these; what was measured stays with the candidates."""
        if len(candidates) == 1:
            return Unkeyed(repeat(candidates[0]).__next__)
        weights = [candidate.weight for candidate in candidates]
        if min(weights) == max(weights):
            return self._uniform(candidates)
        return self._by_weight(candidates, sum(weights) / len(weights))

    def _uniform(self, candidates: Sequence[Candidate]) -> Unkeyed:
        draw, clock, load = uniform_pairs(candidates, self._random), self._clock, self.load

        def choose() -> Candidate:
            one, other = draw()
            now = clock()
            return one if load(one, now) <= load(other, now) else other

        return Unkeyed(choose)

    def _by_weight(self, candidates: Sequence[Candidate], mean: float) -> Unkeyed:
        draw, clock, load = weighted_pairs(candidates, self._random), self._clock, self.load

        def choose() -> Candidate:
            one, other = draw()
            now = clock()
            load_of_other = load(other, now, other.weight / mean)
            if load(one, now, one.weight / mean) * _CLEARLY_LESS <= load_of_other:
                return one
            return other

        return Unkeyed(choose)

    def observe(self, candidate: Candidate, seconds: float, now: float) -> None:
        """Take note that a request took `seconds` and ended `now`."""
        with self._lock:
            if candidate.peak is not None:
                before, then = candidate.peak
                # Ends may be told of in another order than they came in.
                now = max(now, then)
                left = exp((then - now) / self._decay)
                # A peak counts in full; anything less as much as was forgotten of what came before.
                seconds = max(seconds, before * left + seconds * (1.0 - left))
            candidate.peak = (seconds, now)

    def load(self, candidate: Candidate, now: float, weight: float = 1.0) -> float:
        """Return the latency to expect of one more request, in seconds.

        `weight` is the candidate's beside the average of all. 0 for a backend without a measurement
        and without a request, a penalty of 39 hours while it has one.
        """
        pending = (len(candidate._leases) - NO_LEASES) / weight
        peak: tuple[float, float] | None = candidate.peak
        if peak is not None:
            seconds, then = peak
            # Another thread can have measured since the clock was read.
            if now > then:
                # Not `min` and `max`: calls, in what is called twice a choice.
                if weight > _FASTEST:
                    weight = _FASTEST
                elif weight < _SLOWEST:
                    weight = _SLOWEST
                seconds *= exp((then - now) * weight / self._decay)
            # After hours without a request, nothing may be left of it.
            if seconds > 0.0:
                return seconds * (pending + 1)
        return PENALTY + pending if pending else 0.0
