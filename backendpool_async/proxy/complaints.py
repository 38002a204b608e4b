"""Log lines about backends, few enough to be read."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from backendpool_async.errors import describe
from backendpool_async.logs import log

_APART: Final = 10.0
_REMEMBERED: Final = 1024


class Complaints:
    """One line about a backend and a kind of trouble, and then none for ten seconds."""

    __slots__ = ("_clock", "_last")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def complain(self, backend: str, what: str, error: BaseException | None) -> None:
        """Log it, if it is time, with how many were not logged since the line before."""
        now = self._clock()
        said = self._last.get((backend, what))
        if said is not None and now - said[0] < _APART:
            self._last[backend, what] = (said[0], said[1] + 1)
            return
        if len(self._last) >= _REMEMBERED:
            self._last.clear()
        self._last[backend, what] = (now, 0)
        why = "" if error is None else f": {describe(error)}"
        more = f" (and {said[1]} times more since it was last said)" if said and said[1] else ""
        log(logging.WARNING, f"proxy: {backend}: {what}{why}{more}")
