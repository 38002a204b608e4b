"""What the outcome of a lease does to what is known about its backend."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from backendpool_async.balance.candidate import Candidate, LastFailure
from backendpool_async.balance.ejection import Ejector, Listing
from backendpool_async.balance.failures import Failure

_WEIGHT_OF_ONE: Final = 0.1
# A failure that comes fast is no sign of speed: to a policy that measures, it took so long at
# least, and as long as what the backend does otherwise.
_FAILURE_TAKES: Final = 1.0

Clock = Callable[[], float]
Classify = Callable[[BaseException], Failure | None]


@runtime_checkable
class ObservingPolicy(Protocol):
    """A policy that wants to know how long each request took."""

    def observe(self, candidate: Candidate, seconds: float, now: float) -> None: ...


class OutcomeRecorder:
    """Counts what leases report, and ejects who fails too often."""

    __slots__ = (
        "_ejected",
        "_ejector",
        "_listing",
        "_lock",
        "_observe",
        "_unreachable",
        "_view_changes",
        "_view_changes_at",
        "classify",
        "clock",
        "due",
    )

    def __init__(
        self,
        clock: Clock,
        classify: Classify,
        policy: object,
        ejector: Ejector | None,
        *,
        listing: Callable[[], Listing],
        ejected: Callable[[str], None],
        view_changes: Callable[[], None],
        unreachable: Callable[[], None],
    ) -> None:
        self.clock: Clock = clock
        self.classify: Classify = classify
        self._observe = policy.observe if isinstance(policy, ObservingPolicy) else None
        self._ejector = ejector
        self._listing = listing
        self._ejected = ejected
        self._view_changes = view_changes
        self._unreachable = unreachable
        self._view_changes_at = math.inf
        self.due: float = math.inf
        """When somebody has to look at the view or the rates: one comparison a lease."""
        self.reset()
        self.view_changes_at(math.inf)

    def view_changes_at(self, at: float) -> None:
        """Take note of when the view that is in use now is out of date by the clock alone."""
        with self._lock:
            self._view_changes_at = at
            self.due = min(at, self._next_judgement)

    def reset(self) -> None:
        """Begin anew in a forked child: whatever held a lock is not in it."""
        # Two threads that eject at once could eject more than they may together. Reentrant: the
        # garbage collector may end a lease anywhere. Nobody who holds it waits for a view.
        self._lock = threading.RLock()

    def succeeded(self, candidate: Candidate, took: float, now: float) -> None:
        """A request came to its end."""
        candidate.requests += 1
        candidate.consecutive_failures = 0
        # As `_measure` has it, written out: this is the way of nearly every lease.
        before = candidate.latency
        candidate.latency = took if before is None else before + (took - before) * _WEIGHT_OF_ONE
        if self._observe is not None:
            self._observe(candidate, took, now)
        if now >= self.due:
            self._see_to_what_is_due(now)

    def failed(
        self, candidate: Candidate, took: float, now: float, kind: Failure, reason: str
    ) -> None:
        """A request did not, and the backend is to blame."""
        candidate.requests += 1
        candidate.failures += 1
        candidate.consecutive_failures += 1
        candidate.last_failure = LastFailure(now, reason)
        if self._observe is not None:
            self._observe(candidate, max(took, _FAILURE_TAKES, candidate.latency or 0.0), now)
        ejector = self._ejector
        if ejector is not None and ejector.is_due(candidate, now):
            listing = self._listing()
            with self._lock:
                ejection = ejector.failed(candidate, listing, now)
            if ejection is not None:
                self._ejected(ejection)
        if now >= self.due:
            self._see_to_what_is_due(now)
        if kind is Failure.CONNECT:
            self._unreachable()

    def neutral(self, candidate: Candidate, took: float, now: float) -> None:
        """A request ended, and that says nothing of the backend but that it took so long."""
        if candidate.latency is None or took > candidate.latency:
            self._measure(candidate, took, now)
        if now >= self.due:
            self._see_to_what_is_due(now)

    def _measure(self, candidate: Candidate, took: float, now: float) -> None:
        before = candidate.latency
        candidate.latency = took if before is None else before + (took - before) * _WEIGHT_OF_ONE
        if self._observe is not None:
            self._observe(candidate, took, now)

    @property
    def _next_judgement(self) -> float:
        return math.inf if self._ejector is None else self._ejector.next_judgement

    def _see_to_what_is_due(self, now: float) -> None:
        ejections = self._judged(now)
        with self._lock:
            view_is_due = now >= self._view_changes_at
            # Said once; when it is due next, the next view says. That may have come meanwhile.
            self.due = min(math.inf if view_is_due else self._view_changes_at, self._next_judgement)
        if view_is_due:
            # Nobody's timer may run: without a loop, whoever ends a lease sees to it.
            self._view_changes()
        for ejection in ejections:
            self._ejected(ejection)

    def _judged(self, now: float) -> list[str]:
        ejector = self._ejector
        if ejector is None or now < ejector.next_judgement:
            return []
        listing = self._listing()
        with self._lock:
            # Another thread may have been faster.
            return [] if now < ejector.next_judgement else ejector.judge(listing, now)
