"""What a reader sees: one immutable object, replaced as a whole."""

from __future__ import annotations

import time
from dataclasses import dataclass

from backendpool_async.backend import Backend
from backendpool_async.errors import SourceError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The list at one moment, and what is known about it.

    `generation` moves when the list, its order or an attribute of a backend differs, and only
    then. `refreshed_at` is the `time.monotonic()` of the source's latest good answer, None before
    the first. `error` says why the source's latest answer was not taken, None when it was.

    >>> Snapshot((Backend("10.0.0.1:8080"),)).backends[0].port
    8080
    """

    backends: tuple[Backend, ...] = ()
    generation: int = 0
    refreshed_at: float | None = None
    error: SourceError | None = None

    @property
    def age(self) -> float | None:
        """Seconds since the source's latest good answer, None before the first."""
        return None if self.refreshed_at is None else time.monotonic() - self.refreshed_at
