"""Asking for the status of one path, with aiohttp."""

from __future__ import annotations

import asyncio
import socket
import ssl

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from backendpool_async.backend import Backend
from backendpool_async.balance.health.addresses import addresses


class HttpClient:
    """Sends one request to any backend; a session an event loop, made when it is first needed."""

    def __init__(
        self,
        scheme: str,
        path: str,
        host: str | None,
        port: int | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._scheme = scheme
        self._path = path
        self._port = port
        self._tls = True if tls is None else tls
        self._headers = {"User-Agent": "backendpool_async"}
        self._server_name: str | None = None
        if host is not None:
            self._headers["Host"] = host
            self._server_name = URL.build(scheme=scheme, authority=host).host
        self._sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}

    async def status(self, backend: Backend) -> int:
        """Return the status of its answer."""
        async with self._session().get(
            self._url(backend),
            headers=self._headers,
            allow_redirects=False,
            ssl=self._tls,
            server_hostname=self._server_name,
        ) as response:
            # Or the connection would be kept until the rest of the body has been read.
            response.close()
            return response.status

    async def aclose(self) -> None:
        """Close the session of this event loop."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            for closed in [each for each in self._sessions if each.is_closed()]:
                # Nobody closed it in time; its connections went with its loop.
                self._sessions.pop(closed).detach()
            session = self._sessions[loop] = aiohttp.ClientSession(
                # How many there are at once is for whoever checks to say.
                connector=aiohttp.TCPConnector(
                    force_close=True, limit=0, use_dns_cache=False, resolver=_SystemResolver()
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                auto_decompress=False,
                trust_env=False,
            )
        return session

    def _url(self, backend: Backend) -> URL:
        host, port = backend.host, self._port or backend.port
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return URL(f"{self._scheme}://{authority}{self._path}", encoded=True)


class _SystemResolver(AbstractResolver):
    # aiohttp's own would be c-ares where aiodns is installed, with a thread and four descriptors
    # from the start, or take a thread of the event loop for each lookup.

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=found,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for found, _, protocol, _, address in await addresses(host, port)
            if family in (socket.AF_UNSPEC, found)
        ]

    async def close(self) -> None:
        """Nothing is held."""
