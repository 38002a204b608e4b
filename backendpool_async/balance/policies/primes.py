"""Sizes for a table that is gone through in steps of any length."""

from __future__ import annotations

import math
from typing import Final

# The first primes above 2 to the power of 16, 18, 20 and 22.
PRIMES: Final = (65_537, 262_147, 1_048_583, 4_194_319)


def is_prime(number: int) -> bool:
    """Whether it is one.

    >>> [number for number in range(12) if is_prime(number)]
    [2, 3, 5, 7, 11]
    """
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
