"""What uvicorn leaves open of HTTP/1: limits for a head that is not whole yet, and upgrades."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from backendpool_async.proxy.forwarded import Pair
from backendpool_async.proxy.request import ProxyRequest, with_own_target
from backendpool_async.proxy.server_transport import EndingTransport
from backendpool_async.proxy.server_websocket import BoundedWebSocket
from backendpool_async.proxy.settings import ProxyLimits

if TYPE_CHECKING:
    from uvicorn._types import (
        ASGI3Application,
        ASGIReceiveCallable,
        ASGISendCallable,
        ASGISendEvent,
        Scope,
    )

# Of a whole head the proxy counts the lines, and exactly. This is for one that does not end, and
# for one whose first line is long as well.
_LONGEST_HEAD: Final = 2 * ProxyLimits().header_size
_HEAD_TIMEOUT: Final = 30.0


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with these differences.

    * A head has to be whole in 30 seconds: the connection is closed otherwise. One that gets
      longer than 128 KiB is answered with 431. So are trailers, which are dropped.
    * What a target says of the host counts, and not Host (RFC 9112, section 3.2.2).
    * An upgrade is ignored (RFC 9110, section 7.8) if it is to anything but a WebSocket, or its
      request is no handshake: another method than GET, HTTP/1.0, a body, or sent while another
      request is answered. What is one goes to `BoundedWebSocket`, whatever `ws` says.
    * After an answer to a client that was to be told to go on with its body, and was not, the
      connection is closed: where its next request begins is not known.
    * A malformed request is answered with 400 only where no other answer has begun.
    * A request that is being answered sees that the client has left, also when others wait.
    * A connection that is closed ends, even if the client does not read: see `EndingTransport`.
    """

    _head_timer: asyncio.TimerHandle | None = None
    # How many bytes came since a head, a part of a body or a request was whole.
    _held = 0
    _advanced = False
    _in_head = False
    _ignores_upgrade = False
    # `cycle` is the newest request, which may wait for the answer to this one.
    _answered: RequestResponseCycle | None = None

    def connection_made(  # type: ignore[override]  # as uvicorn's
        self, transport: asyncio.Transport
    ) -> None:
        """Give the client its time for a first head."""
        super().connection_made(cast(asyncio.Transport, EndingTransport(transport)))
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for no head any more, and tell the request that is being answered."""
        self._stop_head_timer()
        super().connection_lost(exc)
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and count what does not lead on."""
        self._unset_keepalive_if_required()
        self._advanced = False
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if self not in self.connections:
            # It is a WebSocket's.
            return
        self._held = 0 if self._advanced else self._held + len(data)
        if self._held > _LONGEST_HEAD:
            self._refuse(431, "The header lines are too long.")
        elif self._head_timer is None and self._waits_for_head():
            self._start_head_timer()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is malformed."""
        self._refuse(400, msg)

    def on_message_begin(self) -> None:
        """Forget the request before this one."""
        self._in_head = True
        self._ignores_upgrade = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line of the head; one of the trailers is none (RFC 9110, section 6.5.1)."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, or see that it is to be read once more, without an upgrade."""
        self._in_head = False
        self._advanced = True
        self._stop_head_timer()
        # To the parser, what follows CONNECT is no HTTP in any case.
        if self.parser.get_method() != b"CONNECT":
            if self.parser.should_upgrade():
                self._ignores_upgrade = not self._should_upgrade()
            if self.url[:1] != b"/" and not self._split_target():
                self._refuse(400, "The target is malformed.")
                return
        if not self._ignores_upgrade:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless it is to be read once more."""
        self._advanced = True
        if not self._ignores_upgrade:
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Give the connection to the protocol for WebSockets."""
        self.connections.discard(self)
        protocol = BoundedWebSocket(self.config, self.server_state, self.app_state)
        protocol.connection_made(self.transport)
        # The parser takes no other bytes than ASCII in it.
        protocol.shake_hands(self.url.decode("ascii"), self.headers)
        self.transport.set_protocol(protocol)

    def _split_target(self) -> bool:
        """Take the Host from a target that has one, which uvicorn drops; False: it is malformed."""
        version, method = self.parser.get_http_version(), self.parser.get_method()
        whole = ProxyRequest(method, self.url, self.headers, None, "http", version)
        path = with_own_target(whole)
        self.url: bytes = path.target
        # The scope has the list already.
        self.headers[:] = path.headers
        return path is not whole or self.url == b"*"

    def _should_upgrade(self) -> bool:
        return (
            super()._should_upgrade()
            and self.parser.get_method() == b"GET"
            and self.parser.get_http_version() == "1.1"
            and not any(_tells_of_a_body(pair) for pair in self.headers)
            and self._waits_for_head()
        )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        if cycle.waiting_for_100_continue:
            app = _closing_where_a_body_is_owed(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._ignores_upgrade:
                    # CONNECT is refused by the proxy, and what came after it is not looked at.
                    if self._should_upgrade():
                        self.handle_websocket_upgrade()
                    return
                rest = rest[upgrade.args[0] :]
                self._read_without_upgrade()
            else:
                return

    def _read_without_upgrade(self) -> None:
        # The parser has taken the request to be without a body, and cannot be told otherwise.
        version = self.parser.get_http_version().encode()
        head = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        head += [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
        self.parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)
        # As uvicorn has it: what comes after a last request is no error in that request.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"".join([*head, b"\r\n"]))

    def _refuse(self, status: int, text: str) -> None:
        answered = self._answered
        if answered is not None and answered.response_started and not answered.response_complete:
            self.transport.abort()
            return
        body = text.encode()
        self.transport.write(
            STATUS_LINE[status] + b"content-type: text/plain; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()

    def _waits_for_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_TIMEOUT, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        self._head_timer = None
        self.transport.close()


def _closing_where_a_body_is_owed(
    app: ASGI3Application, cycle: RequestResponseCycle
) -> ASGI3Application:
    async def closing(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def sending(message: ASGISendEvent) -> None:
            if cycle.waiting_for_100_continue and cycle.more_body:
                cycle.keep_alive = False
            await send(message)

        await app(scope, receive, sending)

    return closing


def _tells_of_a_body(header: Pair) -> bool:
    # Some clients say that the length is 0.
    return header[0] == b"transfer-encoding" or (
        header[0] == b"content-length" and header[1] != b"0"
    )
