"""What uvicorn leaves open of WebSockets."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import Frame
from websockets.http11 import Request

from backendpool_async.proxy.forwarded import Pair
from backendpool_async.proxy.taking import Taken, taken
from backendpool_async.proxy.websocket_asgi import TRAFFIC
from backendpool_async.proxy.websocket_pongs import Pongs

# Of a client: two bytes, which say a length of up to 125 as well, and a mask.
_EMPTY_PONG: Final = 6
# Of a server, without a mask.
_EMPTY_PING: Final = 2


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol for WebSockets, with these differences.

    * A handshake may be as long as any other request, and is always answered.
    * For a client that takes nothing, no more than the latest pong is kept.
    * However small its parts are, a message takes no more memory than it is long.
    * A client that does not answer a ping is given up, but not while it sends or takes something
      else, nor while it is not listened to, because the application takes nothing.
    * An application sees what moves, by the extension `TRAFFIC`. The answer to a ping of this
      server is nothing.
    """

    heard_at: float = -math.inf
    _looked_at = 0.0
    _held_then = 0
    _acknowledged = 0
    _pings_size = 0
    _pongs_size = 0

    @property
    def taken(self) -> Taken:
        """How much the client has taken, but for the pings of this server."""
        acknowledged, held = taken(self.transport)
        # A ping that is on its way is no step back, or its arrival would be one forward.
        self._acknowledged = max(self._acknowledged, acknowledged - self._pings_size)
        return Taken(self._acknowledged, held)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        super().connection_made(transport)
        self._pongs = Pongs(self.transport.write)
        self._pieces = bytearray()

    def shake_hands(self, target: str, headers: Sequence[Pair]) -> None:
        """Take a handshake that another protocol has read: a GET in HTTP/1.1, without a body."""
        # The library reads heads within limits of its own, and says nothing of those beyond.
        self.conn.receive_data(b"GET / HTTP/1.1\r\n\r\n")
        self.conn.events_received()
        # To the library, a header line of other bytes than ASCII is of no use.
        named = [
            (name.decode("ascii"), value.decode("ascii", "backslashreplace"))
            for name, value in headers
        ]
        self.handle_connect(Request(target, Headers(named)))
        if not self.transport.is_closing():
            self.scope["headers"] = headers
            self.scope["extensions"][TRAFFIC] = self  # type: ignore[assignment]  # uvicorn's have no content

    def data_received(self, data: bytes) -> None:
        """Take what came, and the time of it."""
        self._pongs_size = 0
        super().data_received(data)
        if len(data) > self._pongs_size:
            self.heard_at = self.loop.time()

    def pause_writing(self) -> None:
        """Keep pongs back, too."""
        super().pause_writing()
        self._pongs.pause_writing()

    def resume_writing(self) -> None:
        """Let the latest pong go, too."""
        super().resume_writing()
        self._pongs.resume_writing()

    def handle_ping(self) -> None:
        """Send a pong, or keep it until there is room."""
        self._pongs.answer(self.conn.data_to_send())

    def handle_pong(self, event: Frame) -> None:
        """See that the client is there."""
        self._pongs_size += _EMPTY_PONG + len(event.data)
        super().handle_pong(event)

    def send_keepalive_ping(self) -> None:
        """Ask whether the client is there, and note how things stand."""
        super().send_keepalive_ping()
        self._pings_size += _EMPTY_PING + len(self.pending_ping_payload or b"")
        self._look()

    def keepalive_timeout(self) -> None:
        """Give the client up, unless it may be there."""
        # Not by what its kernel acknowledges: that goes on when the client does not.
        may_be_there = (
            self.read_paused
            or self.heard_at > self._looked_at
            or self.taken.held != self._held_then
        )
        if may_be_there:
            self._look()
            self.pong_timer: asyncio.TimerHandle | None = self.loop.call_later(
                self.ping_timeout,  # type: ignore[arg-type]  # without one there is no timer
                self.keepalive_timeout,
            )
        else:
            super().keepalive_timeout()

    def _look(self) -> None:
        self._looked_at, self._held_then = self.loop.time(), self.taken.held

    def handle_cont(self, event: Frame) -> None:
        """Take a part of a message that is not its first."""
        self._pieces += event.data
        if event.fin:
            self.frames.append(bytes(self._pieces))
            self._pieces.clear()
            self.send_receive_event_to_app()
