"""The last changes of a list that no balancer follows."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import Final

from backendpool_async.balance.explanation import History
from backendpool_async.pool import BackendPool
from backendpool_async.threads import alone

# So many are compared in well below a millisecond.
_AT_ONCE: Final = 128


class FollowedPool:
    """Notes the changes of a pool from now on, for as long as somebody keeps it."""

    def __init__(self, pool: BackendPool) -> None:
        self.history: Final = History()
        self._pool = pool
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        # Reentrant: a signal handler may push a list, too.
        self._noting = threading.RLock()
        self._seen = self._pool.snapshot
        self._pool._tell(self, FollowedPool._list_changed)

    def _list_changed(self) -> None:
        with self._noting:
            before, after = self._seen, self._pool.snapshot
            # A pool wakes its wakers when it is closed, too.
            if after.generation <= before.generation:
                return
            self._seen = after
            self.history.note(before, after)
        if len(before.backends) + len(after.backends) <= _AT_ONCE:
            self.history.find_out()
            return
        # Where there is no thread to be had, whoever asks finds out.
        with contextlib.suppress(RuntimeError):
            alone(self.history.find_out)


_all: Final[weakref.WeakSet[FollowedPool]] = weakref.WeakSet()


def _after_fork_in_child() -> None:  # pragma: no cover - a test forks, in a process of its own
    # A lock that another thread held stays held, and a child calls none of its parent's wakers.
    for followed in list(_all):
        followed._begin()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
