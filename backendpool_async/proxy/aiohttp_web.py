"""The reverse proxy as a handler of aiohttp.web."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict

from backendpool_async.proxy.core import ProxyCore
from backendpool_async.proxy.forwarded import Pair
from backendpool_async.proxy.refusal import BrokenOff, Refusal
from backendpool_async.proxy.request import ProxyRequest, with_own_target, without_prefix
from backendpool_async.proxy.upload import Message
from backendpool_async.proxy.websocket import WebSocketProxy
from backendpool_async.proxy.websocket_aiohttp import refused, serve_websocket

_LOOKS_APART: Final = 0.25
_RESET: Final = struct.pack("ii", 1, 0)
# What aiohttp.web sets where a handler does not.
_UNPACKED: Final = frozenset({"gzip", "deflate", "br", "zstd"})
_OWN_DEFAULTS: Final = ("content-type", "server", "date")


class AiohttpHandler:
    """Of which `ReverseProxy.aiohttp_handler` returns the method `handle`."""

    __slots__ = ("_core", "_prefix", "_websockets")

    def __init__(self, core: ProxyCore, websockets: WebSocketProxy, prefix: str) -> None:
        self._core = core
        self._websockets = websockets
        self._prefix = prefix

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on; the answer that is returned was sent already."""
        asked = self._asked(request)
        if _is_websocket(request):
            size = self._core.settings.limits.message_size
            return await serve_websocket(self._websockets, request, asked, size)
        if _is_unpacked(request):
            self._core.complaints.complain(
                "aiohttp.web",
                "it unpacks bodies without AppRunner(app, auto_decompress=False)",
                None,
            )
            return refused(Refusal(415, "a body with a Content-Encoding"))
        client = _Client(request)
        try:
            await self._core.exchange(asked, client.receive, client.send, request.transport)
        except BrokenOff:
            _reset(request)
        return client.answer

    def _asked(self, request: web.BaseRequest) -> ProxyRequest:
        asked = ProxyRequest(
            request.method.encode(),
            request.raw_path.encode("utf-8", "surrogateescape"),
            [(name.lower(), value) for name, value in request.raw_headers],
            request.remote,
            request.scheme,
            f"{request.version.major}.{request.version.minor}",
        )
        if asked.target[:1] != b"/":
            asked = with_own_target(asked)
        if self._prefix:
            path, question_mark, query = asked.target.partition(b"?")
            target = without_prefix(path, self._prefix) + question_mark + query
            asked = asked._replace(target=target)
        return asked


class _Client:
    """The client as an ASGI server would present it."""

    def __init__(self, request: web.BaseRequest) -> None:
        # The one that is never begun is for a client that has left.
        self.answer: web.StreamResponse = web.Response(status=502)
        self._request = request
        self._is_read = False

    async def receive(self) -> Message:
        if self._is_read:
            await self._left()
            return {"type": "http.disconnect"}
        content = self._request.content
        piece = await content.readany()
        self._is_read = content.at_eof()
        return {"type": "http.request", "body": piece, "more_body": not self._is_read}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answer = _Answer(message["status"], message["headers"])
            if (b"connection", b"close") in message["headers"]:
                self.answer.force_close()
            await self.answer.prepare(self._request)
            return
        if message["body"]:
            await self.answer.write(message["body"])
        if not message["more_body"]:
            await self.answer.write_eof()

    async def _left(self) -> None:
        # aiohttp.web has no event for it that all handlers could wait for.
        while (  # noqa: ASYNC110 - see above
            transport := self._request.transport
        ) is not None and not transport.is_closing():
            await asyncio.sleep(_LOOKS_APART)


class _Answer(web.StreamResponse):
    """An answer with the backend's header lines and no others."""

    def __init__(self, status: int, headers: list[Pair]) -> None:
        pairs = [(name.decode(), _text(value)) for name, value in headers]
        super().__init__(status=status, headers=CIMultiDict(pairs))
        self._is_ascii = b"".join([value for _, value in headers]).isascii()

    async def _prepare_headers(self) -> None:
        missing = [name for name in _OWN_DEFAULTS if name not in self.headers]
        await super()._prepare_headers()
        for name in missing:
            self.headers.pop(name, None)

    async def _write_headers(self) -> None:
        if self._is_ascii:
            await super()._write_headers()
            return
        # aiohttp writes UTF-8, and leaves out what is none. Not documented, so tests pin it.
        self._send_headers_immediately = False
        await super()._write_headers()
        writer: Any = self._payload_writer
        status_line, _, _ = writer._headers_buf.partition(b"\r\n")
        lines = [
            b"%b: %b\r\n" % (name.encode(), value.encode("utf-8", "surrogateescape"))
            for name, value in self.headers.items()
        ]
        writer._headers_buf = b"%b\r\n%b\r\n" % (status_line, b"".join(lines))
        writer.send_headers()


def _is_websocket(request: web.BaseRequest) -> bool:
    return (
        request.method == "GET"
        and request.headers.get("upgrade", "").lower() == "websocket"
        and "upgrade" in request.headers.get("connection", "").lower()
    )


def _is_unpacked(request: web.BaseRequest) -> bool:
    """Whether the server has unpacked the body: it is not what its header lines say."""
    # Which of several lines the server goes by is its own affair.
    codings = {coding.lower() for coding in request.headers.getall("content-encoding", ())}
    if codings.isdisjoint(_UNPACKED) or not request.can_read_body:
        return False
    manager = request.protocol._manager
    return manager is None or manager._kwargs.get("auto_decompress", True) is not False


def _reset(request: web.BaseRequest) -> None:
    """Break the connection off, in a way that cannot be taken for the end of an answer."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        # An answer without a length ends with its connection: only a reset is no end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
