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
        for each in self._all.values():
            each.reset()

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

    def remembered(self, backend: Backend, now: float) -> Candidate:
        """Return the candidate of a backend that is listed now, also where no view says so yet.

        A new one after an absence so long that it is forgotten: what is noted on it stays.
        """
        since = self._absent_since.get(backend)
        if since is not None:
            if now - since >= self._forget_after:
                self._drop([backend])
            self._absent_since.pop(backend, None)
        return self.get_or_create(backend)

    def totals(self) -> Totals:
        """Return what was counted of all of them, those included that were forgotten since."""
        with self._forgetting:
            forgotten, known = self._forgotten, list(self._all.values())
        return forgotten.plus(known)

    def _forget(self, now: float) -> None:
        # Copies, and no step that counts on the one before: a signal handler may choose, and so
        # build, in the middle of it.
        absent = list(self._absent_since.items())
        due = [address for address, since in absent if now - since >= self._forget_after]
        if due:
            self._drop(due)

    def _drop(self, addresses: Sequence[Backend]) -> None:
        with self._forgetting:
            known = {each: self._all[each] for each in addresses if each in self._all}
            idle = {address: each for address, each in known.items() if not each.in_flight}
            self._forgotten = self._forgotten.plus(idle.values())
            for address in idle:
                self._all.pop(address, None)
                self._absent_since.pop(address, None)

    def _note_absence(self, present: set[Backend], now: float) -> None:
        if len(present) == len(self._all):
            self._absent_since.clear()
            return
        # A copy in one step: the results of health checks may add to it at any time.
        known = list(self._all.items())
        absent = collected(pair for pair in known if pair[0] not in present)
        for address, candidate in absent:
            self._absent_since.setdefault(address, now)
            candidate.is_listed = False
        for address in self._absent_since.keys() & present:
            self._absent_since.pop(address, None)
