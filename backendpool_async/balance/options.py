"""Checks of what a balancer is made with, so that a mistake is named where it is made."""

from __future__ import annotations

from backendpool_async.balance.ejection import OutlierEjection
from backendpool_async.balance.health import HealthChecks
from backendpool_async.balance.subset import Subset
from backendpool_async.errors import quote
from backendpool_async.pool import BackendPool


def check_options(
    pool: object,
    policy: object,
    ejection: object,
    zone: object,
    checks: object,
    subset: object,
    classify: object,
    clock: object,
) -> None:
    """Raise TypeError for an argument of `Balancer` that is something else than it has to be."""
    if not isinstance(pool, BackendPool):
        raise TypeError(f"a balancer is for a backendpool_async.BackendPool, not {pool!r}")
    _check_policy(policy)
    kinds: tuple[tuple[str, object, type, str], ...] = (
        ("ejection", ejection, OutlierEjection, "an OutlierEjection(...)"),
        ("zone", zone, str, "a string"),
        ("checks", checks, HealthChecks, "HealthChecks(...), which takes the check"),
        ("subset", subset, Subset, "a Subset(client=..., size=...)"),
    )
    for name, value, kind, wanted in kinds:
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name}={quote(repr(value))} is neither {wanted} nor None")
    for name, value in (("classify", classify), ("clock", clock)):
        if not callable(value):
            raise TypeError(f"{name}={quote(repr(value))} is no function")


def _check_policy(policy: object) -> None:
    if isinstance(policy, type):
        raise TypeError(f"policy= takes an instance: pass {policy.__name__}(), not the class")
    if not callable(getattr(policy, "prepare", None)):
        raise TypeError(
            f"policy={quote(repr(policy))} has no 'prepare': RoundRobin(), LeastRequest(), another"
            " one of this package or one of your own"
        )
