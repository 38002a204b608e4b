"""Outlier ejection: backends that fail get no requests for a while."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backendpool_async.balance.candidate import Candidate, Record
from backendpool_async.keywords import count, seconds, share

_JITTER: Final = 0.1


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
    * `max_ejected`: the largest share of the backends that are ejected at once. The last one never
      is.
    * `failure_percentage`, `success_rate`: other reasons to eject, judged every `interval` seconds.

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


class Ejector:
    """Ejects by the rules of one `OutlierEjection`; whoever calls it sees to it that one does."""

    __slots__ = ("_before", "_judged_at", "_rules")

    def __init__(self, rules: OutlierEjection, now: float) -> None:
        self._rules = rules
        self._judged_at = now
        # What a candidate had counted when it was judged last.
        self._before: dict[Candidate, tuple[int, int]] = {}

    def failed(self, candidate: Candidate, listed: Sequence[Candidate], now: float) -> str | None:
        """Eject it if it has failed too often in a row; return what then is to be said."""
        if is_ejected(candidate, now):
            # What was in flight still fails; what comes after its return is counted anew.
            candidate.consecutive_failures = 0
            return None
        limit = self._rules.consecutive_failures
        if limit is None or candidate.consecutive_failures < limit:
            return None
        return self._eject(
            candidate, listed, now, f"{candidate.consecutive_failures} failures in a row"
        )

    def is_due(self, now: float) -> bool:
        """Whether the rates of the latest interval are to be judged."""
        rules = self._rules
        return (
            rules.failure_percentage is not None or rules.success_rate is not None
        ) and now >= self._judged_at + rules.interval

    def judge(self, listed: Sequence[Candidate], now: float) -> list[str]:
        """Eject by rate; return what is to be said of each."""
        counted: dict[Candidate, tuple[int, int]] = {}
        for each in listed:
            requests, failures = self._before.get(each, (0, 0))
            counted[each] = (each.requests - requests, each.failures - failures)
        self._before = {each: (each.requests, each.failures) for each in listed}
        self._judged_at = now
        ejections = (
            self._eject(each, listed, now, why) for each, why in self._outliers(counted).items()
        )
        return [ejection for ejection in ejections if ejection is not None]

    def _outliers(self, counted: dict[Candidate, tuple[int, int]]) -> dict[Candidate, str]:
        found: dict[Candidate, str] = {}
        percentage, success = self._rules.failure_percentage, self._rules.success_rate
        if success is not None:
            rates = _rates(counted, success.minimum_requests)
            if len(rates) >= success.minimum_backends:
                mean = statistics.fmean(rates.values())
                floor = mean - success.deviations * statistics.pstdev(rates.values())
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

    def _eject(
        self, candidate: Candidate, listed: Sequence[Candidate], now: float, reason: str
    ) -> str | None:
        rules = self._rules
        if is_ejected(candidate, now):
            return None
        ejected = sum(is_ejected(each, now) for each in listed)
        if ejected + 1 > min(math.floor(len(listed) * rules.max_ejected), len(listed) - 1):
            return None
        record = candidate.record = candidate.record or Record()
        well_since = max(0.0, now - record.until) if record.times else 0.0
        record.times = max(0, record.times - int(well_since / rules.base_ejection_time)) + 1
        time = min(rules.base_ejection_time * record.times, rules.max_ejection_time)
        record.until = now + time * random.uniform(1, 1 + _JITTER)
        record.reason = reason
        # What comes after its return is counted anew.
        candidate.consecutive_failures = 0
        return f"{candidate.backend} is ejected for {record.until - now:.0f} s: {reason}"


def is_ejected(candidate: Candidate, now: float) -> bool:
    """Whether it gets no requests at this time."""
    return candidate.record is not None and now < candidate.record.until


def _rates(counted: dict[Candidate, tuple[int, int]], minimum: int) -> dict[Candidate, float]:
    return {
        each: 1 - failures / requests
        for each, (requests, failures) in counted.items()
        if requests >= minimum
    }
