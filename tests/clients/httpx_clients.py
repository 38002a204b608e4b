"""Clients of both libraries over a list, for tests of what must be the same with either."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest

from backendpool_async import BackendPool, Balancer, Chooser
from backendpool_async.balance.candidate import Candidate
from backendpool_async.httpx import BackendTransport

# A test that takes `library` runs with each of them.
both = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


class InOrder:
    """A policy that chooses the backends in the order of the list."""

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        following = itertools.cycle(candidates)

        def choose(key: str | None) -> Candidate:
            return next(following)

        return choose


def in_order(*addresses: str) -> Balancer:
    return Balancer(BackendPool.static(addresses), InOrder(), ejection=None)


class Over:
    """A list, its balancer, a transport over it and an httpx client of that."""

    def __init__(
        self,
        pool: BackendPool,
        balancer: Balancer,
        transport: BackendTransport,
        client: httpx.AsyncClient,
    ) -> None:
        self.pool = pool
        self.balancer = balancer
        self.transport = transport
        self.client = client

    def in_flight(self) -> int:
        """How many leases are held."""
        return sum(each.in_flight for each in self.balancer.explain().backends)

    def outcomes(self) -> tuple[int, int]:
        """How many requests were reported, and how many of them as failures."""
        backends = self.balancer.explain().backends
        return sum(each.requests for each in backends), sum(each.failures for each in backends)

    def connections(self) -> str:
        """What the transport shows of them: "1 idle, 0 active"."""
        return repr(self.transport).partition("connections: ")[2].removesuffix(">")


@contextlib.asynccontextmanager
async def over(
    *addresses: str,
    library: ModuleType = httpx,
    balancer: Balancer | None = None,
    timeout: object = 10.0,
    base_url: str = "http://api",
    **options: Any,  # of BackendTransport
) -> AsyncIterator[Over]:
    """A client over the addresses. That of httpx2 is typed as that of httpx: it is used alike."""
    pool = BackendPool.static(addresses) if balancer is None else balancer._pool
    balancer = balancer or Balancer(pool, ejection=None)
    options.setdefault("verify", False)
    transport = BackendTransport(balancer, **options)
    async with library.AsyncClient(
        transport=transport, base_url=base_url, timeout=timeout
    ) as client:
        yield Over(pool, balancer, transport, client)
