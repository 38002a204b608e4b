"""One request, passed to a backend, and its answer, passed back."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

import aiohttp
from aiohttp import StreamReader
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage

from backendpool_async.aiohttp.backend_protocol import BackendProtocol
from backendpool_async.balance.balancer import Balancer
from backendpool_async.balance.lease import Lease
from backendpool_async.errors import NoBackends
from backendpool_async.proxy.complaints import Complaints
from backendpool_async.proxy.framing import ABSENT, CHUNKED
from backendpool_async.proxy.headers import AnswerHead, HeaderRules, RequestHead
from backendpool_async.proxy.own_answer import answer
from backendpool_async.proxy.patrol import Patrol, Why
from backendpool_async.proxy.refusal import BrokenOff, Refusal
from backendpool_async.proxy.request import ProxyRequest, forwarded_once, request_line
from backendpool_async.proxy.settings import ProxySettings
from backendpool_async.proxy.unanswered import closing, nobody_to_ask, unanswered
from backendpool_async.proxy.upload import ClientLeft, Message, Receive, Send, Upload
from backendpool_async.proxy.upstream import Upstream
from backendpool_async.retries import IDEMPOTENT_METHODS, Attempts

_READ_AHEAD: Final = 65_536
_MOST_INTERIM: Final = 32
_HIGHEST_STATUS: Final = 599
_SWITCHING_PROTOCOLS: Final = 101
# No server loses patience with a client sooner; of a short time for being idle, half.
_SLOW_SECONDS: Final = 1.0
_IDEMPOTENT: Final = frozenset(method.encode() for method in IDEMPOTENT_METHODS)
_BACKEND_ERRORS: Final = (
    aiohttp.ClientError,
    aiohttp.EofStream,
    HttpProcessingError,
    OSError,
    # What a reader says whose connection is gone.
    RuntimeError,
)


class _Asked(NamedTuple):
    """An answer whose head has come, and over what."""

    connection: Connection
    protocol: BackendProtocol
    message: RawResponseMessage
    payload: StreamReader


class Exchange:
    """Passes one request on and its answer back.

    The lease lasts until the answer has passed. Whoever is waited for when something breaks, or
    takes too long, is to blame: a backend only for what it owes itself.
    """

    __slots__ = (
        "_balancer",
        "_begun",
        "_complaints",
        "_connection",
        "_lease",
        "_patrol",
        "_receive",
        "_request",
        "_rules",
        "_send",
        "_settings",
        "_upload",
        "_upstream",
        "_waits_for_backend",
    )

    def __init__(
        self,
        balancer: Balancer,
        settings: ProxySettings,
        rules: HeaderRules,
        upstream: Upstream,
        complaints: Complaints,
    ) -> None:
        self._balancer = balancer
        self._settings = settings
        self._rules = rules
        self._upstream = upstream
        self._complaints = complaints
        self._begun = False
        self._waits_for_backend = True
        self._lease: Lease | None = None
        self._connection: Connection | None = None
        self._upload: Upload | None = None

    async def run(
        self,
        request: ProxyRequest,
        receive: Receive,
        send: Send,
        to_client: asyncio.Transport | None,
    ) -> None:
        """Do it, once; `receive` and `send` as of an ASGI app.

        `to_client` is the client's connection, to look at; None: it is not to be seen.

        Raises `BrokenOff` when an answer that has begun does not come to its end.
        """
        self._request, self._receive, self._send = request, receive, send
        patrol = self._patrol = Patrol(self._settings.limits, receive, to_client)
        try:
            async with patrol.limit:
                try:
                    await self._pass_on()
                finally:
                    await patrol.stop()
        except TimeoutError:
            await self._answer_ended(patrol)
        except Refusal as refusal:
            self._let_go()
            await self._answer(refusal)
        except ClientLeft:
            self._let_go(asyncio.CancelledError())
        except BaseException as error:
            self._let_go(error)
            raise
        else:
            self._let_go()

    async def _pass_on(self) -> None:
        settings = self._settings
        request = self._request
        if request.method == b"OPTIONS":
            request = self._request = forwarded_once(request)
        line = request_line(request.method, request.target)
        head = self._rules.request(request.headers, request.client, request.scheme, request.version)
        length = head.length
        if length == ABSENT and request.version[0] != "1":
            length = await self._look_for_body()
        most = settings.limits.body_size
        if most is not None and length > most:
            raise Refusal(413, "the body is too long")
        if length > 0 or length == CHUNKED:
            self._patrol.leave_messages(to_others=True)
            self._upload = Upload(
                self._receive,
                length,
                most,
                self._patrol.moved,
                expects_continue=head.expects_continue,
            )
        key = None if settings.key is None else settings.key(request)
        attempts = Attempts(
            self._balancer,
            settings.retries,
            key,
            can_repeat=self._upload is None and request.method in _IDEMPOTENT,
        )
        lease, asked = await self._first_answer(attempts, line, head, length)
        await self._pass_back(lease, asked)

    async def _look_for_body(self) -> int:
        """Return whether there is one: in HTTP/2 a request need not say so."""
        self._waits_for_backend = False
        self._patrol.leave_messages(to_others=True)
        message = await self._receive()
        self._patrol.leave_messages(to_others=False)
        self._waits_for_backend = True
        if message["type"] == "http.disconnect":
            raise ClientLeft
        if not message.get("body") and not message.get("more_body"):
            return ABSENT
        self._receive = _once_more(message, self._receive)
        return CHUNKED

    async def _first_answer(
        self, attempts: Attempts, line: bytes, head: RequestHead, length: int
    ) -> tuple[Lease, _Asked]:
        """Ask one backend, or several after each other until one answers."""
        settings = self._settings
        try:
            lease = attempts.first()
        except NoBackends as error:
            self._complaints.complain("no backend", "nobody to ask", error)
            raise nobody_to_ask(settings.retry_after) from error
        while True:
            self._lease = lease
            try:
                asked = await self._ask(lease, line, head, length)
            except _BACKEND_ERRORS as error:
                if self._upstream.is_closed:
                    self._let_go(asyncio.CancelledError())
                    raise closing(settings.retry_after) from error
                if isinstance(error, aiohttp.ServerDisconnectedError) and self._client_is_slow():
                    # It may have lost patience: a client that is slow must not have it blamed.
                    self._let_go(asyncio.CancelledError())
                    self._complaints.complain(lease.backend, "it left within a body", error)
                    raise Refusal(408, "the rest of the body did not come in time") from error
                self._let_go(error)
                another = attempts.after_error(error)
                if another is None:
                    self._complaints.complain(lease.backend, "it did not answer", error)
                    raise unanswered(error, settings.retry_after) from error
            else:
                status = asked.message.code
                if status in settings.failure_statuses:
                    lease.failed(f"{status}")
                another = attempts.after_status(status)
                if another is None:
                    return lease, asked
                self._let_go()
            lease = another

    def _client_is_slow(self) -> bool:
        since = None if self._upload is None else self._upload.waiting_since
        if since is None:
            return False
        slow = min(_SLOW_SECONDS, self._settings.limits.idle_timeout / 2)
        return asyncio.get_running_loop().time() - since >= slow

    async def _ask(self, lease: Lease, line: bytes, head: RequestHead, length: int) -> _Asked:
        connection, protocol = await self._upstream.connect(lease.backend)
        self._connection = connection
        self._patrol.to_backend = protocol.transport
        size = self._settings.limits.header_size
        protocol.longest_head = 2 * size
        protocol.set_response_params(
            skip_payload=self._request.method == b"HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=_READ_AHEAD,
            max_line_size=size,
            max_field_size=size,
            # Each is one line of some bytes at least, so that the sum is what counts.
            max_headers=size,
        )
        name = self._settings.host_header
        if name is None:
            name = head.host
        host = name or lease.backend.encode()
        upload = self._upload
        if upload is None:
            framing = b"" if length == ABSENT else b"content-length: 0\r\n"
        elif length == CHUNKED:
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing = b"content-length: %d\r\n" % length
        if upload is not None:
            if not upload.is_wanted:
                framing += b"expect: 100-continue\r\n"
            sending = asyncio.get_running_loop().create_task(upload.run(protocol))
            self._patrol.begin_upload(upload, sending)
        lines = b"%bhost: %b\r\n%b%b\r\n" % (line, host, head.lines, framing)
        protocol.transport.write(lines)  # type: ignore[union-attr]  # it was connected a moment ago
        message, payload = await self._read_head(protocol)
        return _Asked(connection, protocol, message, payload)

    async def _read_head(
        self, protocol: BackendProtocol
    ) -> tuple[RawResponseMessage, StreamReader]:
        for _ in range(_MOST_INTERIM):
            message, payload = await protocol.read()
            if message.code >= 200:
                return message, payload
            if message.code == _SWITCHING_PROTOCOLS:
                break
            if message.code == 100 and self._upload is not None:
                self._upload.go_on()
        raise aiohttp.ClientPayloadError("interim answers without end, or a switch unasked for")

    async def _pass_back(self, lease: Lease, asked: _Asked) -> None:
        message, upload = asked.message, self._upload
        try:
            head = self._rules.answer(message.code, message.raw_headers, _version_of(message))
            if message.code > _HIGHEST_STATUS:
                raise Refusal(502, "the backend's answer is malformed")
        except Refusal as refusal:
            lease.failed(refusal.text)
            self._complaints.complain(lease.backend, refusal.text, refusal.__cause__)
            raise
        if upload is not None and not upload.is_asked_for:
            # The client may send its body or not: where its next request begins is not known.
            self._patrol.stop_upload()
            if self._request.version[0] == "1":
                head.pairs.append((b"connection", b"close"))
        if not asked.payload.is_eof():
            lease.answered()
        self._begun = True
        start = {
            "type": "http.response.start",
            "status": message.code,
            "headers": head.pairs,
        }
        await self._to_client(start)
        try:
            await self._copy(asked, head)
        except _BACKEND_ERRORS as error:
            if not self._waits_for_backend:
                raise
            if self._upstream.is_closed:
                self._let_go(asyncio.CancelledError())
                raise BrokenOff("the proxy is closing") from None
            self._complaints.complain(lease.backend, "it broke off in its answer", error)
            self._let_go(error)
            raise BrokenOff("the backend broke off in its answer") from None

    async def _copy(self, asked: _Asked, head: AnswerHead) -> None:
        payload = asked.payload
        while True:
            self._waits_for_backend = True
            piece = await payload.readany()
            is_last = payload.at_eof()
            if is_last:
                self._end_connection(asked, head)
            self._waits_for_backend = False
            self._patrol.moved()
            body = {"type": "http.response.body", "body": piece, "more_body": not is_last}
            await self._to_client(body)
            if is_last:
                return
            self._patrol.moved()

    async def _to_client(self, message: Message) -> None:
        self._waits_for_backend = False
        try:
            await self._send(message)
        except OSError as error:
            raise ClientLeft from error

    def _end_connection(self, asked: _Asked, head: AnswerHead) -> None:
        if head.length == ABSENT:
            # Its end is that of the connection, which a reset is not.
            error = asked.protocol.exception()
            if isinstance(error, OSError):
                raise error
            if self._upstream.is_closed:
                raise ConnectionAbortedError
        self._connection = None
        if self._upload is None or self._upload.is_done:
            asked.connection.release()
        else:
            _drop(asked.connection)

    def _let_go(self, error: BaseException | None = None) -> None:
        if self._connection is not None:
            _drop(self._connection)
            self._connection = None
        if self._lease is not None:
            self._lease.release(error)
            self._lease = None

    async def _answer_ended(self, patrol: Patrol) -> None:
        if patrol.why is Why.CLIENT_LEFT:
            self._let_go(asyncio.CancelledError())
            return
        if patrol.refusal is not None:
            self._let_go(asyncio.CancelledError())
            await self._answer(patrol.refusal)
            return
        why, lease = patrol.why.value, self._lease
        upload = self._upload
        if not self._waits_for_backend or (upload is not None and upload.waiting_since is not None):
            self._let_go(asyncio.CancelledError())
            await self._answer(Refusal(408, why))
            return
        self._complaints.complain("nobody" if lease is None else lease.backend, why, None)
        self._let_go(TimeoutError(why))
        await self._answer(Refusal(504, why))

    async def _answer(self, refusal: Refusal) -> None:
        if self._begun:
            raise BrokenOff(refusal.text) from None
        await answer(refusal, self._request, self._send, upload=self._upload)


def _drop(connection: Connection) -> None:
    transport = connection.transport
    # When it is closed, it lasts until the backend has taken what waits: with some, for ever.
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()
    connection.close()


def _version_of(message: RawResponseMessage) -> str:
    return "1.1" if message.version >= (1, 1) else "1.0"


def _once_more(message: Message, receive: Receive) -> Receive:
    """Return a `receive` that begins with a message which came already."""
    first = [message]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again
