"""The time of an answer, as HTTP writes it."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache


def http_date() -> bytes:
    """Return the value of Date for now (RFC 9110, section 5.6.7).

    >>> len(http_date())
    29
    """
    return _written(int(time.time()))


@lru_cache(maxsize=1)
def _written(seconds: int) -> bytes:
    return formatdate(seconds, usegmt=True).encode()
