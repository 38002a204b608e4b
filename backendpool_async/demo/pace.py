"""How fast the demo goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Pace:
    """Numbers chosen so that a person can read along and is done in about ten seconds.

    `rate` is in requests a second, `answers_after` the seconds that a backend takes for one. Of the
    other seconds, `reading` is the rest after each act, `draining` the time between the end of a
    backend's listing and its own, `outage` that for which both lists are broken, `patience` how
    long anything may take that is expected. The rest is what the pool of the name is made with.
    """

    rate: float = 200.0
    answers_after: float = 0.005
    reading: float = 0.7
    draining: float = 0.3
    outage: float = 1.5
    patience: float = 5.0
    dns_interval: float = 1.2
    dns_timeout: float = 0.5
    dns_min_ttl: float = 0.5
    # Whole seconds, as DNS counts them.
    dns_ttl: int = 1


FOR_A_READER: Final = Pace()
