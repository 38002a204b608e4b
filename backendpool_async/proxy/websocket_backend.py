"""One WebSocket connection to a backend: frames in and out of a stream (RFC 6455)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from aiohttp.connector import Connection
from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig
from websockets.frames import EXTERNAL_CLOSE_CODES, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from backendpool_async.proxy.taking import Taken, taken
from backendpool_async.proxy.websocket_interim import InterimAnswers
from backendpool_async.proxy.websocket_pongs import Pongs

GOING_AWAY: Final = 1001
NO_CODE: Final = 1005
BROKEN_OFF: Final = 1006
TOO_BIG: Final = 1009

# A control frame has 125 bytes, of which two are the code.
_LONGEST_REASON: Final = 123
_SWITCHING: Final = 101
_PIECE: Final = 65_536
# What ends a connection that is closed: the other side, which has a moment for it.
_CLOSE_TIMEOUT: Final = 2.0
# Its parts go out by other ways; the library asks for one.
_NOWHERE: Final = WebSocketURI(secure=False, host="backend", port=80, path="/", query="")

Message = str | bytes


class Closing(NamedTuple):
    """How one side ended a WebSocket: `code` as RFC 6455 numbers them, 1005 without one.

    1006: the connection broke off, without a word or with one that is malformed.
    """

    code: int
    reason: str


def sendable(code: int, reason: str) -> Closing:
    """Return what can be sent on; a code that must not stand in a frame is a connection lost.

    >>> sendable(1000, "done")
    Closing(code=1000, reason='done')
    >>> sendable(1006, "")
    Closing(code=1006, reason='')
    """
    if code in EXTERNAL_CLOSE_CODES or 3000 <= code < 5000:
        return Closing(code, reason.encode()[:_LONGEST_REASON].decode(errors="ignore"))
    return Closing(BROKEN_OFF, "")


def subprotocols_of(values: Iterable[bytes]) -> list[str]:
    """Return the subprotocols that Sec-WebSocket-Protocol lines name.

    >>> subprotocols_of([b"chat, superchat", b"mqtt"])
    ['chat', 'superchat', 'mqtt']
    """
    named = b",".join(values).decode("latin-1").split(",")
    return [each for part in named if (each := part.strip())]


_LEAVING: Final = Closing(GOING_AWAY, "")


class BadHandshake(ConnectionError):
    """The backend's answer to a handshake is malformed, or accepts what was not asked for."""


