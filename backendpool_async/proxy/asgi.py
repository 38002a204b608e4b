"""The reverse proxy as an ASGI app."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from backendpool_async.balance.balancer import Balancer
from backendpool_async.errors import describe
from backendpool_async.proxy.aiohttp_web import AiohttpHandler
from backendpool_async.proxy.core import ProxyCore
from backendpool_async.proxy.headers import HeaderRules
from backendpool_async.proxy.request import ProxyRequest, asgi_target, with_own_target
from backendpool_async.proxy.settings import Key, ProxyLimits, checked_settings
from backendpool_async.proxy.upload import Receive, Send
from backendpool_async.proxy.websocket import WebSocketProxy
from backendpool_async.proxy.websocket_asgi import AsgiClientSocket
from backendpool_async.retries import FAILURE_STATUSES, Retries

Scope = MutableMapping[str, Any]  # what is in it depends on its type


class ReverseProxy:
    """An ASGI app that passes each request on to a backend of the live list, and its answer back.

    Run it by itself (then the server's lifespan starts and closes the balancer), or mount it in
    FastAPI or Starlette, which tell a mounted app nothing of their lifespan: enter ``async with
    proxy`` in the app's own. Without either it works, with a balancer that others start, and
    `aclose` is theirs to call. Bodies are streamed both ways, as fast as the slower side takes
    them. The client's Host never chooses the backend.

    * `host`: the Host that backends get: "preserve" the client's, "backend" their own address, or a
      name.
    * `trusted_proxies`: networks of the proxies before this one, whose X-Forwarded-* and Forwarded
      lines are passed on and added to; of all other peers they are dropped.
    * `allow_networks`: backends outside of these networks are not asked; None: all are. Refused for
      a balancer with health checks, which would be sent there.
    * `limits`: see `ProxyLimits`.
    * `retries`: see `Retries`; by default what cannot have been sent is tried elsewhere.
    * `failure_statuses`: answers with one of these are passed on, and are failures of the backend.
    * `via`: the name of this proxy in Via.
    * `retry_after`: seconds that a client is told to wait after 503.
    * `tls`: backends are asked over TLS, in this context; None: without.
    * `tls_name`: the name that their certificates are verified for, and that is sent as SNI;
      None: each backend's own host, which is an address where discovery leads to addresses.
    * `key`: what a request is hashed by, for a policy that hashes (`Maglev`).

    Raises TypeError or ValueError for a keyword out of range.

    >>> from backendpool_async import BackendPool
    >>> ReverseProxy(Balancer(BackendPool.static(["10.0.0.1:8080"])))
    <ReverseProxy of <Balancer static: ...>>
    """

    def __init__(
        self,
        balancer: Balancer,
        *,
        host: str = "preserve",
        trusted_proxies: Iterable[str] = (),
        allow_networks: Iterable[str] | None = None,
        limits: ProxyLimits | None = None,
        retries: Retries | None = None,
        failure_statuses: Collection[int] = FAILURE_STATUSES,
        via: str = "backendpool",
        retry_after: int = 1,
        tls: ssl.SSLContext | None = None,
        tls_name: str | None = None,
        key: Key | None = None,
    ) -> None:
        settings = checked_settings(
            host=host,
            trusted_proxies=trusted_proxies,
            allow_networks=allow_networks,
            limits=limits,
            retries=retries,
            failure_statuses=failure_statuses,
            via=via,
            retry_after=retry_after,
            tls=tls,
            tls_name=tls_name,
            key=key,
        )
        self._core = ProxyCore(balancer, settings)
        self._websockets = WebSocketProxy(self._core)

    @property
    def rules(self) -> HeaderRules:
        """What is done to header lines."""
        return self._core.rules

    @property
    def in_flight(self) -> int:
        """How many requests and WebSockets are under way."""
        return self._core.in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan, as ASGI has it."""
        kind = scope["type"]
        if kind == "http":
            await self._core.exchange(_request(scope), receive, send, _transport_of(send))
        elif kind == "websocket":
            socket = AsgiClientSocket(scope, receive, send)
            await self._websockets.serve(socket, _request(scope))
        elif kind == "lifespan":
            await self._live(receive, send)
        else:
            raise ValueError(f"a scope of the type {kind!r} is not for a proxy")

    def aiohttp_handler(
        self, *, prefix: str = ""
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return a handler for aiohttp.web; `prefix` is taken off the path.

        Have the server pass bodies as they are: ``AppRunner(app, auto_decompress=False)``. One that
        unpacks them has requests with a Content-Encoding refused with 415.

        >>> from aiohttp import web
        >>> from backendpool_async import BackendPool
        >>> proxy = ReverseProxy(Balancer(BackendPool.static(["10.0.0.1:8080"])))
        >>> app = web.Application()
        >>> handler = proxy.aiohttp_handler(prefix="/api")
        >>> route = app.router.add_route("*", "/api/{path:.*}", handler)
        """
        return AiohttpHandler(self._core, self._websockets, prefix).handle

    async def start(self) -> None:
        """Start the balancer, unless it is running; there need not be a backend yet."""
        await self._core.start()

    async def aclose(self) -> None:
        """Close the connections of the running loop, and the balancer if `start` started it.

        Requests that are under way are answered with 503, answers broken off, and WebSockets
        closed with 1001; none of it is a failure of a backend.
        """
        await self._core.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._core.balancer!r}>"

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": describe(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        finally:
            await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def _transport_of(send: Send) -> asyncio.Transport | None:
    # uvicorn's is a method of what has the client's connection, which is not documented: tests pin
    # it. Another server's shows nothing, nor does one that a framework has wrapped.
    transport: asyncio.Transport | None = getattr(
        getattr(send, "__self__", None), "transport", None
    )
    return transport if hasattr(transport, "get_write_buffer_size") else None


def _request(scope: Scope) -> ProxyRequest:
    client = scope.get("client")
    request = ProxyRequest(
        scope.get("method", "GET").encode("ascii", "replace"),
        asgi_target(scope),
        scope["headers"],
        client[0] if client else None,
        scope.get("scheme", "http"),
        scope.get("http_version", "1.1"),
    )
    return request if request.target[:1] == b"/" else with_own_target(request)
