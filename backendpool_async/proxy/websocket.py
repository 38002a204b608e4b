"""WebSockets through the proxy: a client's, and one to the backend that was chosen for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from websockets.http11 import Response

from backendpool_async.errors import NoBackends
from backendpool_async.proxy.core import ProxyCore
from backendpool_async.proxy.framing import ABSENT
from backendpool_async.proxy.grammar import TOKEN
from backendpool_async.proxy.refusal import Refusal
from backendpool_async.proxy.request import ProxyRequest, request_line
from backendpool_async.proxy.unanswered import nobody_to_ask, unanswered
from backendpool_async.proxy.upload import ClientLeft
from backendpool_async.proxy.websocket_backend import GOING_AWAY, BackendSocket, Closing, Message
from backendpool_async.proxy.websocket_relay import ClientSocket, Ending, relay
from backendpool_async.proxy.websocket_tunnel import BACKEND_ERRORS, SWITCHING, Opened, Tunnel

_FIELDS: Final = b"sec-websocket-"
_OF_THE_SERVER: Final = frozenset({b"date", b"server"})
_BODILESS: Final = frozenset({204, 304})
# What a client that takes nothing any more is given to be told of the end.
_CLOSE_TIMEOUT: Final = 2.0
_CLOSING: Final = Closing(GOING_AWAY, "the proxy is closing")


class WebSocketProxy:
    """Carries WebSockets between clients and backends.

    A client is accepted when its backend has answered 101, and gets the backend's own answer when
    that is another. Pings are answered by each hop, and extensions (compression) agreed on by
    each; with a backend there are none. A lease lasts as long as its socket, so a backend that is
    removed keeps those that it has until they end.
    """

    __slots__ = ("_core", "_rules", "_settings")

    def __init__(self, core: ProxyCore) -> None:
        self._core = core
        self._rules = core.rules
        self._settings = core.settings

    async def serve(self, client: ClientSocket, request: ProxyRequest) -> None:
        """Return when the client's WebSocket has ended, or was refused."""
        core = self._core
        if core.in_flight >= self._settings.limits.concurrent_requests:
            await _refused(
                client,
                Refusal(503, "too many requests at once", retry_after=self._settings.retry_after),
            )
            return
        core.in_flight += 1
        try:
            await self._carry(client, request)
        finally:
            core.in_flight -= 1

    async def _carry(self, client: ClientSocket, request: ProxyRequest) -> None:
        tunnel = Tunnel(self._core)
        first = asyncio.create_task(client.receive())
        opening = asyncio.create_task(self._opened(tunnel, request, client.subprotocols))
        try:
            await asyncio.wait({first, opening}, return_when=asyncio.FIRST_COMPLETED)
            if opening.done() or not _has_left(first):
                with contextlib.suppress(ClientLeft):
                    await self._answered(client, await opening, first)
        finally:
            try:
                await _ended(first, opening)
            finally:
                tunnel.drop()

    async def _opened(
        self, tunnel: Tunnel, request: ProxyRequest, subprotocols: Sequence[str]
    ) -> Opened | Refusal:
        try:
            request_line(request.method, request.target)
            if request.version == "1.0":
                # RFC 9110, section 7.8.
                raise Refusal(400, "a handshake in HTTP/1.0")
            headers = [pair for pair in request.headers if not pair[0].startswith(_FIELDS)]
            head = self._rules.request(headers, request.client, request.scheme, request.version)
            if head.length not in (0, ABSENT):
                # Its bytes would be taken for the client's first messages.
                raise Refusal(400, "a handshake with a body")
            return await tunnel.open(request, head, _tokens(subprotocols))
        except Refusal as refusal:
            return refusal
        except NoBackends as error:
            self._core.complaints.complain("no backend", "nobody to ask", error)
            return nobody_to_ask(self._settings.retry_after)
        except BACKEND_ERRORS as error:
            return unanswered(error, self._settings.retry_after)

    async def _answered(
        self,
        client: ClientSocket,
        found: Opened | Refusal,
        first: asyncio.Task[Message | Closing],
    ) -> None:
        if isinstance(found, Refusal):
            await _refused(client, found)
            return
        answer, lease, socket, upstream = found
        try:
            pairs = self._passed_on(answer)
        except Refusal as refusal:
            lease.failed(refusal.text)
            self._core.complaints.complain(lease.backend, refusal.text, refusal.__cause__)
            await _refused(client, refusal)
            return
        if answer.status_code != SWITCHING:
            await client.refuse(answer.status_code, pairs, bytes(answer.body))
            return
        await client.accept(socket.subprotocol, pairs)
        limits = self._settings.limits
        ending = await relay(
            client,
            socket,
            first,
            idle_timeout=limits.idle_timeout,
            message_size=limits.message_size,
        )
        if ending.failure is not None and upstream.is_closed:
            ending = Ending(_CLOSING, ending.to_backend)
        if ending.failure is not None:
            lease.failed(ending.failure)
            self._core.complaints.complain(lease.backend, ending.failure, None)
        await _told(client, socket, ending)

    def _passed_on(self, answer: Response) -> list[tuple[bytes, bytes]]:
        # Of another than Latin-1 it is told by surrogates, which are the bytes that came.
        headers = [
            (name.lower().encode(), value.encode("latin-1", "surrogateescape"))
            for name, value in answer.headers.raw_items()
        ]
        pairs = self._rules.answer(answer.status_code, headers, "1.1").pairs
        pairs = [pair for pair in pairs if not pair[0].startswith(_FIELDS)]
        # It came as a whole, however it was framed; and 101 has no body (RFC 9110, section 8.6).
        pairs = [pair for pair in pairs if pair[0] != b"content-length"]
        if answer.status_code == SWITCHING:
            # The server that accepts says its own.
            return [pair for pair in pairs if pair[0] not in _OF_THE_SERVER]
        if answer.status_code not in _BODILESS:
            pairs.append((b"content-length", b"%d" % len(answer.body)))
        return pairs


def _tokens(subprotocols: Sequence[str]) -> Sequence[str]:
    # What is no ASCII becomes a question mark, which may not stand there either.
    if "".join(subprotocols).encode("ascii", "replace").translate(None, TOKEN):
        raise Refusal(400, "a subprotocol is malformed")
    # RFC 9110, section 5.6.1.2: empty ones are to be passed over.
    return [each for each in subprotocols if each]


def _has_left(first: asyncio.Task[Message | Closing]) -> bool:
    return first.exception() is not None or isinstance(first.result(), Closing)


async def _refused(client: ClientSocket, refusal: Refusal) -> None:
    body = f"{refusal}\n".encode()
    await client.refuse(refusal.status, refusal.headers(body), body)


async def _told(client: ClientSocket, socket: BackendSocket, ending: Ending) -> None:
    if ending.to_client is not None:
        with contextlib.suppress(ClientLeft, TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await client.close(ending.to_client)
    await socket.close(ending.to_backend)


async def _ended(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            # Or it would be reported as never retrieved.
            task.exception()
