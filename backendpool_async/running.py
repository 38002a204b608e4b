"""Keeping a pool or a balancer running for as long as an application does."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from backendpool_async.balance.balancer import Balancer
from backendpool_async.pool import BackendPool

Runs = TypeVar("Runs", bound=BackendPool | Balancer)


def check_runs(given: object) -> None:
    """Raise TypeError for what is neither a balancer, nor a pool, nor a function that makes one."""
    if not isinstance(given, (BackendPool, Balancer)) and not callable(given):
        raise TypeError(
            f"{given!r} is no Balancer, no backendpool_async.BackendPool and no function"
            " that makes one"
        )


@asynccontextmanager
async def running(given: Runs | Callable[[], Runs], *, required: bool) -> AsyncIterator[Runs]:
    """Start it, or what the function makes; close it in the end.

    Raises what its `start()` raises, and TypeError when the function makes something else.
    """
    made = given if isinstance(given, (BackendPool, Balancer)) else given()
    if not isinstance(made, (BackendPool, Balancer)):
        if inspect.iscoroutine(made):
            # Or else it is complained of that nobody awaited it.
            made.close()
        raise TypeError(f"{given!r} returned {made!r}, neither a Balancer nor a BackendPool")
    await made.start(required=required)
    try:
        yield made
    finally:
        await made.aclose()
