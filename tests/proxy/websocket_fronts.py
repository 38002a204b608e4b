"""Proxies under every supported server, and WebSocket backends and clients that are exact."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import websockets.asyncio.client
import websockets.asyncio.server
from aiohttp import web
from backends import Served, served_by_aiohttp, served_by_hypercorn, served_by_uvicorn
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

from backendpool_async import BackendPool, Balancer, Policy
from backendpool_async.balance.explanation import BackendState
from backendpool_async.proxy import ReverseProxy
from backendpool_async.proxy.server_protocol import BoundedProtocol


@asynccontextmanager
async def _served_by_aiohttp(proxy: ReverseProxy) -> AsyncIterator[Served]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", proxy.aiohttp_handler())
    async with proxy, served_by_aiohttp(app, grace=0.2) as served:
        yield served


SERVERS: dict[str, Callable[..., AbstractAsyncContextManager[Served]]] = {
    "uvicorn-websockets": partial(served_by_uvicorn, ws="websockets-sansio", proxy_headers=False),
    "uvicorn-wsproto": partial(served_by_uvicorn, ws="wsproto", proxy_headers=False),
    # As `backendpool serve` runs it.
    "serve": partial(served_by_uvicorn, http=BoundedProtocol, proxy_headers=False),
    "hypercorn": served_by_hypercorn,
    "aiohttp": _served_by_aiohttp,
}


@dataclass
class Front:
    """A proxy that is served, and what it chooses from."""

    served: Served
    pool: BackendPool
    balancer: Balancer
    proxy: ReverseProxy

    @property
    def address(self) -> str:
        return self.served.address

    @property
    def url(self) -> str:
        return f"ws://{self.served.address}"

    def state(self, index: int = 0) -> BackendState:
        """What the balancer knows of a backend."""
        return self.balancer.explain().backends[index]


@asynccontextmanager
async def fronted(
    server: str,
    *backends: str,
    policy: Policy | None = None,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Front]:
    """Run a proxy with these `settings` before these backends; `options` of the server."""
    pool = BackendPool.static(backends)
    balancer = Balancer(pool, policy)
    proxy = ReverseProxy(balancer, **settings)
    async with SERVERS[server](proxy, **(options or {})) as served:
        yield Front(served, pool, balancer, proxy)


@asynccontextmanager
async def client_of(front: Front, path: str = "/", **options: Any) -> AsyncIterator[Connection]:
    """A client that takes whatever comes; `options` of websockets.connect."""
    options = {"compression": None, "proxy": None, "ping_interval": None, **options}
    async with websockets.asyncio.client.connect(front.url + path, **options) as connection:
        yield connection


class Backend:
    """A WebSocket server; `connections` are those of now, `endings` how each ended (1006 lost)."""

    def __init__(self) -> None:
        self.address = ""
        self.connections: list[websockets.asyncio.server.ServerConnection] = []
        self.endings: list[tuple[int, str]] = []

    async def serve(
        self,
        handler: Callable[[websockets.asyncio.server.ServerConnection], Awaitable[None]],
        connection: websockets.asyncio.server.ServerConnection,
    ) -> None:
        self.connections.append(connection)
        try:
            with contextlib.suppress(ConnectionClosed):
                await handler(connection)
            await connection.wait_closed()
        finally:
            self.connections.remove(connection)
            self.endings.append((connection.close_code or 0, connection.close_reason or ""))


async def echo(connection: websockets.asyncio.server.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def backend(
    handler: Callable[[websockets.asyncio.server.ServerConnection], Awaitable[None]] = echo,
    *,
    subprotocols: Sequence[str] = (),
    **options: Any,
) -> AsyncIterator[Backend]:
    """Run a WebSocket server; `options` of websockets.serve."""
    running = Backend()
    options = {"ping_interval": None, **options}
    async with websockets.asyncio.server.serve(
        partial(running.serve, handler),
        "127.0.0.1",
        0,
        subprotocols=[websockets.Subprotocol(each) for each in subprotocols] or None,
        **options,
    ) as server:
        (listening,) = server.sockets
        running.address = "{}:{}".format(*listening.getsockname())
        yield running


async def closed(connection: Connection) -> tuple[int | None, str | None]:
    """How the connection ended, when it has."""
    async with asyncio.timeout(20):
        await connection.wait_closed()
    return connection.close_code, connection.close_reason
