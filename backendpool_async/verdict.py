"""What becomes of an answer: it is believed, doubted, or kept out."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from typing import Final

from backendpool_async.backend import Backend
from backendpool_async.errors import (
    BackendPoolError,
    EmptyAnswer,
    ShrunkAnswer,
    SourceError,
    SourceTimeout,
    counted,
    describe,
    reason_of,
    without_tracebacks,
)
from backendpool_async.flight import Flight, Outcome
from backendpool_async.keywords import count, seconds, share
from backendpool_async.live import LiveList
from backendpool_async.logs import log
from backendpool_async.snapshot import Snapshot
from backendpool_async.source import Answer

# How often a shrunk answer is to come when a negative one is never believed.
_SHRUNK_AFTER: Final = 3
# Believed at once, it would not be held back at all.
_SHRUNK_AT_LEAST: Final = 2
_GOOD: Final = "good"
# All that can come of a refresh, so that each of them is counted from 0.
_OUTCOMES: Final = (
    _GOOD,
    *(kind.__name__ for kind in (SourceError, SourceTimeout, EmptyAnswer, ShrunkAnswer)),
)


class JudgingList(LiveList):
    """A live list that takes good answers, and says why it does not take the others."""

    __slots__ = ("_empty_after", "_failures", "_max_shrink", "_refreshes", "_timeout")

    def __init__(
        self,
        name: str,
        initial: tuple[Backend, ...],
        max_backends: int,
        *,
        timeout: float,
        empty_after: int | None,
        max_shrink: float | None,
    ) -> None:
        super().__init__(name, initial, max_backends)
        self._timeout = seconds("timeout", timeout)
        self._empty_after = None if empty_after is None else count("empty_after", empty_after)
        self._max_shrink = None if max_shrink is None else share("max_shrink", max_shrink)
        self._failures = 0
        self._refreshes = dict.fromkeys(_OUTCOMES, 0)

    @property
    def refreshes(self) -> Mapping[str, int]:
        """How many refreshes came to what, ever: "good", or the class of the error by its name.

        Good are the answers that were believed, "none" and one overtaken by an `update()` included.
        A refresh that was cancelled came to nothing, and a fixed list has none. From any thread.

        >>> from backendpool_async import BackendPool
        >>> BackendPool.static(["10.0.0.1:8080"]).refreshes
        {'good': 0, 'SourceError': 0, 'SourceTimeout': 0, 'EmptyAnswer': 0, 'ShrunkAnswer': 0}
        """
        return dict(self._refreshes)

    def _count_refresh(self, result: Snapshot | BackendPoolError) -> None:
        self._refreshes[_GOOD if isinstance(result, Snapshot) else type(result).__name__] += 1

    def _judge(self, flight: Flight, outcome: Outcome) -> Snapshot | SourceError:
        if isinstance(outcome, Answer):
            if outcome.backends:
                if self._is_shrunk(outcome, flight):
                    return self._doubt_shrunk(outcome, flight)
                return self._believe(outcome.backends, outcome.ttl, flight)
            outcome = EmptyAnswer(self._name, "an empty list")
        if isinstance(outcome, EmptyAnswer):
            return self._doubt(outcome, flight)
        return self._keep(self._explained(outcome, overdue=flight.overdue))

    def _believe(
        self, backends: tuple[Backend, ...], ttl: float | None, flight: Flight
    ) -> Snapshot:
        before = self._snapshot
        taken = self._take(backends, flight.pushes)
        self._failures = 0
        if taken and not backends and (before.backends or before.error):
            log(logging.WARNING, f"{self._name}: the list is empty now, as the source keeps saying")
        elif taken and before.error is not None:
            log(logging.INFO, f"{self._name}: recovered with {counted(len(backends))}")
        self._plan_poll(ttl)
        return self._snapshot

    def _doubt(self, empty: EmptyAnswer, flight: Flight) -> Snapshot | EmptyAnswer:
        if self._pushes != flight.pushes:
            return self._believe((), None, flight)
        self._negatives += 1
        # They are to come in a row.
        self._shrinks = 0
        if self._empty_after is not None and self._negatives >= self._empty_after:
            return self._believe((), None, flight)
        times = (
            f"{self._negatives} of {self._empty_after}" if self._empty_after else "never believed"
        )
        error = EmptyAnswer(
            self._name, f"{reason_of(empty)} (negative answer {times})", self._kept()
        )
        error.__cause__ = empty.__cause__ and without_tracebacks(empty.__cause__)
        self._record(error)
        if self._snapshot.backends:
            # No hurry to lose what is served; with nothing to serve, the wait is for a beginning.
            self._plan_poll(None)
        else:
            self._retry()
        return error

    def _is_shrunk(self, answer: Answer, flight: Flight) -> bool:
        return (
            self._max_shrink is not None
            and self._pushes == flight.pushes
            and answer._dropped > self._max_shrink * len(self._snapshot.backends)
        )

    def _doubt_shrunk(self, answer: Answer, flight: Flight) -> Snapshot | ShrunkAnswer:
        self._negatives = 0
        self._shrinks += 1
        needed = max(self._empty_after or _SHRUNK_AFTER, _SHRUNK_AT_LEAST)
        if self._shrinks >= needed:
            return self._believe(answer.backends, answer.ttl, flight)
        held = len(self._snapshot.backends)
        times = f"answer {self._shrinks} of {needed} that says so"
        error = ShrunkAnswer(
            self._name, f"{answer._dropped} of {held} would go ({times})", self._kept()
        )
        self._record(error)
        self._plan_poll(answer.ttl)
        return error

    def _keep(self, error: SourceError) -> SourceError:
        self._record(error)
        self._retry()
        return error

    def _explained(self, outcome: BaseException, *, overdue: bool) -> SourceError:
        if overdue:
            return SourceTimeout(self._name, f"no answer within {self._timeout:g} s", self._kept())
        kind = SourceTimeout if isinstance(outcome, (SourceTimeout, TimeoutError)) else SourceError
        if isinstance(outcome, SourceError) and type(outcome) in (SourceError, SourceTimeout):
            error = kind(self._name, reason_of(outcome), self._kept())
            cause = outcome.__cause__
        else:
            error = kind(self._name, describe(outcome), self._kept())
            cause = outcome
        error.__cause__ = cause and without_tracebacks(cause)
        return error

    def _kept(self) -> str:
        snapshot = self._snapshot
        if not snapshot.backends:
            return "there is nothing to serve"
        age = "" if snapshot.age is None else f" of {snapshot.age:.1f} s ago"
        return f"keeping the {counted(len(snapshot.backends))}{age}"

    def _record(self, error: SourceError) -> None:
        if self._snapshot.error is None:
            log(logging.WARNING, str(error))
        self._fail(error)

    def _retry(self) -> None:
        self._failures += 1
        self._plan_retry(self._failures)

    @abstractmethod
    def _plan_poll(self, ttl: float | None) -> None:
        """Ask again in due time."""

    @abstractmethod
    def _plan_retry(self, failures: int) -> None:
        """Ask again after the so-many-th failure in a row."""
