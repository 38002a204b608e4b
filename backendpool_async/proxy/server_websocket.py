"""What uvicorn leaves open of WebSockets."""

from __future__ import annotations

from collections.abc import Sequence

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.http11 import Request

from backendpool_async.proxy.forwarded import Pair


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol for WebSockets, with these differences.

    * A handshake may be as long as any other request, and is always answered.
    """

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
