"""A backend for one WebSocket: chosen, asked, and another one asked where that may be."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

import aiohttp
from websockets.http11 import Response

from backendpool_async.backend import Backend
from backendpool_async.balance.lease import Lease
from backendpool_async.proxy.core import ProxyCore
from backendpool_async.proxy.headers import RequestHead
from backendpool_async.proxy.request import ProxyRequest
from backendpool_async.proxy.unanswered import closing
from backendpool_async.proxy.upstream import Upstream
from backendpool_async.proxy.websocket_backend import BackendSocket
from backendpool_async.retries import Attempts

SWITCHING: Final = 101
BACKEND_ERRORS: Final = (aiohttp.ClientError, OSError)


class Opened(NamedTuple):
    """What `Tunnel.open` found: the answer to the handshake, from whom, and over what."""

    response: Response
    lease: Lease
    socket: BackendSocket
    upstream: Upstream


class Tunnel:
    """The lease and the connection of one WebSocket, until `drop`."""

    __slots__ = ("_core", "_lease", "_settings", "_socket", "_upstream")

    def __init__(self, core: ProxyCore) -> None:
        self._core = core
        self._settings = core.settings
        self._upstream: Upstream = core.upstream()
        self._lease: Lease | None = None
        self._socket: BackendSocket | None = None

    async def open(
        self, request: ProxyRequest, head: RequestHead, subprotocols: Sequence[str]
    ) -> Opened:
        """Return what came of the backend that was chosen, or of the last that was tried.

        Raises `NoBackends`, TimeoutError, what the last one's connection raises, or `Refusal`.
        """
        settings = self._settings
        key = None if settings.key is None else settings.key(request)
        # A handshake has no body, and its method is GET.
        attempts = Attempts(self._core.balancer, settings.retries, key, can_repeat=True)
        lease = attempts.first()
        while True:
            self._lease = lease
            try:
                opened = await self._ask(lease, request, head, subprotocols)
            except BACKEND_ERRORS as error:
                if self._upstream.is_closed:
                    self._release(asyncio.CancelledError())
                    raise closing(settings.retry_after) from error
                self._release(error)
                another = attempts.after_error(error)
                if another is None:
                    self._core.complaints.complain(lease.backend, "it did not answer", error)
                    raise
            except asyncio.CancelledError as error:
                self._release(error)
                raise
            else:
                lease.answered()
                status = opened.response.status_code
                if status in settings.failure_statuses:
                    lease.failed(f"{status}")
                another = attempts.after_status(status)
                if another is None:
                    return opened
                self._release(None)
            lease = another

    def drop(self) -> None:
        """Let go of the connection and of the lease; the first time only."""
        self._release(None)

    async def _ask(
        self, lease: Lease, request: ProxyRequest, head: RequestHead, subprotocols: Sequence[str]
    ) -> Opened:
        limits = self._settings.limits
        connection, _ = await self._upstream.connect(lease.backend)
        socket = self._socket = BackendSocket(connection, subprotocols, limits.message_size)
        async with asyncio.timeout(limits.idle_timeout):
            response = await socket.shake_hands(
                request.target, self._host(lease.backend, head), head.lines
            )
        return Opened(response, lease, socket, self._upstream)

    def _host(self, backend: Backend, head: RequestHead) -> bytes:
        host = self._settings.host_header
        if host is None:
            host = head.host
        return host or str(backend).encode()

    def _release(self, error: BaseException | None) -> None:
        lease, self._lease = self._lease, None
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.leave()
        if lease is not None:
            lease.release(error)
