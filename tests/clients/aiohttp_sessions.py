"""Sessions of aiohttp's client that go through a balancer, and what tests look at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aiohttp

from backendpool_async import BackendPool, Balancer
from backendpool_async.aiohttp import BackendConnector, backend_middleware
from backendpool_async.balance.explanation import BackendState
from backendpool_async.retries import Retries


class Addressed(Protocol):
    """A test's backend."""

    @property
    def address(self) -> str: ...


def balancer_of(*backends: Addressed | str, **options: Any) -> Balancer:
    """A balancer of these, in their order; never ejecting unless asked to."""
    addresses = [each if isinstance(each, str) else each.address for each in backends]
    return Balancer(BackendPool.static(addresses), **{"ejection": None, **options})


@asynccontextmanager
async def session_of(
    balancer: Balancer,
    *,
    retries: Retries | None = None,
    max_age: float = 300.0,
    limit: int = 100,
    **options: Any,  # of aiohttp.ClientSession
) -> AsyncIterator[aiohttp.ClientSession]:
    """A session whose host "api" is the balancer's."""
    async with aiohttp.ClientSession(
        connector=BackendConnector(balancer, max_age=max_age, limit=limit),
        middlewares=[backend_middleware(balancer, retries=retries)],
        **options,
    ) as session:
        yield session


def state_of(balancer: Balancer, backend: Addressed | str | None = None) -> BackendState:
    """What is known about a backend, by default the only one."""
    states = balancer.explain().backends
    if backend is None:
        (state,) = states
        return state
    address = backend if isinstance(backend, str) else backend.address
    (state,) = [each for each in states if each.backend == address]
    return state


def in_flight(balancer: Balancer) -> int:
    """How many leases are held."""
    return sum(state.in_flight for state in balancer.explain().backends)


def counts(states: Iterable[BackendState]) -> list[tuple[int, int]]:
    """Requests and failures of each."""
    return [(state.requests, state.failures) for state in states]
