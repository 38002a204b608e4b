"""When to ask next: jitter, back-off, and timers that share their wake-ups. Pure functions."""

from __future__ import annotations

import math
import random
from typing import Final, NamedTuple

# Waking the event loop costs more than what it wakes for. Where a window allows, a moment is
# moved onto this grid, so the timers of many pools expire together.
GRID: Final = 0.1
_FINEST_GRID: Final = 0.001

_JITTER: Final = 0.1
_FIRST_RETRY: Final = 1.0
_SHORTEST_TTL: Final = 0.1
_RETRY_FACTOR: Final = 1.6
_RETRY_JITTER: Final = 0.2


class Window(NamedTuple):
    """The seconds from now between which something is due."""

    earliest: float
    latest: float


def first_poll(interval: float) -> Window:
    """Return the window of the first poll after a start.

    Wider than the others and never late: pools that were started together part at once. With the
    usual jitter alone they would ask in bursts of five times the mean for the first minutes.
    """
    return Window(interval * 0.5, interval * (1 + _JITTER))


def next_poll(interval: float) -> Window:
    """Return the window of a poll that follows another."""
    return Window(interval * (1 - _JITTER), interval * (1 + _JITTER))


def expiry(ttl: float, interval: float) -> Window:
    """Return the window after an answer with a time to live: not before it has passed.

    The poll interval is the limit, with its jitter taken off rather than added: an answer that is
    good for longer is asked for again at 90 % of it at the soonest. A TTL below 0.1 s counts
    as that: 0 means "do not keep", not "ask all the time".
    """
    ttl = max(ttl, min(_SHORTEST_TTL, interval))
    if ttl >= interval:
        return Window(interval * (1 - _JITTER), interval)
    return Window(ttl, min(ttl * (1 + _JITTER), interval))


def retry(failures: int, interval: float) -> Window:
    """Return the window after the `failures`-th failure in a row, never later than a poll."""
    exponent = min(failures - 1, 64)
    delay = min(min(_FIRST_RETRY, interval) * _RETRY_FACTOR**exponent, interval)
    return Window(delay * (1 - _RETRY_JITTER), min(delay * (1 + _RETRY_JITTER), interval))


def moment(now: float, window: Window) -> float:
    """Return a random moment in the window, on the grid where the window has such a moment.

    >>> 100.9 <= moment(100, Window(0.9, 1.1)) <= 101.1
    True
    """
    at = now + random.uniform(*window)
    # A narrow window has a finer grid, or its moments would all be the same.
    grid = min(GRID, (window.latest - window.earliest) / 4)
    if grid < _FINEST_GRID:
        return at
    above = math.ceil(at / grid) * grid
    if above <= now + window.latest:
        return above
    below = math.floor(at / grid) * grid
    return below if below >= now + window.earliest else at


class HintLimit:
    """How often hints are followed: ten at once, then ten a second."""

    __slots__ = ("_due",)

    _INTERVAL: Final = 0.1
    _BURST: Final = 1.0

    def __init__(self) -> None:
        self._due = -math.inf

    def delay(self, now: float) -> float:
        """Count one hint; return the seconds after which it may be followed, usually 0."""
        due = self._due = max(self._due, now) + self._INTERVAL
        return max(0.0, due - now - self._BURST)
