"""Building the view of a balancer anew: at once, or in a thread while the old one is in use."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from backendpool_async.balance.candidate_registry import CandidateRegistry
from backendpool_async.balance.policy import Chooser, Policy
from backendpool_async.balance.subset import Subset
from backendpool_async.balance.view import View, ViewRules
from backendpool_async.errors import describe
from backendpool_async.live import LiveList
from backendpool_async.logs import log
from backendpool_async.snapshot import Snapshot

# So many, weighted, are prepared in some 2 ms at most.
_AT_ONCE: Final = 128
# Backends that fail and return all the time must not keep a processor busy: after a build in a
# thread, so many times its duration pass before the next one, unless the list itself differs.
_REST: Final = 5
_LONGEST_REST: Final = 1.0

Publish = Callable[[View, Chooser | None], None]
ListChanged = Callable[[Snapshot, Snapshot], None]


class ViewBuilder:
    """Builds views, one at a time, and hands each to `publish` with its chooser (None: no one).

    `invalidate` never takes long. Where building does, it goes on in a thread; else, and when
    there is no view to use meanwhile, `expire` is called, and whoever chooses next calls
    `rebuild_if_stale`, or does without a view where `builds_first_aside`. `resume` takes that back:
    what was published last is in use until the thread is done. `list_changed` is called with the
    list before and after, at the moment of a change.
    """

    def __init__(
        self,
        pool: LiveList,
        policy: Policy,
        registry: CandidateRegistry,
        rules: ViewRules,
        subset: Subset | None,
        clock: Callable[[], float],
        *,
        publish: Publish,
        expire: Callable[[], None],
        resume: Callable[[], None],
        list_changed: ListChanged,
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._registry = registry
        self._rules = rules
        self._subset = subset
        self._clock = clock
        self._publish = publish
        self._expire = expire
        self._resume = resume
        self._list_changed = list_changed
        self._prepares_slowly = bool(getattr(policy, "prepares_slowly", False))
        self._has_choice = False
        self._seen = pool.snapshot
        self._begun = 0
        self._changes = 0
        self._is_preparing = False
        self.reset()

    def reset(self) -> None:
        """Begin anew, also in a forked child: whatever held a lock or built is not in it."""
        # Reentrant: a signal handler, a log handler or the garbage collector may come back here.
        self._deciding = threading.RLock()
        self._one_at_a_time = threading.RLock()
        self._list_differs = threading.Event()
        self._registry.reset()
        self._is_stale = True
        self._is_aside = False
        self._failed_aside = False
        self._thread: threading.Thread | None = None

    def on_pool_change(self) -> None:
        """Build anew if the list is another one than when this was called last."""
        with self._deciding:
            snapshot, seen = self._pool.snapshot, self._seen
            # A pool wakes its wakers when it is closed, too.
            if snapshot.generation <= seen.generation:
                return
            self._seen = snapshot
        self._list_changed(seen, snapshot)
        self._list_differs.set()
        self.invalidate()

    def invalidate(self) -> None:
        """Build anew: the list, what is available of it, or a weight differs."""
        with self._deciding:
            self._is_stale = True
            self._changes += 1
            if self._is_aside:
                return
            self._is_aside = self.takes_long
            if self._is_aside and self._has_choice:
                # Nobody may have chosen since a shorter list, or the clock, made it expire.
                self._resume()
            else:
                self._expire()
            if not self._is_aside:
                return
        self._begin_aside()

    def builds_first_aside(self) -> bool:
        """Whether there is no view to use yet, and building one goes on elsewhere.

        It is begun where that is due. False also when it failed there: whoever chooses next builds.
        """
        with self._deciding:
            if self._has_choice or self._failed_aside or not self.takes_long:
                return False
            # Another thread may be at it because it chooses.
            if self._is_aside or not self._is_stale:
                return True
            self._is_aside = True
        return self._begin_aside()

    def rebuild_if_stale(self) -> None:
        """Build at once, or wait for the thread that does; raises what the policy raises."""
        with self._one_at_a_time:
            with self._deciding:
                if not self._is_stale:
                    return
                self._is_stale = False
            try:
                # A signal handler may choose while this builds, and so build in between. What it
                # built is newer, but this one did not know of it: once more for both.
                while not self._build():
                    pass
            except BaseException:
                with self._deciding:
                    self._is_stale = True
                raise
            with self._deciding:
                # What changed meanwhile was told before this view was handed out.
                if self._is_stale and not self._is_aside:
                    self._expire()

    def rebuild_if_short(self) -> None:
        """Build at once, unless that takes long, another thread is at it, or it fails."""
        # Not waiting: whoever calls this may hold what that other thread waits for.
        if self.takes_long or not self._one_at_a_time.acquire(blocking=False):
            return
        try:
            self.rebuild_if_stale()
        except Exception:  # noqa: BLE001, S110 - a policy may raise anything, and whoever chooses next is told
            pass
        finally:
            self._one_at_a_time.release()

    @property
    def takes_long(self) -> bool:
        """Whether a choice should not wait for it."""
        return self._prepares_slowly or len(self._pool.backends()) > _AT_ONCE

    @property
    def is_building(self) -> bool:
        """Whether a thread is at it."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def join(self) -> None:
        """Wait for the thread, if there is one."""
        thread = self._thread
        self._list_differs.set()
        if thread is not None:  # pragma: no branch - asked for only while it builds
            thread.join()

    def _begin_aside(self) -> bool:
        # Not under the lock: whatever this allocates may let the garbage collector come back.
        self._failed_aside = False
        thread = threading.Thread(target=self._build_aside, name="backendpool", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The process has as many threads as it may: whoever chooses next builds.
            with self._deciding:
                self._is_aside = False
                self._failed_aside = True
                self._expire()
            return False
        self._thread = thread
        return True

    def _build_aside(self) -> None:
        while True:
            self._list_differs.clear()
            began, changes = time.perf_counter(), self._changes
            failure: BaseException | None = None
            try:
                self.rebuild_if_stale()
            except BaseException as error:  # noqa: BLE001 - a policy may raise anything
                failure = error
                self._tell(error)
            with self._deciding:
                # What failed may succeed with what changed meanwhile, and not without.
                is_over = self._changes == changes if failure else not self._is_stale
                if is_over:
                    self._is_aside = False
                    self._failed_aside = failure is not None
                    return
            rest = (time.perf_counter() - began) * _REST
            self._list_differs.wait(min(rest, _LONGEST_REST))

    def _tell(self, failure: BaseException) -> None:
        who = f"{type(self._policy).__name__} could not prepare"
        what = who if self._is_preparing else "what is available could not be found out"
        log(
            logging.WARNING,
            f"{self._pool._name}: {what}: {describe(failure)};"
            " the old view stays until the next change",
        )

    def _build(self) -> bool:
        """Return whether it was the only one meanwhile."""
        self._begun += 1
        number, self._is_preparing = self._begun, False
        snapshot = self._pool.snapshot
        backends = snapshot.backends
        if self._subset is not None:
            backends = self._subset.of(backends)
        now = self._clock()
        view = self._rules.view(snapshot, self._registry.update(backends, now), now)
        self._is_preparing = True
        chooser = self._policy.prepare(view.chosen_among) if view.chosen_among else None
        self._is_preparing = False
        if number == self._begun:
            # Before it is published, there may be no choice to go on with.
            self._has_choice = self._has_choice and chooser is not None
            self._publish(view, chooser)
            self._has_choice = chooser is not None
        return number == self._begun
