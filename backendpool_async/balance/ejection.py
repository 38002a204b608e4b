"""Outlier ejection: backends that fail get no requests for a while."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from backendpool_async.balance.candidate import Candidate, EjectionRecord
from backendpool_async.keywords import count, seconds, share

_JITTER: Final = 0.1
# Going through so many takes some 10 microseconds.
_FEW: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePercentage:
    """Eject a backend of whose requests in an interval at least `threshold` failed.

    Envoy's ``failure_percentage``, with its defaults: 0.85 of at least 50 requests in 10 s, and
    only when at least five backends had so many.
    """

    threshold: float = 0.85
    minimum_requests: int = 50
    minimum_backends: int = 5

    def __post_init__(self) -> None:
        share("threshold", self.threshold)
        count("minimum_requests", self.minimum_requests)
        count("minimum_backends", self.minimum_backends)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessRate:
    """Eject a backend that succeeds much less often than the others do.

    Envoy's ``success_rate``, with its defaults: below the mean less 1.9 standard deviations of the
    backends that had at least 100 requests in 10 s, when there are at least five of these.
    """

    deviations: float = 1.9
    minimum_requests: int = 100
    minimum_backends: int = 5

    def __post_init__(self) -> None:
        seconds("deviations", self.deviations)
        count("minimum_requests", self.minimum_requests)
        count("minimum_backends", self.minimum_backends)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierEjection:
    """When a backend that fails is ejected, and for how long.

    * `consecutive_failures`: in a row, whoever saw them; None never ejects for that.
    * `base_ejection_time`: seconds, times how often it has been ejected; up to 10 % longer, so that
      several do not return together. Each such time that it then stays without being ejected
      takes one off.
    * `max_ejection_time`: seconds, the limit of that.
    * `max_ejected`: the largest share of the backends that are ejected at once, counted at the
      moment of an ejection, with those that checks found unhealthy (of a long list, when it was
      gone through last). The last one never is. When the list shrinks or a check fails afterwards,
      more of it may be out.
    * `failure_percentage`, `success_rate`: other reasons to eject, judged every `interval` seconds,
      at the end of a lease. What two intervals without one have gathered is not judged.

    The words and the defaults are Envoy's, but for `max_ejected` (Envoy: 10 %). Raises TypeError or
    ValueError for a number out of range.

    >>> OutlierEjection(consecutive_failures=3).base_ejection_time
    30.0
    """

    consecutive_failures: int | None = 5
    base_ejection_time: float = 30.0
    max_ejection_time: float = 300.0
    max_ejected: float = 0.5
    interval: float = 10.0
    failure_percentage: FailurePercentage | None = None
    success_rate: SuccessRate | None = None

    def __post_init__(self) -> None:
        if self.consecutive_failures is not None:
            count("consecutive_failures", self.consecutive_failures)
        seconds("base_ejection_time", self.base_ejection_time)
        seconds("max_ejection_time", self.max_ejection_time)
        share("max_ejected", self.max_ejected)
        seconds("interval", self.interval)


@dataclass(frozen=True, slots=True)
class Listing:
    """The backends of which some may be ejected.

    `unhealthy`: of how many checks say so. `size`: how many of them there are still, at most.
    """

    listed: Sequence[Candidate]
    unhealthy: int
    size: int


class Ejector:
    """Ejects by the rules of one `OutlierEjection`; whoever calls it sees to it that one does."""

    __slots__ = (
        "_counted",
        "_done",
        "_ejected",
        "_ends",
        "_most_times",
        "_rules",
        "next_judgement",
    )

    def __init__(self, rules: OutlierEjection, now: float) -> None:
        self._rules = rules
        self.next_judgement: float = math.inf
        """When the rates of the latest interval are to be judged, infinite when never."""
        if rules.failure_percentage is not None or rules.success_rate is not None:
            self.next_judgement = now + rules.interval
        # More would be forgiven one by one for days, and the limit is reached already.
        self._most_times = math.ceil(rules.max_ejection_time / rules.base_ejection_time)
        self._done = 0
        # Each once: what is ejected again while a view stays is still one backend.
        self._ejected: dict[Candidate, None] = {}
        # Of those that are in a list and not unhealthy besides: when their ejections end.
        self._counted: Sequence[Candidate] | None = None
        self._ends: list[float] = []

    def is_due(self, candidate: Candidate, now: float) -> bool:
        """Whether it has failed too often in a row, and is to be ejected."""
        if is_ejected(candidate, now):
            # What was in flight still fails; what comes after its return is counted anew.
            candidate.consecutive_failures = 0
            return False
        limit = self._rules.consecutive_failures
        return limit is not None and candidate.consecutive_failures >= limit

    def failed(self, candidate: Candidate, listing: Listing, now: float) -> str | None:
        """Eject it if that is still due; return what then is to be said."""
        if not self.is_due(candidate, now):
            return None
        why = f"{candidate.consecutive_failures} failures in a row"
        return next(iter(self._eject({candidate: why}, listing, now)), None)

    def judge(self, listing: Listing, now: float) -> list[str]:
        """Eject by rate; return what is to be said of each."""
        counted: dict[Candidate, tuple[int, int]] = {}
        for each in listing.listed:
            requests, failures = each.judged
            each.judged = (each.requests, each.failures)
            counted[each] = (each.requests - requests, each.failures - failures)
        is_late = now - self.next_judgement > self._rules.interval
        self.next_judgement = now + self._rules.interval
        # Without requests nobody judges: what was long ago says nothing of now.
        return [] if is_late else self._eject(self._outliers(counted), listing, now)

    def _outliers(self, counted: dict[Candidate, tuple[int, int]]) -> dict[Candidate, str]:
        found: dict[Candidate, str] = {}
        percentage, success = self._rules.failure_percentage, self._rules.success_rate
        if success is not None:
            rates = _rates(counted, success.minimum_requests)
            if len(rates) >= success.minimum_backends:
                mean = statistics.fmean(rates.values())
                # Not `statistics.pstdev`: exact, and ten times as long.
                variance = sum((rate - mean) ** 2 for rate in rates.values()) / len(rates)
                floor = mean - success.deviations * math.sqrt(variance)
                for each, rate in rates.items():
                    if rate < floor:
                        found[each] = f"{rate:.0%} succeed, of all {mean:.0%}"
        if percentage is not None:
            rates = _rates(counted, percentage.minimum_requests)
            if len(rates) >= percentage.minimum_backends:
                for each, rate in rates.items():
                    if 1 - rate >= percentage.threshold:
                        found[each] = f"{1 - rate:.0%} of the requests failed"
        return found

    def _eject(self, reasons: dict[Candidate, str], listing: Listing, now: float) -> list[str]:
        """Eject as many of these as may be; return what is to be said of each."""
        said: list[str] = []
        room, counted_at = 0, -1
        for candidate, reason in reasons.items():
            if is_ejected(candidate, now) or not candidate.is_listed:
                continue
            record = candidate.record or EjectionRecord()
            times = self._times(record, now)
            until = now + self._time(times)
            # Counted once for all of them, or there would be n times n steps. Once more only when
            # a signal handler or the garbage collector ended a lease, and so ejected another one
            # of them, in between.
            while counted_at != self._done:
                counted_at = self._done
                room = self._room(listing, now)
            # Nothing is called from the comparison to the end of this, so nothing comes between.
            if room <= 0 or (candidate.record is not None and now < candidate.record.until):
                continue
            candidate.record = record
            record.times, record.until, record.reason = times, until, reason
            candidate.ejections += 1
            # What comes after its return is counted anew.
            candidate.consecutive_failures = 0
            self._ejected[candidate] = None
            heappush(self._ends, until)
            room -= 1
            counted_at += 1
            self._done += 1
            said.append(f"{candidate.backend} is ejected for {until - now:.0f} s: {reason}")
        return said

    def _times(self, record: EjectionRecord, now: float) -> int:
        well_since = max(0.0, now - record.until) if record.times else 0.0
        times = max(0, record.times - int(well_since / self._rules.base_ejection_time)) + 1
        return min(times, self._most_times)

    def _time(self, times: int) -> float:
        rules = self._rules
        time = min(rules.base_ejection_time * times, rules.max_ejection_time)
        return time * random.uniform(1, 1 + _JITTER)

    def _room(self, listing: Listing, now: float) -> int:
        """Return how many more may be ejected now, 0 or less for none."""
        most = min(math.floor(listing.size * self._rules.max_ejected), listing.size - 1)
        return most - self._out(listing, now)

    def _out(self, listing: Listing, now: float) -> int:
        """Return how many of these are not available."""
        if len(listing.listed) <= _FEW:
            # What checks say may be newer than the view.
            return sum(not is_available(each, now) for each in listing.listed)
        # While all fail, each failure asks: going through a long list each time takes the loop.
        while self._counted is not listing.listed:
            self._count(listing.listed, now)
        while self._ends and self._ends[0] <= now:
            heappop(self._ends)
        return listing.unhealthy + len(self._ends)

    def _count(self, listed: Sequence[Candidate], now: float) -> None:
        """Count those ejected of another list, or none of them if one comes in between."""
        done = self._done
        ejected = [each for each in list(self._ejected) if is_ejected(each, now)]
        inside = [each for each in ejected if each.is_listed and each.is_healthy is not False]
        ends = sorted([each.record.until for each in inside if each.record])
        # Nothing is called from here on, as in `_eject`.
        if done == self._done:
            self._counted, self._ejected, self._ends = listed, dict.fromkeys(ejected), ends


def is_ejected(candidate: Candidate, now: float) -> bool:
    """Whether it gets no requests at this time."""
    return candidate.record is not None and now < candidate.record.until


def is_available(candidate: Candidate, now: float) -> bool:
    """Whether it deserves requests: neither ejected nor found unhealthy by a check."""
    return candidate.is_healthy is not False and not is_ejected(candidate, now)


def state_of(candidate: Candidate, now: float) -> str:
    """Return ``available``, ``ejected`` or ``unhealthy``."""
    if is_available(candidate, now):
        return "available"
    return "ejected" if is_ejected(candidate, now) else "unhealthy"


def _rates(counted: dict[Candidate, tuple[int, int]], minimum: int) -> dict[Candidate, float]:
    return {
        each: 1 - failures / requests
        for each, (requests, failures) in counted.items()
        if requests >= minimum
    }
