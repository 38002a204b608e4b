"""What a balancer chooses from: one immutable object, replaced as a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.ejection import is_available
from backendpool_async.balance.pauses import CHUNK, collected, pause
from backendpool_async.snapshot import Snapshot

# While a backend returns slowly, its share grows in so many steps.
STEPS: Final = 10


@dataclass(frozen=True, slots=True)
class View:
    """The candidates at one moment: those listed, those available, and those to choose among.

    `is_panic`: fewer are available than the panic threshold asks for, so all are chosen among.
    `changes_at`: when it is out of date by the clock alone, infinite when never.
    """

    snapshot: Snapshot
    listed: Sequence[Candidate]
    available: Sequence[Candidate]
    chosen_among: Sequence[Candidate]
    is_panic: bool
    changes_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRules:
    """How a view comes about: see the keywords of `Balancer`."""

    panic_threshold: float
    slow_start: float
    zone: str | None
    zone_threshold: float

    def view(self, snapshot: Snapshot, listed: Sequence[Candidate], now: float) -> View:
        """Return the view of these candidates at this time, and weigh them."""
        available = collected(each for each in listed if is_available(each, now))
        is_panic = len(available) < self.panic_threshold * len(listed)
        chosen_among: Sequence[Candidate] = listed if is_panic else self._near(listed, available)
        return View(
            snapshot,
            listed,
            available,
            chosen_among,
            is_panic,
            min(self._next_ejection_end(listed, now), self._weigh(chosen_among, now)),
        )

    def _near(
        self, listed: Sequence[Candidate], available: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        if self.zone is None:
            return available
        near = collected(each for each in available if each.backend.zone == self.zone)
        all_near = sum(each.backend.zone == self.zone for each in listed)
        return near if near and len(near) >= self.zone_threshold * all_near else available

    def _next_ejection_end(self, listed: Sequence[Candidate], now: float) -> float:
        ends = collected(
            each.record.until for each in listed if each.record and now < each.record.until
        )
        return min(ends, default=math.inf)

    def _weigh(self, chosen_among: Sequence[Candidate], now: float) -> float:
        """Set the weights; return when the first of them changes, infinite when none does."""
        steps: dict[Candidate, int] = {}
        if self.slow_start:
            every = collected((each, self._step(each, now)) for each in chosen_among)
            steps = {each: step for each, step in every if step < STEPS}
        for number, each in enumerate(chosen_among, 1):
            # All are multiplied while one returns, so that a part of its weight is a whole number.
            each.weight = each.backend.weight * (steps.get(each, STEPS) if steps else 1)
            if number % CHUNK == 0:
                pause()
        step_time = self.slow_start / STEPS
        nexts = (step * step_time - _seconds_back(each, now) for each, step in steps.items())
        return now + min(nexts, default=math.inf)

    def _step(self, candidate: Candidate, now: float) -> int:
        """Return how far it has returned: from 1 to `STEPS`."""
        back = _seconds_back(candidate, now)
        if back >= self.slow_start or not is_available(candidate, now):
            return STEPS
        return int(back / self.slow_start * STEPS) + 1


def _seconds_back(candidate: Candidate, now: float) -> float:
    """Return for how long it has been available again, infinite when it always was."""
    ejection_end = candidate.record.until if candidate.record else -math.inf
    found_well = candidate.healthy_since if candidate.healthy_since is not None else -math.inf
    return now - max(ejection_end, found_well)
