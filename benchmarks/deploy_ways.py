"""Three ways of a request to a backend, made alike: a function that asks one for its name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from backendpool_async import BackendPool, Balancer
from backendpool_async.demo.way import Ask, asking, serving
from backendpool_async.httpx import BackendTransport
from backendpool_async.retries import Retries


@asynccontextmanager
async def through_httpx(balancer: Balancer, retries: Retries) -> AsyncIterator[Ask]:
    """Through httpx with a `BackendTransport`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    transport = BackendTransport(balancer, retries=retries, limits=limits)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:

        async def ask() -> str:
            answer = await client.get("/")
            return answer.raise_for_status().text.strip()

        yield ask


@asynccontextmanager
async def through_middleware(balancer: Balancer, retries: Retries) -> AsyncIterator[Ask]:
    """Through aiohttp's client with `backend_middleware`."""
    async with asking(balancer, retries) as ask:
        yield ask


@asynccontextmanager
async def through_proxy(balancer: Balancer, retries: Retries) -> AsyncIterator[Ask]:
    """Through aiohttp's client and a `ReverseProxy`, which alone tries again."""
    async with serving(balancer, retries) as proxy:
        only = Balancer(BackendPool.static([proxy]), ejection=None)
        async with asking(only, Retries(attempts=1)) as ask:
            yield ask
