"""The proxy under each server that it is made for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web
from backends import served_by_aiohttp, served_by_hypercorn, served_by_uvicorn

from backendpool_async import BackendPool, Balancer
from backendpool_async.proxy import ReverseProxy
from backendpool_async.proxy.server_protocol import BoundedProtocol

FRONTS: Final = ("uvicorn", "hypercorn", "aiohttp")
# Where it matters who reads the bytes: uvicorn has two parsers.
PARSERS: Final = (*FRONTS, "uvicorn-h11")
# What `backendpool serve` has changes some of uvicorn.
ALL: Final = (*PARSERS, "serve")
_UVICORN: Final[dict[str, str | type[asyncio.Protocol]]] = {
    "uvicorn": "httptools",
    "uvicorn-h11": "h11",
    "serve": BoundedProtocol,
}


@asynccontextmanager
async def served(front: str, proxy: ReverseProxy, **options: Any) -> AsyncIterator[str]:
    """Serve the proxy, and yield its address; the server starts and closes it."""
    if front == "hypercorn":
        async with served_by_hypercorn(proxy, **options) as place:
            yield place.address
    elif front == "aiohttp":
        app = web.Application()
        app.cleanup_ctx.append(lambda _: _started(proxy))
        app.router.add_route("*", "/{path:.*}", proxy.aiohttp_handler())
        async with served_by_aiohttp(app, **options) as place:
            yield place.address
    else:
        async with served_by_uvicorn(proxy, http=_UVICORN[front], **options) as place:
            yield place.address


@asynccontextmanager
async def proxied(
    front: str,
    *backends: str,
    handler_cancellation: bool | None = None,
    auto_decompress: bool | None = None,
    lingering_time: float | None = None,
    **keywords: Any,
) -> AsyncIterator[Proxied]:
    """Serve a proxy for these backends.

    `lingering_time`: for which aiohttp.web reads a body that nobody has asked for.
    """
    balancer = Balancer(BackendPool.static(list(backends)))
    proxy = ReverseProxy(balancer, **keywords)
    options: dict[str, Any] = {}
    if handler_cancellation is not None:
        options["handler_cancellation"] = handler_cancellation
    if auto_decompress is not None:
        options["auto_decompress"] = auto_decompress
    if lingering_time is not None and front == "aiohttp":
        options["lingering_time"] = lingering_time
    async with served(front, proxy, **options) as address:
        yield Proxied(address, proxy, balancer)


class Proxied:
    """Where a proxy is served, and what it balances with."""

    def __init__(self, address: str, proxy: ReverseProxy, balancer: Balancer) -> None:
        self.address = address
        self.proxy = proxy
        self.balancer = balancer
        self.pool = balancer._pool

    def failures(self) -> int:
        """How many requests failed, says the balancer."""
        return sum(each.failures for each in self.balancer.explain().backends)

    def in_flight(self) -> int:
        """How many leases there are."""
        return sum(each.in_flight for each in self.balancer.explain().backends)


async def _started(proxy: ReverseProxy) -> AsyncIterator[None]:
    async with proxy:
        yield
