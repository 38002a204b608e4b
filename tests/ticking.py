"""A clock that a test moves by hand, and short ways to say what happened to a backend."""

from __future__ import annotations

import contextlib

from backendpool_async import Backend, Balancer, NoBackends


class Ticking:
    """What `clock` of a balancer wants: seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def fail(balancer: Balancer, backend: str, times: int = 1) -> None:
    """Let so many requests to this backend break off, or fewer if it gets no more of them."""
    others = {each for each in balancer._pool.backends() if each != backend}
    for _ in range(times):
        ended = contextlib.suppress(ConnectionResetError, NoBackends)
        with ended, balancer.lease(exclude=others) as lease:
            assert lease.backend == backend
            raise ConnectionResetError("peer")


def succeed(balancer: Balancer, backend: str, times: int = 1) -> None:
    """Let so many requests to this backend come to their end."""
    others = {each for each in balancer._pool.backends() if each != backend}
    for _ in range(times):
        with balancer.lease(exclude=others) as lease:
            assert lease.backend == backend


def chosen(balancer: Balancer, times: int = 60) -> set[Backend]:
    """Return which backends are chosen at all."""
    return {balancer.pick() for _ in range(times)}
