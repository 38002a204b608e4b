"""The way of a request: from a client to the proxy, and from the proxy on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from backendpool_async import Balancer
from backendpool_async.aiohttp import BackendConnector, backend_middleware
from backendpool_async.proxy import ReverseProxy
from backendpool_async.retries import Retries

Ask = Callable[[], Awaitable[str]]


@asynccontextmanager
async def serving(backends: Balancer, retries: Retries) -> AsyncIterator[str]:
    """Run a proxy before these; its address."""
    app = web.Application()
    async with ReverseProxy(backends, retries=retries) as proxy:
        app.router.add_route("*", "/{path:.*}", proxy.aiohttp_handler())
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0]
            yield f"{host}:{port}"
        finally:
            await runner.cleanup()


@asynccontextmanager
async def asking(backends: Balancer, retries: Retries) -> AsyncIterator[Ask]:
    """Ask one of these for its name, each time that the function is called."""
    async with aiohttp.ClientSession(
        "http://api",
        connector=BackendConnector(backends, limit=0),
        middlewares=[backend_middleware(backends, host="api", retries=retries)],
        raise_for_status=True,
    ) as session:

        async def ask() -> str:
            async with session.get("/") as answer:
                return (await answer.text()).strip()

        yield ask
