"""One connection to a backend, and the place where it belongs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from backendpool_async.backend import Backend
from backendpool_async.httpx.dialer import Dialer
from backendpool_async.httpx.flavour import Flavour
from backendpool_async.httpx.leftovers import has_leftovers
from backendpool_async.httpx.slots import Slots

if TYPE_CHECKING:
    import httpcore

# What the network libraries announce as their own limit.
_MAX_STREAMS: Final = 100


class Kind(NamedTuple):
    """What a request asks of a connection, whatever backend that leads to.

    `server_name` is what the server's certificate is verified for, None without TLS.
    """

    flavour: Flavour
    scheme: bytes
    server_name: str | None


class Place(NamedTuple):
    """Where a connection leads: those of the same place may serve for one another."""

    kind: Kind
    backend: Backend


class Connection:
    """One connection, with how many requests are using it."""

    __slots__ = (
        "dialer",
        "has_slot",
        "http",
        "idle_until",
        "is_retired",
        "opened",
        "retire_at",
        "stack",
        "streams",
    )

    def __init__(
        self, stack: Stack, http: httpcore.AsyncHTTPConnection, dialer: Dialer, retire_at: float
    ) -> None:
        self.stack: Stack = stack
        self.http: httpcore.AsyncHTTPConnection = http
        self.dialer: Dialer = dialer
        self.retire_at: float = retire_at
        self.idle_until: float = 0.0
        self.streams: int = 1
        self.has_slot: bool = True
        self.is_retired: bool = False
        self.opened: asyncio.Future[Exception | None] | None = None
        """While others wait to learn whether they may share it: resolved when it is open."""

    def is_idle(self) -> bool:
        """Whether it is open and could take a request now."""
        # One that never came about calls itself idle, too.
        return not self.is_retired and self.http.is_idle() and not self.http.is_closed()

    def is_usable(self, now: float) -> bool:
        """Whether an idle one may be used: young enough, not closed, and nothing left on it."""
        multiplexes = self.stack.multiplexes
        return (
            now < self.idle_until
            and self.dialer.may_be_used(multiplexed=multiplexes)
            and (multiplexes or not has_leftovers(self.http))
        )

    def tell_opened(self, error: Exception | None) -> None:
        """Let those who wait for it go on."""
        opened = self.opened
        if opened is not None and not opened.done():
            opened.set_result(error)

    async def aclose(self) -> None:
        """Close it, whatever state it is in."""
        try:
            await self.http.aclose()
        finally:
            await self.dialer.aclose()


class Stack:
    """The connections of one place; of the idle ones the one used last is on top.

    `multiplexes`: whether requests share a connection, as far as that is known: True until a
    connection that might speak HTTP/2 turns out not to. `generation`: the one of the list in which
    the backend was seen last.
    """

    __slots__ = (
        "connections",
        "generation",
        "idle",
        "multiplexes",
        "opening",
        "place",
        "shared",
        "slots",
    )

    def __init__(self, place: Place, generation: int, slots: Slots, *, multiplexes: bool) -> None:
        self.place: Place = place
        self.slots: Slots = slots
        self.generation: int = generation
        self.multiplexes: bool = multiplexes
        self.connections: set[Connection] = set()
        self.idle: list[Connection] = []
        self.shared: list[Connection] = []
        self.opening: Connection | None = None

    def joinable(self, now: float) -> Connection | None:
        """Return a connection that takes one request more beside those it has."""
        for connection in self.shared:
            if (
                connection.streams < _MAX_STREAMS
                and now < connection.retire_at
                and connection.http.is_available()
            ):
                return connection
        return None

    def opened(self, connection: Connection, *, multiplexes: bool) -> None:
        """Take note of what protocol a connection turned out to speak."""
        if self.opening is connection:
            self.opening = None
            self.multiplexes = multiplexes
            if multiplexes:
                self.share(connection)
            connection.tell_opened(None)

    def share(self, connection: Connection) -> None:
        """Let others join the one request that it has."""
        self.shared.append(connection)
        self.tell_of_room()

    def tell_of_room(self) -> None:
        """Let those in line look whether they can join one of its connections."""
        # Who waits for this place can go to no other, and was in line before.
        self.slots.wake(self.place, self.place.kind)

    def failed_to_open(self, connection: Connection, error: Exception | None) -> None:
        """Tell those who wait for a connection that it did not open; None: they may try."""
        if self.opening is connection:
            self.opening = None
            connection.tell_opened(error)

    def url(self, target: bytes) -> httpcore.URL:
        """Return where a request goes in fact."""
        (flavour, scheme, _), backend = self.place
        return flavour.url(
            scheme=scheme, host=backend.host.encode(), port=backend.port, target=target
        )


class OpeningTrace:
    """Tells from a request's trace when its connection is open, and what it speaks.

    Both network libraries name the events of a request after its protocol.
    """

    __slots__ = ("_connection", "_trace")

    def __init__(self, connection: Connection, trace: Any) -> None:
        self._connection = connection
        self._trace = trace  # the user's own, or None

    async def __call__(self, name: str, info: dict[str, Any]) -> None:
        # What is cancelled before its first stream leaves an HTTP/2 connection that has no use.
        is_shared = name == "http2.send_request_headers.started"
        if is_shared or name.startswith("http11."):
            self._connection.stack.opened(self._connection, multiplexes=is_shared)
        if self._trace is not None:
            await self._trace(name, info)
