"""Checks of the numbers that constructors take."""

from __future__ import annotations

import math
from collections.abc import Collection


def seconds(name: str, value: float) -> float:
    """Return a number of seconds above 0; TypeError or ValueError naming the keyword."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r} is no number of seconds")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}={value!r} is not above 0 and finite")
    return float(value)


def count(name: str, value: int) -> int:
    """Return a whole number of at least 1; TypeError or ValueError naming the keyword."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r} is no whole number")
    if value < 1:
        raise ValueError(f"{name}={value!r} is not at least 1")
    return value


def share(name: str, value: float) -> float:
    """Return a number above 0 and at most 1; TypeError or ValueError naming the keyword."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r} is no number")
    if not 0 < value <= 1:
        raise ValueError(f"{name}={value!r} is not above 0 and at most 1")
    return float(value)


def seconds_or_0(name: str, value: float) -> float:
    """Return a number of seconds, 0 or more; TypeError or ValueError naming the keyword."""
    if _is_zero(value):
        return 0.0
    try:
        return seconds(name, value)
    except ValueError:
        raise ValueError(f"{name}={value!r} is not 0 or more and finite") from None


def share_or_0(name: str, value: float) -> float:
    """Return a number from 0 to 1; TypeError or ValueError naming the keyword."""
    if _is_zero(value):
        return 0.0
    try:
        return share(name, value)
    except ValueError:
        raise ValueError(f"{name}={value!r} is not from 0 to 1") from None


def statuses(name: str, value: Collection[int]) -> frozenset[int]:
    """Return status codes of HTTP; TypeError or ValueError naming the keyword."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Collection):
        raise TypeError(f"{name}={value!r} is no collection of status codes")
    for status in value:
        if isinstance(status, bool) or not isinstance(status, int):
            raise TypeError(f"{name}={value!r}: {status!r} is no whole number")
        if not 100 <= status <= 599:
            raise ValueError(f"{name}={value!r}: {status!r} is no status from 100 to 599")
    return frozenset(value)


def _is_zero(value: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0
