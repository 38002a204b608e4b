"""Connections to backends."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from yarl import URL

from backendpool_async.aiohttp.backend_protocol import BackendProtocol
from backendpool_async.aiohttp.connector import BackendConnector
from backendpool_async.backend import Backend
from backendpool_async.balance.balancer import Balancer
from backendpool_async.proxy.guard import GuardedResolver, refuse_literal_outside
from backendpool_async.proxy.settings import ProxySettings

# Below what common servers keep an idle connection for (5 s), so that few are met closing.
_IDLE_SECONDS: Final = 4.0
_REMEMBERED: Final = 1024


class Upstream:
    """The connections of one event loop, kept alive between requests.

    What is used of aiohttp is its pool of connections and its parser of answers. A session would
    ask again by itself, decode bodies, keep cookies and follow redirects, and take as long as all
    the rest.
    """

    __slots__ = ("_connector", "_resolver", "_routes", "_settings", "_timeout", "is_closed")

    def __init__(self, balancer: Balancer, settings: ProxySettings) -> None:
        self._settings = settings
        allowed = settings.allow_networks
        self._resolver = None if allowed is None else GuardedResolver(allowed)
        self._connector = BackendConnector(
            balancer,
            limit=0,
            keepalive_timeout=_IDLE_SECONDS,
            resolver=self._resolver,
        )
        self._timeout = aiohttp.ClientTimeout(total=None, connect=settings.limits.connect_timeout)
        self._routes: dict[Backend, aiohttp.ClientRequest] = {}
        self.is_closed: bool = False
        """Connections broke off because they were closed here: that is no failure of a backend."""

    async def connect(self, backend: Backend) -> tuple[Connection, BackendProtocol]:
        """Return a connection, a kept one or a new one; to be released or closed.

        Raises aiohttp.ClientError or OSError when there is none to be had; nothing was sent then.
        """
        route = self._routes.get(backend)
        if route is None:
            route = self._route(backend)
        try:
            connection = await self._connector.connect(route, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from error
        return connection, connection.protocol  # type: ignore[return-value]  # it was not released

    async def aclose(self) -> None:
        """Close all connections, also those in use."""
        self.is_closed = True
        # By itself, a connector of aiohttp does not tell those who read from a connection.
        in_use = [each for each in self._connector._acquired if isinstance(each, ResponseHandler)]
        lost = [each.closed for each in in_use if each.closed is not None]
        for transport in filter(None, [each.transport for each in in_use]):
            transport.abort()
        try:
            if lost:
                await asyncio.wait(lost)
        finally:
            await self._connector.close()
            if self._resolver is not None:
                # A connector closes only one that it made.
                await self._resolver.close()

    def _route(self, backend: Backend) -> aiohttp.ClientRequest:
        settings = self._settings
        if settings.allow_networks is not None:
            refuse_literal_outside(backend, settings.allow_networks)
        scheme = "http" if settings.tls is None else "https"
        # Never sent: to a connector, a request says where to.
        route = aiohttp.ClientRequest(
            "GET",
            URL.build(scheme=scheme, host=backend.host, port=backend.port),
            loop=asyncio.get_running_loop(),
            ssl=True if settings.tls is None else settings.tls,
            server_hostname=settings.tls_name,
        )
        if len(self._routes) >= _REMEMBERED:
            self._routes.clear()
        self._routes[backend] = route
        return route
