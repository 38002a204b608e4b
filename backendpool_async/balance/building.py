"""Building the view of a balancer anew: at once, or in a thread while the old one is in use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from backendpool_async.balance.policy import Chooser, Policy
from backendpool_async.balance.roster import Roster
from backendpool_async.balance.subset import Subset
from backendpool_async.balance.view import Rules, View
from backendpool_async.live import LiveList

# So many, weighted, are prepared in some 2 ms at most.
_AT_ONCE: Final = 128

Publish = Callable[[View, Chooser | None], None]


class Building:
    """Builds views, one at a time, and hands each to `publish` with its chooser (None: no one).

    `out_of_date` never takes long. Where building does, the old view stays in use meanwhile;
    else `expire` is called, and whoever chooses next calls `now`.
    """

    def __init__(
        self,
        pool: LiveList,
        policy: Policy,
        roster: Roster,
        rules: Rules,
        subset: Subset | None,
        clock: Callable[[], float],
        *,
        publish: Publish,
        expire: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._roster = roster
        self._rules = rules
        self._subset = subset
        self._clock = clock
        self._publish = publish
        self._expire = expire
        self._prepares_slowly = bool(getattr(policy, "prepares_slowly", False))
        self._is_out_of_date = True
        self._has_choice = False
        self._generation = pool.snapshot.generation
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child: whatever held a lock or built is not in it."""
        self._deciding = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._thread: threading.Thread | None = None

    def list_may_differ(self) -> None:
        """Build anew if the list is another one than when this was called last."""
        # A pool wakes its wakers when it is closed, too.
        generation = self._pool.snapshot.generation
        if generation != self._generation:
            self._generation = generation
            self.out_of_date()

    def out_of_date(self) -> None:
        """Build anew: the list, what is available of it, or a weight differs."""
        with self._deciding:
            self._is_out_of_date = True
            if self._thread is not None:
                return
            if not (self._has_choice and self.takes_long):
                self._expire()
                return
            self._thread = threading.Thread(
                target=self._build_aside, name="backendpool", daemon=True
            )
            self._thread.start()

    def now(self) -> None:
        """Build at once, unless another thread has just done so."""
        with self._one_at_a_time:
            with self._deciding:
                if not self._is_out_of_date:
                    return
                self._is_out_of_date = False
            self._build()
            with self._deciding:
                # What changed meanwhile was told before this view was handed out.
                if self._is_out_of_date and self._thread is None:
                    self._expire()

    @property
    def takes_long(self) -> bool:
        """Whether a choice should not wait for it."""
        return self._prepares_slowly or len(self._pool.backends()) > _AT_ONCE

    def finish(self) -> None:
        """Wait for the thread, if there is one."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _build_aside(self) -> None:
        while True:
            self.now()
            with self._deciding:
                if not self._is_out_of_date:
                    self._thread = None
                    return

    def _build(self) -> None:
        snapshot = self._pool.snapshot
        backends = snapshot.backends
        if self._subset is not None:
            backends = self._subset.of(backends)
        now = self._clock()
        view = self._rules.view(snapshot, self._roster.enlist(backends, now), now)
        self._has_choice = bool(view.chosen_among)
        chooser = self._policy.prepare(view.chosen_among) if view.chosen_among else None
        self._publish(view, chooser)
