"""What was counted of all backends together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.pauses import CHUNK, pause


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over backends; `in_flight` is of this moment, the others only grow."""

    picks: int = 0
    requests: int = 0
    failures: int = 0
    ejections: int = 0
    in_flight: int = 0

    def plus(self, candidates: Iterable[Candidate]) -> Totals:
        """Return the sums with these added."""
        picks, requests, failures = self.picks, self.requests, self.failures
        ejections, in_flight = self.ejections, self.in_flight
        for number, each in enumerate(candidates, 1):
            picks += each.picks
            requests += each.requests
            failures += each.failures
            ejections += each.ejections
            in_flight += each.in_flight
            if number % CHUNK == 0:
                pause()
        return Totals(picks, requests, failures, ejections, in_flight)
