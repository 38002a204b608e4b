"""Which candidates there are, kept by address through refreshes and brief absences."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from backendpool_async.backend import Backend
from backendpool_async.balance.candidate import Candidate

# A list of 10,000 is gone through in a thread: after so many it lets the others run.
_AT_A_STRETCH: Final = 512


class Roster:
    """The candidate of every address that is listed, or was until `forget_after` seconds ago."""

    __slots__ = ("_absent_since", "_all", "_forget_after")

    def __init__(self, forget_after: float) -> None:
        self._all: dict[Backend, Candidate] = {}
        self._absent_since: dict[Backend, float] = {}
        self._forget_after = forget_after

    def enlist(self, backends: Sequence[Backend], now: float) -> list[Candidate]:
        """Return the candidates of this list, in its order; who is missing in it is absent."""
        # First: who comes back after so long is not remembered.
        self._forget(now)
        listed: list[Candidate] = []
        for number, backend in enumerate(backends):
            # One and the same, whoever asks first: health checks ask for themselves.
            candidate = self._all.get(backend) or self.known(backend)
            # The address is the same, the weight may be another.
            candidate.backend = backend
            listed.append(candidate)
            if number % _AT_A_STRETCH == _AT_A_STRETCH - 1:
                time.sleep(0)
        self._note_absence(set(backends), now)
        return listed

    def known(self, backend: Backend) -> Candidate:
        """Return the candidate of an address, the same every time."""
        return self._all.setdefault(backend, Candidate(backend))

    def _forget(self, now: float) -> None:
        due = [each for each, t in self._absent_since.items() if now - t >= self._forget_after]
        for address in due:
            if not self._all[address].in_flight:
                del self._all[address], self._absent_since[address]

    def _note_absence(self, present: set[Backend], now: float) -> None:
        if len(present) == len(self._all):
            self._absent_since.clear()
            return
        for address in self._all.keys() - present:
            self._absent_since.setdefault(address, now)
        for address in self._absent_since.keys() & present:
            del self._absent_since[address]
