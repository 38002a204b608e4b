"""What uvicorn leaves open of WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import Frame
from websockets.http11 import Request

from backendpool_async.proxy.forwarded import Pair
from backendpool_async.proxy.websocket_pongs import Pongs


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol for WebSockets, with these differences.

    * A handshake may be as long as any other request, and is always answered.
    * For a client that takes nothing, no more than the latest pong is kept.
    * However small its parts are, a message takes no more memory than it is long.
    """

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

    def handle_cont(self, event: Frame) -> None:
        """Take a part of a message that is not its first."""
        self._pieces += event.data
        if event.fin:
            self.frames += [bytes(self._pieces)]
            self._pieces.clear()
            self.send_receive_event_to_app()
