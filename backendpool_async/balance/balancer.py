"""Balancer: chooses one backend of a live list, and knows which ones deserve requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Final, Self

from backendpool_async.backend import Backend
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.candidate_registry import CandidateRegistry
from backendpool_async.balance.ejection import Ejector, Listing, OutlierEjection
from backendpool_async.balance.explanation import Explanation, History, explained
from backendpool_async.balance.failures import transport_failure
from backendpool_async.balance.following import follow
from backendpool_async.balance.health import CheckRunner, HealthChecks, HealthMonitor
from backendpool_async.balance.interim import InterimChooser
from backendpool_async.balance.lease import Lease
from backendpool_async.balance.lifetime import Lifetime
from backendpool_async.balance.options import check_options
from backendpool_async.balance.outcomes import Classify, Clock, OutcomeRecorder
from backendpool_async.balance.pauses import is_on_loop
from backendpool_async.balance.policies import RoundRobin
from backendpool_async.balance.policy import Chooser, Policy, Unkeyed
from backendpool_async.balance.subset import Subset
from backendpool_async.balance.view import NOTHING, View, ViewRules
from backendpool_async.balance.view_builder import ViewBuilder
from backendpool_async.errors import NoBackends, counted
from backendpool_async.keywords import seconds, seconds_or_0, share, share_or_0
from backendpool_async.logs import log
from backendpool_async.pool import BackendPool

_TRIES: Final = 4
_DEFAULT_EJECTION: Final = OutlierEjection()


class Balancer:
    """Chooses one backend of a pool at a time, and learns from what became of it.

    Choosing and leasing work from any thread, also without `start()`, as reading the pool does.
    While a long list, or Maglev's table, is prepared for the first time (also when the list was
    empty), an event loop does not wait: what it chooses is available, of the own zone and by
    weight, and the same for the same key, but not by the policy. `start()` and threads without a
    loop wait.

    Started, or inside ``async with``, it starts and closes the pool too, and a backend returns
    from its ejection by itself.

    * `policy`: how one of several is chosen; `RoundRobin()` by default.
    * `ejection`: when a backend that fails gets no requests for a while; None never.
    * `panic_threshold`: when a smaller share than this is available, all are chosen among: better
      to try the sick than to overload the few. 0 never.
    * `slow_start`: seconds in which the share of a backend that comes back grows to its full
      weight, in ten steps; 0 at once.
    * `zone`: the backends whose attribute ``zone`` is this one are preferred, while at least
      `zone_threshold` of them are available.
    * `checks`: active health checks, while the balancer runs (see `HealthChecks`); None: none.
    * `subset`: choose among some of the backends only (see `Subset`); None: all of them.
    * `forget_after`: seconds for which what is known about a backend outlives its absence.
    * `classify`: which exceptions are failures of the backend (see `transport_failure`).
    * `clock`: what measures time, in seconds; for tests.

    Raises TypeError or ValueError for a keyword out of range.

    >>> from backendpool_async import BackendPool
    >>> balancer = Balancer(BackendPool.static(["10.0.0.1:8080"]))
    >>> balancer.pick()
    Backend('10.0.0.1:8080')
    """

    __slots__ = (
        "__weakref__",
        "_builder",
        "_choose",
        "_history",
        "_interim",
        "_lifetime",
        "_monitor",
        "_next",
        "_outcomes",
        "_policy",
        "_pool",
        "_ready",
        "_registry",
        "_retries",
        "_view",
    )

    _choose: Chooser
    _next: Callable[[], Candidate]
    _outcomes: OutcomeRecorder

    def __init__(
        self,
        pool: BackendPool,
        policy: Policy | None = None,
        *,
        ejection: OutlierEjection | None = _DEFAULT_EJECTION,
        panic_threshold: float = 0.5,
        slow_start: float = 0.0,
        zone: str | None = None,
        zone_threshold: float = 0.7,
        checks: HealthChecks | None = None,
        subset: Subset | None = None,
        forget_after: float = 600.0,
        classify: Classify = transport_failure,
        clock: Clock = time.monotonic,
    ) -> None:
        self._pool = pool
        self._policy: Policy = RoundRobin() if policy is None else policy
        check_options(pool, self._policy, ejection, zone, checks, subset, classify, clock)
        self._outcomes = OutcomeRecorder(
            clock,
            classify,
            self._policy,
            None if ejection is None else Ejector(ejection, clock()),
            listing=self._listing,
            ejected=partial(self._availability_changed, logging.WARNING),
            view_changes=lambda: self._builder.invalidate(),
            unreachable=pool.refresh_soon,
        )
        registry = self._registry = CandidateRegistry(seconds("forget_after", forget_after))
        self._monitor = None if checks is None else self._monitor_of(checks, subset)
        self._history = History()
        rules = ViewRules(
            panic_threshold=share_or_0("panic_threshold", panic_threshold),
            slow_start=seconds_or_0("slow_start", slow_start),
            zone=zone,
            zone_threshold=share("zone_threshold", zone_threshold),
        )
        self._builder = ViewBuilder(
            pool,
            self._policy,
            registry,
            rules,
            subset,
            clock,
            publish=self._publish,
            expire=self._expire,
            resume=self._resume,
            list_changed=self._history.note,
        )
        self._interim = InterimChooser(pool, subset, registry, rules, clock)
        self._retries = 0
        self._ready: Chooser = self._refuse
        self._lifetime = Lifetime(pool, self._builder, self._monitor, clock)
        self._view = NOTHING
        self._expire()
        follow(pool, self)

    @property
    def pool(self) -> BackendPool:
        """The pool whose backends it chooses among."""
        return self._pool

    @property
    def is_running(self) -> bool:
        """Whether it was started, on a loop that is still there, and not closed."""
        return self._lifetime.is_running

    def pick(self, key: str | None = None, exclude: Collection[str] = ()) -> Backend:
        """Return one backend; lock-free, from any thread, at any time.

        A `key` is for a policy that hashes (`Maglev`): the same key chooses the same backend while
        it is there. What is in `exclude` is not chosen. Nothing is counted: use `lease` for what
        is to be. Raises `NoBackends` when there is none left to choose.
        """
        if key is None:
            if not exclude:
                return self._next().backend
        elif not exclude:
            return self._choose(key).backend
        return self._choose_avoiding(key, exclude).backend

    def lease(self, key: str | None = None, exclude: Collection[str] = ()) -> Lease:
        """Return a lease of one backend, chosen as by `pick` when it is entered.

        >>> import asyncio
        >>> from backendpool_async import BackendPool
        >>> async def main() -> None:
        ...     async with Balancer(BackendPool.static(["10.0.0.1:8080"])) as balancer:
        ...         async with balancer.lease() as lease:
        ...             print(lease.backend)
        >>> asyncio.run(main())
        10.0.0.1:8080
        """
        return Lease(self, key, exclude)

    def explain(self, limit: int | None = None, match: str = "") -> Explanation:
        """Return what is known about each backend, and the last changes of the list.

        With a `limit`, of so many backends at most, those in trouble first; None: of all, in the
        order of the list. With `match`, of those only whose address contains it. From any thread;
        a long list takes some milliseconds, in which a thread other than the loop's lets it run.

        >>> from backendpool_async import BackendPool
        >>> print(Balancer(BackendPool.static(["10.0.0.1:8080"])).explain())
        static, RoundRobin: 1 of 1 backend available
          10.0.0.1:8080            available  weight 1, 0 in flight, 0 of 0 failed
        """
        return explained(
            self._current_view(),
            self._pool._name,
            self._policy,
            self._history,
            self._retries,
            self._outcomes.clock(),
            limit,
            match,
        )

    async def start(self, *, required: bool = True) -> None:
        """Start the pool, and from now on let backends return by themselves; see its `start()`.

        A pool that was started before stays so when the balancer is closed. Raises `PoolClosed`
        when the balancer is closed meanwhile.
        """
        await self._lifetime.start(required=required)

    async def aclose(self) -> None:
        """Close the pool, if `start()` started it; leave nothing running.

        Choosing goes on from what is known.
        """
        await self._lifetime.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        view = self._view
        panic = ", panic" if view.is_panic else ""
        return (
            f"<{type(self).__name__} {self._pool._name}: {type(self._policy).__name__},"
            f" {len(view.available)} of {counted(len(view.listed))} available{panic}>"
        )

    def _monitor_of(self, checks: HealthChecks, subset: Subset | None) -> HealthMonitor:
        clock, changed = self._outcomes.clock, self._availability_changed

        def candidate_of(backend: Backend) -> Candidate:
            return self._registry.remembered(backend, clock())

        return HealthMonitor(
            partial(CheckRunner, checks, self._pool, candidate_of, changed, clock, subset)
        )

    def _choose_avoiding(self, key: str | None, exclude: Collection[str]) -> Candidate:
        avoided = {exclude} if isinstance(exclude, str) else exclude
        meanwhile = self._choose_meanwhile(key, avoided)
        if meanwhile is not None:
            return meanwhile
        for attempt in range(_TRIES):
            # The same key falls back on the same backends, too.
            candidate = self._choose(key if key is None or not attempt else f"{key}\0{attempt}")
            if candidate.backend not in avoided:
                return candidate
        left = self._view.beside(key, avoided)
        if left is not None:
            return left
        if self._rebuild_if_due():
            return self._choose_avoiding(key, exclude)
        raise NoBackends(f"{self!r}: none is left of {len(self._view.chosen_among)} to choose from")

    def _publish(self, view: View, chooser: Chooser | None) -> None:
        before, self._view = self._view, view
        self._ready = self._refuse if chooser is None else chooser
        self._resume()
        self._outcomes.view_changes_at(view.changes_at)
        self._interim.forget()
        self._history.find_out()
        if view.is_panic and not before.is_panic:
            few = f"{len(view.available)} of {counted(len(view.listed))}"
            log(logging.WARNING, f"{self._pool._name}: only {few} available; all are chosen among")
        elif before.is_panic and not view.is_panic:
            log(logging.INFO, f"{self._pool._name}: enough are available again")
        self._lifetime.view_changes(view.changes_at)

    def _expire(self) -> None:
        # Whoever chooses next builds the view first.
        self._next = self._choose = self._choose_after_rebuild

    def _resume(self) -> None:
        chooser = self._choose = self._ready
        self._next = chooser.next if isinstance(chooser, Unkeyed) else partial(chooser, None)

    def _choose_after_rebuild(self, key: str | None = None) -> Candidate:
        meanwhile = self._choose_meanwhile(key)
        if meanwhile is not None:
            return meanwhile
        self._builder.rebuild_if_stale()
        # Not `_choose`: if the view is out of date once more, that is for the next choice.
        return self._ready(key)

    def _choose_meanwhile(self, key: str | None, avoided: Collection[str] = ()) -> Candidate | None:
        """Choose without a view while the first one takes its time; None where there is one."""
        # Only an event loop has more to do than to wait.
        if self._view.chosen_among or not is_on_loop() or not self._builder.builds_first_aside():
            return None
        candidate = self._interim.choose(key, avoided)
        if candidate is None:
            raise self._no_backends()
        return candidate

    def _refuse(self, key: str | None = None) -> Candidate:
        if self._outcomes.clock() < self._view.changes_at:
            raise self._no_backends()
        # Nobody holds a lease of nothing, so no end of one sees to it.
        self._builder.invalidate()
        return self._choose_after_rebuild(key)

    def _no_backends(self) -> NoBackends:
        error = self._pool.snapshot.error
        why = f"; {error}" if error else ""
        return NoBackends(f"{self._pool._name}: there is no backend to choose{why}")

    def _listing(self) -> Listing:
        """Return what is counted before a backend is ejected."""
        self._builder.rebuild_if_short()
        view = self._view
        if not view.listed:
            return self._interim.listing()
        # A long list may have become shorter since the view was built.
        size = min(len(view.listed), len(self._pool.backends()))
        return Listing(view.listed, view.unhealthy, size)

    def _current_view(self) -> View:
        """Return the view, built anew where due, if that takes not long or there is none yet."""
        self._rebuild_if_due()
        if not self._builder.takes_long or not self._view.listed:
            if is_on_loop() and self._builder.builds_first_aside():
                return self._interim.view()
            self._builder.rebuild_if_stale()
        return self._view

    def _rebuild_if_due(self) -> bool:
        """Build anew if the clock says so; return whether there is another view now."""
        if self._outcomes.clock() < self._view.changes_at:
            return False
        self._builder.invalidate()
        if self._builder.takes_long and (self._view.chosen_among or is_on_loop()):
            return False
        self._builder.rebuild_if_stale()
        return True

    def _availability_changed(self, level: int, why: str) -> None:
        log(level, f"{self._pool._name}: {why}")
        self._builder.invalidate()

    def _begin_anew(self) -> None:  # pragma: no cover - in a forked child, which is not traced
        self._lifetime.reset()
        self._builder.reset()
        self._outcomes.reset()
        self._expire()
        after_fork = getattr(self._policy, "after_fork", None)
        if after_fork is not None:
            after_fork()
        follow(self._pool, self)
