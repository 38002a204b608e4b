"""One request on its way to one backend, and the body that comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from backendpool_async.backend import Backend
from backendpool_async.balance.lease import Lease
from backendpool_async.httpx.connection import Connection, Kind, OpeningTrace, Place
from backendpool_async.httpx.connections import TLS_SCHEMES, Connections
from backendpool_async.httpx.flavour import AsyncByteStream, Flavour

if TYPE_CHECKING:
    import httpcore
    import httpx

_SCHEMES: Final = TLS_SCHEMES | {b"http", b"ws"}
# How much of an HTTP/2 answer is read, in bytes and seconds, so that its connection can be kept.
_DRAINED: Final = 65_536
_DRAINING: Final = 0.05


class OutgoingRequest:
    """A request as its library has it, and as the network library is to have it, once a try.

    It is sent with a slot for a connection (`has_slot`), or on a connection that it `joined`.
    """

    __slots__ = (
        "body",
        "extensions",
        "flavour",
        "has_slot",
        "is_replayable",
        "joined",
        "kind",
        "request",
        "timeouts",
    )

    def __init__(self, request: httpx.Request, flavour: Flavour) -> None:
        self.request: httpx.Request = request
        self.flavour: Flavour = flavour
        url, extensions = request.url, request.extensions
        scheme = url.raw_scheme
        if scheme not in _SCHEMES:
            raise flavour.unsupported_protocol(f"{url.scheme!r} is neither 'http' nor 'https'")
        server_name: str | None = None
        if scheme in TLS_SCHEMES:
            server_name = extensions.get("sni_hostname") or url.raw_host.decode("ascii")
            extensions = {**extensions, "sni_hostname": server_name}
        self.kind: Kind = Kind(flavour, scheme, server_name)
        self.extensions: dict[str, Any] = extensions  # as the library types them
        self.timeouts: Mapping[str, float | None] = extensions.get("timeout", {})
        self.is_replayable: bool = isinstance(request.stream, flavour.byte_stream)
        self.body: Any = request.stream if self.is_replayable else OnceBody(request.stream)
        self.has_slot: bool = False
        self.joined: Connection | None = None

    def can_be_sent(self) -> bool:
        """Whether the whole body is still there."""
        return self.is_replayable or not self.body.begun

    def is_taken_over_by(self, status: int) -> bool:
        """Whether with this answer the connection is for something else than HTTP, for any time."""
        # RFC 9110, sections 15.2.2 and 9.3.6.
        return status == 101 or (self.request.method == "CONNECT" and 200 <= status < 300)

    def hold_for(
        self, backend: Backend, connections: Connections, used: Connection | None = None
    ) -> bool:
        """Hold what another try needs, if that is to have without waiting; return whether it is.

        `used`: the one that it will have done with by then.
        """
        self.has_slot = (
            self.has_slot
            or connections.take_slot_now()
            or (used is not None and connections.cede(used))
        )
        if not self.has_slot:
            self.joined = connections.join(Place(self.kind, backend))
        return self.has_slot or self.joined is not None

    def give_up(self, connections: Connections) -> None:
        """Give back what it held and was not sent with."""
        joined, self.joined = self.joined, None
        if joined is not None:
            connections.release(joined, complete=True)
        if self.has_slot:
            self.has_slot = False
            connections.give_slot()

    async def send(
        self, connections: Connections, backend: Backend, generation: int
    ) -> tuple[httpcore.Response, Connection]:
        """Send it to the backend, and return the answer's head.

        Raises what the network library raises; then the connection is given back already, and its
        slot is kept for another try if no other request uses it.
        """
        flavour, place = self.flavour, Place(self.kind, backend)
        while True:
            connection = await self._connection_to(place, connections, generation)
            try:
                return await connection.http.handle_async_request(
                    self._built_for(connection)
                ), connection
            except flavour.connection_not_available as error:
                self._part_with(connection, connections)
                if not self.can_be_sent():
                    raise flavour.stream_broken(
                        "the connection was closed by the server"
                    ) from error
            except flavour.stream_broken as error:
                self._part_with(connection, connections)
                if nothing_was_processed(error) and self.can_be_sent():
                    raise flavour.connect_error(
                        "the connection was closed by the server before any request"
                    ) from error
                raise
            except BaseException as error:
                if isinstance(error, (flavour.connect_error, flavour.connect_timeout)):
                    connection.stack.failed_to_open(connection, error)
                self._part_with(connection, connections)
                raise

    async def _connection_to(
        self, place: Place, connections: Connections, generation: int
    ) -> Connection:
        held = self.has_slot or self.joined is not None
        if not held and not self.hold_for(place.backend, connections):
            # The connection ended before this was sent, but others still use it.
            self.joined = await connections.take_slot(
                place, self.timeouts.get("pool"), lambda: connections.join(place)
            )
            self.has_slot = self.joined is None
        connection, self.joined = self.joined, None
        if connection is None:
            connection = await connections.acquire(place, generation, self.timeouts)
            self.has_slot = False
        return connection

    def _part_with(self, connection: Connection, connections: Connections) -> None:
        self.has_slot = connections.cede(connection)
        connections.release(connection, complete=False)

    def _built_for(self, connection: Connection) -> httpcore.Request:
        request, extensions, stack = self.request, self.extensions, connection.stack
        if stack.opening is connection:
            trace = OpeningTrace(connection, extensions.get("trace"))
            extensions = {**extensions, "trace": trace}
        return self.flavour.outgoing(
            request.method,
            stack.url(request.url.raw_path),
            headers=request.headers.raw,
            content=self.body,
            extensions=extensions,
        )


def nothing_was_processed(error: BaseException) -> bool:
    """Return whether the server said in its GOAWAY that it has processed no stream at all.

    RFC 9113, section 6.8: then every request may be sent again. Of a later last stream the network
    libraries raise another error themselves.
    """
    said = error.args[0] if error.args else None
    return getattr(said, "last_stream_id", None) == 0


class BodyError(Exception):
    """Carries what the caller's own body raised past those who would take it for the network's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class OnceBody(AsyncByteStream):
    """A body that can be sent only once; says whether that has begun."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream  # an asynchronous stream of either library
        self.begun: bool = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        try:
            async for chunk in self._stream:
                yield chunk
        except Exception as error:
            raise BodyError(error) from error


class ResponseBody(AsyncByteStream):
    """The body of an answer; the lease of its backend ends with it, and its connection is kept."""

    def __init__(
        self,
        stream: Any,
        outgoing: OutgoingRequest,
        connections: Connections,
        connection: Connection,
        lease: Lease,
    ) -> None:
        self._stream = stream  # of the network library, which does not type its aclose()
        self._outgoing = outgoing
        self._connections = connections
        self._connection = connection
        self._lease: Lease | None = lease
        self._complete = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except GeneratorExit:
            # Nobody reads on: `aclose` comes next.
            raise
        except BaseException as error:
            told = self._outgoing.flavour.translated(error, self._outgoing.request)
            self._end(told)
            if told is error:
                raise
            raise told from error
        self._complete = True

    async def aclose(self) -> None:
        """Give back the connection and end the lease, unless reading did so already."""
        if self._lease is None:
            return
        try:
            if self._connection.stack.multiplexes and not self._complete:
                await self._drain()
            await self._stream.aclose()
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    async def _drain(self) -> None:
        # A stream cannot be reset, and one that was left costs the connection that others share.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_DRAINING), contextlib.aclosing(aiter(self._stream)) as rest:
                left = _DRAINED
                async for chunk in rest:
                    left -= len(chunk)
                    if left < 0:
                        return
                self._complete = True

    def _end(self, error: BaseException | None) -> None:
        lease, self._lease = self._lease, None
        # A second closing may come while the first is under way.
        if lease is not None:
            self._connections.release(self._connection, complete=self._complete)
            lease.release(self._connections.fault(error))