class _Stream(asyncio.StreamReaderProtocol):
    """A stream over a connection that was another protocol's, which is told of the end."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        before: asyncio.BaseProtocol,
        pongs: Pongs,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(reader, loop=loop)
        self._before = before
        self._pongs = pongs

    def pause_writing(self) -> None:
        super().pause_writing()
        self._pongs.pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._pongs.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._before.connection_lost(exc)


class BackendSocket:
    """The side of a WebSocket that leads to a backend; `receive` and `send` in a task each.

    Takes the connection over, which is closed by `abort` and by `close`. `max_size`: bytes of one
    message from the backend. `heard_at`: when the backend sent something, by the loop's clock.
    """

    def __init__(self, connection: Connection, subprotocols: Sequence[str], max_size: int) -> None:
        loop = asyncio.get_running_loop()
        before, transport = connection.protocol, connection.transport
        if before is None or transport is None:
            connection.close()
            raise ConnectionResetError("the connection was lost before it was used")
        self._connection = connection
        self._reader = asyncio.StreamReader(_PIECE, loop)
        self._pongs = Pongs(transport.write)
        stream = _Stream(self._reader, before, self._pongs, loop)
        transport.set_protocol(stream)
        stream.connection_made(transport)
        self._transport = transport
        self._writer = asyncio.StreamWriter(transport, stream, self._reader, loop)
        self._clock = loop.time
        self.heard_at: float = loop.time()
        self._protocol = ClientProtocol(
            _NOWHERE,
            subprotocols=[Subprotocol(each) for each in subprotocols] or None,
            max_size=max_size,
        )
        self._interim = InterimAnswers(_PIECE)
        self._messages: deque[Message] = deque()
        # However small its parts are, a message takes no more memory than it is long.
        self._pieces = bytearray()
        self._is_text = False
        self._responses: list[Response] = []

    @property
    def taken(self) -> Taken:
        """How much the backend has taken."""
        return taken(self._transport)

    @property
    def subprotocol(self) -> str | None:
        """What the backend chose of the subprotocols; None: nothing."""
        return self._protocol.subprotocol

    async def shake_hands(self, target: bytes, host: bytes, lines: bytes) -> Response:
        """Ask for a WebSocket, and return the backend's answer: with 101 there is one.

        `lines` are header lines, each with its CRLF. Raises `BadHandshake`, or what the connection
        raises.
        """
        protocol = self._protocol
        subprotocols = ", ".join(protocol.available_subprotocols or ())
        self._writer.write(
            b"GET %b HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n%b%b\r\n"
            % (
                target,
                host,
                protocol.key.encode(),
                b"Sec-WebSocket-Protocol: %b\r\n" % subprotocols.encode() if subprotocols else b"",
                lines,
            )
        )
        await self._writer.drain()
        while not self._responses:
            if protocol.handshake_exc is not None:
                raise BadHandshake(f"the handshake failed: {protocol.handshake_exc}")
            await self._read()
        response = self._responses[0]
        if response.status_code == _SWITCHING and protocol.state is State.CONNECTING:
            raise BadHandshake(f"the handshake failed: {protocol.handshake_exc}")
        return response

    async def receive(self) -> Message | Closing:
        """Return the next message, or how the backend ended it."""
        while not self._messages:
            closing = self._closing()
            if closing is not None:
                return closing
            await self._read()
        return self._messages.popleft()

    async def send(self, message: Message) -> None:
        """Send a message, as fast as the backend takes it; to one that has ended it, nothing."""
        if self._protocol.state is not State.OPEN:
            return
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        # What it is that broke, `receive` tells.
        with contextlib.suppress(OSError):
            self._flush()
            await self._writer.drain()

    async def close(self, closing: Closing) -> None:
        """End it in this way, and return when the backend has ended it too or took too long.

        A side that broke off is broken off on the other side as well: there is no closing frame.
        """
        if closing.code != BROKEN_OFF:
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    self._send_close(closing)
                    while self._protocol.state is not State.CLOSED:
                        await self._read()
        self.abort()

    def abort(self) -> None:
        """Drop the connection, with what was not sent yet."""
        self._transport.abort()
        self._connection.close()

    def leave(self) -> None:
        """Drop the connection without waiting, but not without a word where one gets through."""
        transport = self._transport
        if transport.get_write_buffer_size():
            transport.abort()
        elif not transport.is_closing():
            self._send_close(_LEAVING)
        self._connection.close()

    def _send_close(self, closing: Closing) -> None:
        if self._protocol.state is State.OPEN:
            if closing.code == NO_CODE:
                self._protocol.send_close()
            else:
                self._protocol.send_close(closing.code, closing.reason)
            self._flush()

    def _closing(self) -> Closing | None:
        protocol = self._protocol
        if isinstance(protocol.parser_exc, PayloadTooBig):
            return Closing(TOO_BIG, "message too big")
        if protocol.parser_exc is not None:
            return Closing(BROKEN_OFF, str(protocol.parser_exc))
        if protocol.close_rcvd is not None:
            return Closing(protocol.close_rcvd.code, protocol.close_rcvd.reason)
        return None

    async def _read(self) -> None:
        try:
            data = await self._reader.read(_PIECE)
        except OSError:
            if self._protocol.state is State.CONNECTING:
                raise
            data = b""
        if data:
            self.heard_at = self._clock()
            self._protocol.receive_data(self._interim.without(data))
        else:
            self._protocol.receive_eof()
        events = self._protocol.events_received()
        self._responses += [event for event in events if isinstance(event, Response)]
        for frame in [event for event in events if isinstance(event, Frame)]:
            self._take(frame)
        # A pong, or the answer to a closing frame.
        self._flush()

    def _take(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if not frame.fin or frame.opcode is Opcode.CONT:
            self._pieces += frame.data
            if not frame.fin:
                return
            whole, self._pieces = bytes(self._pieces), bytearray()
        else:
            whole = bytes(frame.data)
        if not self._is_text:
            self._messages.append(whole)
            return
        try:
            self._messages.append(whole.decode())
        except UnicodeDecodeError as error:
            self._protocol.fail(1007, "not UTF-8")
            self._protocol.parser_exc = error

    def _flush(self) -> None:
        # An empty one stands for the end; closing the connection tells of it, too.
        self._pongs.answer(self._protocol.data_to_send())
