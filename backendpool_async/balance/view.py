"""What a balancer chooses from: one immutable object, replaced as a whole."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.ejection import is_available
from backendpool_async.balance.pauses import CHUNK, collected, pause
from backendpool_async.balance.rendezvous import rendezvous
from backendpool_async.snapshot import Snapshot

# While a backend returns slowly, its share grows in so many steps.
STEPS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Among:
    """Of some candidates at one moment, those available and those to choose among.

    `is_panic`: fewer are available than the panic threshold asks for, and the own zone does not
    suffice, so all are chosen among.
    """

    available: Sequence[Candidate]
    chosen_among: Sequence[Candidate]
    is_panic: bool

    def beside(self, key: str | None, avoided: Collection[str]) -> Candidate | None:
        """Return one that is not avoided, None when none is left; takes its time with many.

        By weight at random, or by a key the same for the same key. One that is not to be chosen
        among, but available, is better than none.
        """
        for candidates in (self.chosen_among, self.available):
            left = [each for each in candidates if each.backend not in avoided]
            if left:
                if key is None:
                    return random.choices(left, [each.weight for each in left])[0]
                return rendezvous(key, left)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class View(Among):
    """The candidates at one moment: those listed, and whom to choose among.

    `unhealthy`: of how many of them checks say so. `changes_at`: when it is out of date by the
    clock alone, infinite when never. `returning`: those that get less than their weight for a
    while.
    """

    snapshot: Snapshot
    listed: Sequence[Candidate]
    unhealthy: int
    changes_at: float = math.inf
    returning: Collection[Candidate] = ()


# The view before the first one.
NOTHING: Final = View(
    available=(), chosen_among=(), is_panic=False, snapshot=Snapshot(), listed=(), unhealthy=0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRules:
    """How a view comes about: see the keywords of `Balancer`."""

    panic_threshold: float
    slow_start: float
    zone: str | None
    zone_threshold: float

    def view(self, snapshot: Snapshot, listed: Sequence[Candidate], now: float) -> View:
        """Return the view of these candidates at this time, and weigh them."""
        among = self.among(listed, now)
        # Nobody in a panic: who just returned is better than those that are out and chosen among.
        steps = {} if among.is_panic else self._steps(among.chosen_among, now)
        self._weigh(listed, steps)
        return View(
            available=among.available,
            chosen_among=among.chosen_among,
            is_panic=among.is_panic,
            snapshot=snapshot,
            listed=listed,
            unhealthy=unhealthy(listed),
            changes_at=min(self._next_ejection_end(listed, now), self._next_step(steps, now)),
            returning=steps.keys(),
        )

    def among(self, listed: Sequence[Candidate], now: float) -> Among:
        """Return whom of these to choose among at this time; changes nothing."""
        available = collected(each for each in listed if is_available(each, now))
        # Other zones may fall, and nothing is wrong here.
        near = self._near(listed, available)
        is_panic = not near and len(available) < self.panic_threshold * len(listed)
        chosen_among = listed if is_panic else near or available
        return Among(available=available, chosen_among=chosen_among, is_panic=is_panic)

    def _near(
        self, listed: Sequence[Candidate], available: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        """Return those of the own zone, none when too few of them are available."""
        if self.zone is None:
            return ()
        near = collected(each for each in available if each.backend.zone == self.zone)
        all_near = sum(each.backend.zone == self.zone for each in listed)
        return near if len(near) >= self.zone_threshold * all_near else ()

    def _next_ejection_end(self, listed: Sequence[Candidate], now: float) -> float:
        ends = collected(
            each.record.until for each in listed if each.record and now < each.record.until
        )
        return min(ends, default=math.inf)

    def _steps(self, chosen_among: Sequence[Candidate], now: float) -> dict[Candidate, int]:
        """Return how far each has returned that has not wholly."""
        if not self.slow_start:
            return {}
        every = collected((each, self._step(each, now)) for each in chosen_among)
        return {each: step for each, step in every if step < STEPS}

    def _weigh(self, listed: Sequence[Candidate], steps: Mapping[Candidate, int]) -> None:
        # Also those not to be chosen among: who avoids all of these falls back on them.
        for number, each in enumerate(listed, 1):
            # All are multiplied while one returns, so that a part of its weight is a whole number.
            each.weight = each.backend.weight * (steps.get(each, STEPS) if steps else 1)
            if number % CHUNK == 0:
                pause()

    def _next_step(self, steps: Mapping[Candidate, int], now: float) -> float:
        """Return when the first weight changes, infinite when none does."""
        step_time = self.slow_start / STEPS
        nexts = (step * step_time - _seconds_back(each, now) for each, step in steps.items())
        # Rounding may have it now, or before: whoever builds again at once finds the same.
        return max(now + min(nexts, default=math.inf), math.nextafter(now, math.inf))

    def _step(self, candidate: Candidate, now: float) -> int:
        """Return how far it has returned: from 1 to `STEPS`."""
        back = _seconds_back(candidate, now)
        if back >= self.slow_start:
            return STEPS
        return int(back / self.slow_start * STEPS) + 1


def unhealthy(listed: Sequence[Candidate]) -> int:
    """Return of how many checks say so."""
    return len(collected(each for each in listed if each.is_healthy is False))


def _seconds_back(candidate: Candidate, now: float) -> float:
    """Return for how long it has been available again, infinite when it always was."""
    ejection_end = candidate.record.until if candidate.record else -math.inf
    found_well = candidate.healthy_since if candidate.healthy_since is not None else -math.inf
    return now - max(ejection_end, found_well)
