"""A backend that behaves: it answers with what it got, in the way that the path asks for."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import WSCloseCode, WSMsgType, web

from backendpool_async import Backend

_PIECE = 64 * 1024


@dataclass
class Received:
    """One request as it arrived: `target` and `headers` undecoded, in their order.

    `state`: "running", then "answered", "cancelled" (the client left) or "broken".
    """

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    body: bytearray = field(default_factory=bytearray)
    state: str = "running"

    def values(self, name: str) -> list[str]:
        """All values of a header, in order."""
        return [value for each, value in self.headers if each.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """The value of a header that comes once at most; None without one."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


class EchoBackend:
    """An HTTP/1.1 server; the first part of a path says how it answers:

    * ``/`` and everything else: 200 and JSON: name, method, target, headers, body (latin-1).
    * ``/status/N``: N. ``/bytes/N``: N bytes with a Content-Length; ``/chunked/N``: in chunks.
    * ``/sink``: reads the body, keeps none of it, and says how long it was.
    * ``/unread``: answers at once and reads nothing of the body itself.
    * ``/slow``: when `release` is set. ``/stream``: chunks from the queue `chunks`, None ends it.
    * ``/sse``: the same of `chunks`, as text/event-stream. ``/upload``: 200, then each piece of the
      body sent back as it comes.
    * ``/cookie``: sets two cookies. ``/redirect``: 302 to "/landed"; ``/redirect/absolute``: to the
      Host that it was asked for. ``/gzip``: a compressed body.
    * ``/ws``: a WebSocket that says everything back; it takes one of `subprotocols`. The texts
      "close CODE REASON", "abort" (no closing handshake) and "headers" are commands; how each
      ended is in `close_codes`.
      ``/ws/refused``: 403.
    """

    def __init__(self, name: str, tls: ssl.SSLContext | None) -> None:
        self.name = name
        self.backend = Backend("127.0.0.1:1")
        self.requests: list[Received] = []
        self.accepted = 0
        self.release = asyncio.Event()
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.subprotocols: tuple[str, ...] = ()
        self.max_message = 4 * 1024 * 1024
        self.websockets: list[web.WebSocketResponse] = []
        self.close_codes: list[int | None] = []
        self._tls = tls
        self._server: web.Server | None = None
        self._listening: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return str(self.backend)

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return 0 if self._server is None else len(self._server.connections)

    @property
    def running(self) -> int:
        """How many requests are being answered."""
        return sum(request.state == "running" for request in self.requests)

    async def start(self, port: int = 0) -> None:
        """Listen."""
        server = web.Server(
            self._answer,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            max_line_size=65536,
            max_field_size=65536,
        )

        def accepted() -> asyncio.Protocol:
            self.accepted += 1
            return server()

        loop = asyncio.get_running_loop()
        self._server = server
        self._listening = await loop.create_server(accepted, "127.0.0.1", port, ssl=self._tls)
        host, port = self._listening.sockets[0].getsockname()
        self.backend = Backend(f"{host}:{port}")

    async def start_again(self) -> None:
        """Listen on the port that it had."""
        await self.start(self.backend.port)

    async def stop(self, grace: float = 0.05) -> None:
        """Refuse connections, close the idle ones, and the others after `grace` seconds."""
        server, listening = self._server, self._listening
        if server is None or listening is None:
            return
        listening.close()
        await asyncio.sleep(0)
        server.pre_shutdown()
        for websocket in self.websockets:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(websocket.close(code=WSCloseCode.GOING_AWAY), grace)
        await server.shutdown(grace)
        self._server = self._listening = None
        await listening.wait_closed()

    async def kill(self) -> None:
        """End without telling: refuse connections, and break off those that there are."""
        if self._server is not None:
            for connection in self._server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
        await self.stop(0)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        received = Received(
            request.method,
            request.raw_path,
            f"{request.version.major}.{request.version.minor}",
            [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in request.raw_headers
            ],
        )
        self.requests.append(received)
        try:
            answer = await self._answer_to(request, received)
        except asyncio.CancelledError:
            received.state = "cancelled"
            raise
        except Exception:
            received.state = "broken"
            raise
        received.state = "answered"
        return answer

    async def _answer_to(self, request: web.BaseRequest, received: Received) -> web.StreamResponse:
        word, _, rest = request.path.lstrip("/").partition("/")
        match word:
            case "ws":
                return await self._websocket(request, rest)
            case "upload":
                return await _said_back(request)
            case "sink":
                return await _sunk(request)
            case "unread":
                return web.Response(text="unread")
        async for piece in request.content.iter_any():
            received.body += piece
        match word:
            case "stream" | "sse":
                return await self._stream(request, word)
            case "bytes" | "chunked":
                return await _bytes(request, int(rest), chunked=word == "chunked")
            case "slow":
                await self.release.wait()
        return _special(request, word, rest) or self._echo(received)

    def _echo(self, received: Received) -> web.Response:
        return web.json_response(
            {
                "name": self.name,
                "method": received.method,
                "target": received.target,
                "headers": received.headers,
                "body": received.body.decode("latin-1"),
            }
        )

    async def _stream(self, request: web.BaseRequest, word: str) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.content_type = "text/event-stream" if word == "sse" else "application/octet-stream"
        await answer.prepare(request)
        while (chunk := await self.chunks.get()) is not None:
            await answer.write(chunk)
        await answer.write_eof()
        return answer

    async def _websocket(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        if rest == "refused":
            return web.Response(status=403, text="not you")
        websocket = web.WebSocketResponse(
            protocols=self.subprotocols, max_msg_size=self.max_message
        )
        await websocket.prepare(request)
        self.websockets.append(websocket)
        try:
            async for message in websocket:
                if message.type is WSMsgType.BINARY:
                    await websocket.send_bytes(message.data)
                elif message.data == "abort":
                    assert request.transport is not None
                    request.transport.abort()
                elif message.data == "headers":
                    await websocket.send_json(self.requests[-1].headers)
                elif message.data.startswith("close "):
                    _, code, reason = message.data.split(" ", 2)
                    await websocket.close(code=int(code), message=reason.encode())
                else:
                    await websocket.send_str(message.data)
        finally:
            self.websockets.remove(websocket)
            self.close_codes.append(websocket.close_code)
        return websocket


@asynccontextmanager
async def echo_backend(
    name: str = "a", *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[EchoBackend]:
    """Run an `EchoBackend`."""
    echo = EchoBackend(name, tls)
    await echo.start()
    try:
        yield echo
    finally:
        await echo.stop()


def octets(length: int) -> bytes:
    """What ``/bytes/N`` and ``/chunked/N`` answer with."""
    return (b"0123456789abcdef" * (length // 16 + 1))[:length]


def _special(request: web.BaseRequest, word: str, rest: str) -> web.Response | None:
    match word:
        case "status":
            return web.Response(status=int(rest))
        case "cookie":
            answer = web.Response(text="cookies")
            answer.set_cookie("session", "1", path="/", httponly=True)
            answer.set_cookie("theme", "dark")
            return answer
        case "redirect":
            to = f"{request.scheme}://{request.host}/landed" if rest else "/landed"
            return web.Response(status=302, headers={"Location": to})
        case "gzip":
            headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain"}
            return web.Response(body=gzip.compress(b"plain"), headers=headers)
    return None


async def _bytes(request: web.BaseRequest, length: int, *, chunked: bool) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    if chunked:
        answer.enable_chunked_encoding()
    else:
        answer.content_length = length
    await answer.prepare(request)
    if request.method != "HEAD":
        piece = octets(_PIECE)
        for begin in range(0, length, _PIECE):
            await answer.write(piece[: length - begin])
    await answer.write_eof()
    return answer


async def _sunk(request: web.BaseRequest) -> web.Response:
    length = 0
    async for piece in request.content.iter_any():
        length += len(piece)
    return web.Response(text=str(length))


async def _said_back(request: web.BaseRequest) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    async for piece in request.content.iter_any():
        await answer.write(piece)
    await answer.write_eof()
    return answer
