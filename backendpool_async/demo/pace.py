"""How fast the demo goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds, chosen so that a person can read along and is done in a quarter of a minute.

    `reading` is the rest after each act, `outage` the time for which all is broken, `patience`
    how long a pool may take to show what is expected of it. The others are what the pools are
    made with.
    """

    reading: float = 1.0
    outage: float = 1.5
    patience: float = 5.0
    env_interval: float = 0.5
    dns_interval: float = 1.2
    dns_timeout: float = 0.5
    dns_min_ttl: float = 0.5
    # Whole seconds, as DNS counts them.
    dns_ttl: int = 1


FOR_A_READER: Final = Pace()
