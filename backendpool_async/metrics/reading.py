"""What can be read off a pool or a balancer at one moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property

from backendpool_async.balance.balancer import Balancer
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.ejection import state_of
from backendpool_async.balance.pauses import collected
from backendpool_async.balance.totals import Totals
from backendpool_async.balance.view import View
from backendpool_async.pool import BackendPool
from backendpool_async.snapshot import Snapshot
from backendpool_async.sync import BackendPool as SyncBackendPool

Measured = Balancer | BackendPool | SyncBackendPool


class PoolReading:
    """One pool, by its name."""

    def __init__(self, name: str, pool: BackendPool) -> None:
        self.name: str = name
        self.snapshot: Snapshot = pool.snapshot
        self.refreshes: Mapping[str, int] = pool.refreshes


class BalancerReading:
    """One balancer, by its name; each part is read when it is first asked for, and once."""

    def __init__(self, name: str, balancer: Balancer) -> None:
        self.name: str = name
        self._balancer = balancer
        self._view = _view_of(balancer)
        self.is_panic: bool = self._view.is_panic
        self.retries: int = balancer._retries

    @cached_property
    def totals(self) -> Totals:
        """What was counted of all backends, those included that have left the list."""
        return self._balancer._registry.totals()

    @cached_property
    def backends(self) -> list[tuple[Candidate, str]]:
        """Each backend of the list with its state."""
        now = self._balancer._outcomes.clock()
        return collected((each, state_of(each, now)) for each in self._view.listed)

    @cached_property
    def states(self) -> Mapping[str, int]:
        """How many backends are in which state."""
        return {
            "available": 0,
            "ejected": 0,
            "unhealthy": 0,
            **Counter(state for _, state in self.backends),
        }


def named(measured: Iterable[Measured], by_name: Mapping[str, Measured]) -> dict[str, Measured]:
    """Return them by name: what has none is called as its source is in errors and logs.

    Raises TypeError for what is neither a balancer nor a pool, ValueError when two have one name.
    """
    found: dict[str, Measured] = {}
    for each in measured:
        name = _pool_of(each)._name
        if name in found or name in by_name:
            raise ValueError(f"two are called {name!r}: name them by keyword, as in api=balancer")
        found[name] = each
    for each in by_name.values():
        _pool_of(each)
    return {**found, **by_name}


def check_per_backend(given: object) -> None:
    """Raise TypeError for what is no bool, as a pool that is to be called like this keyword."""
    if not isinstance(given, bool):
        raise TypeError(f"per_backend is a bool, not {given!r}; it names no pool")


def pools_read(by_name: Mapping[str, Measured]) -> list[PoolReading]:
    """Return what can be read off each pool, that of a balancer included."""
    return [PoolReading(name, _pool_of(each)) for name, each in by_name.items()]


def balancers_read(by_name: Mapping[str, Measured]) -> list[BalancerReading]:
    """Return what can be read off each balancer among them."""
    return [
        BalancerReading(name, each) for name, each in by_name.items() if isinstance(each, Balancer)
    ]


def _view_of(balancer: Balancer) -> View:
    try:
        return balancer._current_view()
    except Exception:  # noqa: BLE001 - a policy may raise anything, and tells whoever chooses
        # What was counted is read all the same, of this one and of the others.
        return balancer._view


def _pool_of(measured: Measured) -> BackendPool:
    if isinstance(measured, BackendPool):
        return measured
    if isinstance(measured, (Balancer, SyncBackendPool)):
        return measured._pool
    raise TypeError(f"{measured!r} is neither a Balancer nor a BackendPool")
