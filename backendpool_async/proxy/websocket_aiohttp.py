"""The client of a WebSocket, as aiohttp.web presents it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Sequence
from typing import Final

from aiohttp import WebSocketError, WSMessage, WSMsgType, web
from multidict import CIMultiDict

from backendpool_async.proxy.forwarded import Pair
from backendpool_async.proxy.refusal import Refusal
from backendpool_async.proxy.request import ProxyRequest
from backendpool_async.proxy.taking import NOTHING, Taken, taken
from backendpool_async.proxy.upload import ClientLeft
from backendpool_async.proxy.websocket import WebSocketProxy
from backendpool_async.proxy.websocket_backend import (
    BROKEN_OFF,
    GOING_AWAY,
    NO_CODE,
    TOO_BIG,
    Closing,
    Message,
    sendable,
    subprotocols_of,
)

_END_TIMEOUT: Final = 5.0
_MESSAGES: Final = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})


async def serve_websocket(
    proxy: WebSocketProxy, request: web.BaseRequest, asked: ProxyRequest, message_size: int
) -> web.StreamResponse:
    """Carry the WebSocket that this request asks for, and return what its handler is to return.

    A server that cancels handlers (``handler_cancellation``) does so when the client's connection
    is lost, also after a proper end, which the backend is told all the same.
    """
    if not web.WebSocketResponse().can_prepare(request):
        # Or it would be refused when the backend has answered.
        return refused(Refusal(400, "the handshake is malformed"))
    client = AiohttpClientSocket(request, asked, message_size)
    serving = asyncio.create_task(proxy.serve(client, asked))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        if client.is_accepted and (request.transport is None or request.transport.is_closing()):
            await asyncio.wait({serving}, timeout=_END_TIMEOUT)
        raise
    finally:
        if not serving.done():
            serving.cancel()
            await asyncio.wait({serving})
    return client.response


class AiohttpClientSocket:
    """A `ClientSocket` of a request to aiohttp.web; `response` is what its handler returns."""

    def __init__(self, request: web.BaseRequest, asked: ProxyRequest, message_size: int) -> None:
        self.subprotocols: Final = subprotocols_of([_offered(asked)])
        self.response: web.StreamResponse = web.Response(status=500)
        self._request = request
        self._message_size = message_size
        loop = asyncio.get_running_loop()
        self._accepted: asyncio.Future[web.WebSocketResponse] = loop.create_future()

    @property
    def heard_at(self) -> float:
        """The server does not show it."""
        return -math.inf

    @property
    def taken(self) -> Taken:
        """How much the client has taken."""
        transport = self._request.transport
        return NOTHING if transport is None else taken(transport)

    @property
    def is_accepted(self) -> bool:
        """Whether the handshake was answered with 101."""
        return self._accepted.done()

    async def receive(self) -> Message | Closing:
        """Return the next message, or how the client ended it."""
        socket = await asyncio.shield(self._accepted)
        return _said(await socket.receive())

    async def accept(self, subprotocol: str | None, headers: Sequence[Pair]) -> None:
        """Answer the handshake with 101."""
        socket = web.WebSocketResponse(
            protocols=() if subprotocol is None else (subprotocol,),
            # Which aiohttp takes for the first size that is too big.
            max_msg_size=self._message_size + 1,
        )
        socket.headers.extend(_multidict(headers))
        self.response = socket
        await _done(socket.prepare(self._request))
        self._accepted.set_result(socket)

    async def refuse(self, status: int, headers: Sequence[Pair], body: bytes) -> None:
        """Answer the handshake with something else."""
        self.response = web.Response(status=status, headers=_multidict(headers), body=body)
        # What comes after a handshake, aiohttp takes for no request.
        self.response.force_close()

    async def send(self, message: Message) -> None:
        """Send a message, as fast as the client takes it."""
        socket = self._accepted.result()
        if isinstance(message, str):
            await _done(socket.send_str(message))
        else:
            await _done(socket.send_bytes(message))

    async def close(self, closing: Closing) -> None:
        """End it in this way."""
        socket = self._accepted.result()
        await _done(socket.close(code=closing.code, message=closing.reason.encode()))


async def _done(what: Awaitable[object]) -> None:
    try:
        await what
    except OSError as error:
        raise ClientLeft from error


_NO_CODE: Final = Closing(NO_CODE, "")


def _said(message: WSMessage) -> Message | Closing:
    if message.type in _MESSAGES:
        data: Message = message.data
        return data
    if message.type is WSMsgType.CLOSE:
        return sendable(message.data, message.extra or "") if message.data else _NO_CODE
    if isinstance(message.data, WebSocketError) and message.data.code == TOO_BIG:
        # Which the client has been told.
        return Closing(GOING_AWAY, "message too big")
    # Of a connection that ends without a closing frame, aiohttp says 1000.
    return Closing(BROKEN_OFF, "")


def refused(refusal: Refusal) -> web.Response:
    """Return the answer that the proxy gives without asking anybody."""
    body = f"{refusal}\n".encode()
    answer = web.Response(
        status=refusal.status, headers=_multidict(refusal.headers(body)), body=body
    )
    answer.force_close()
    return answer


def _offered(asked: ProxyRequest) -> bytes:
    return b", ".join(value for name, value in asked.headers if name == b"sec-websocket-protocol")


def _multidict(headers: Sequence[Pair]) -> CIMultiDict[str]:
    return CIMultiDict((name.decode(), value.decode("latin-1")) for name, value in headers)
