"""Which candidates there are, kept by address through refreshes and brief absences."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from backendpool_async.backend import Backend
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.pauses import CHUNK, collected, pause
from backendpool_async.balance.totals import Totals


class CandidateRegistry:
    """The candidate of every address that is listed, or was until `forget_after` seconds ago."""

    __slots__ = ("_absent_since", "_all", "_forget_after", "_forgetting", "_forgotten")

    def __init__(self, forget_after: float) -> None:
        self._all: dict[Backend, Candidate] = {}
        self._absent_since: dict[Backend, float] = {}
        self._forget_after = forget_after
        self._forgotten = Totals()
        self.reset()

    def reset(self) -> None:
        """Begin anew in a forked child: whatever held the lock is not in it."""
        # A sum taken while one is forgotten would lack it, or have it twice. Reentrant: a signal
        # handler may come back here.
        self._forgetting = threading.RLock()

    def update(self, backends: Sequence[Backend], now: float) -> list[Candidate]:
        """Return the candidates of this list, in its order; who is missing in it is absent."""
        # First: who comes back after so long is not remembered.
        self._forget(now)
        listed: list[Candidate] = []
        for number, backend in enumerate(backends):
            candidate = self.get_or_create(backend)
            # The address is the same, the weight may be another.
            candidate.backend = backend
            candidate.is_listed = True
            listed.append(candidate)
            if number % CHUNK == CHUNK - 1:
                pause()
        self._note_absence(set(backends), now)
        return listed

    def get_or_create(self, backend: Backend) -> Candidate:
        """Return the candidate of an address, the same every time."""
        # One and the same, whoever asks first: health checks ask at each result, from their thread.
        return self._all.get(backend) or self._all.setdefault(backend, Candidate(backend))

    def totals(self) -> Totals:
        """Return what was counted of all of them, those included that were forgotten since."""
        with self._forgetting:
            forgotten, known = self._forgotten, list(self._all.values())
        return forgotten.plus(known)

    def _forget(self, now: float) -> None:
        due = [each for each, t in self._absent_since.items() if now - t >= self._forget_after]
        idle = [address for address in due if not self._all[address].in_flight]
        if not idle:
            return
        with self._forgetting:
            self._forgotten = self._forgotten.plus(self._all.pop(address) for address in idle)
        for address in idle:
            del self._absent_since[address]

    def _note_absence(self, present: set[Backend], now: float) -> None:
        if len(present) == len(self._all):
            self._absent_since.clear()
            return
        absent = collected(address for address in self._all if address not in present)
        for address in absent:
            self._absent_since.setdefault(address, now)
            self._all[address].is_listed = False
        for address in self._absent_since.keys() & present:
            del self._absent_since[address]
