"""The body of one request, on its way to a backend."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter

from backendpool_async.proxy.framing import CHUNKED
from backendpool_async.proxy.refusal import Refusal

# After so long without an answer to "may I go on?", a body is sent unasked (RFC 9110, 10.1.1).
_CONTINUE_SECONDS: Final = 1.0

Message = MutableMapping[str, Any]  # what is in it depends on its type
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientLeft(Exception):
    """The client closed its connection before it had its answer."""


class Upload:
    """Passes a body on piece by piece: the next is asked for when this one is on its way.

    `is_asked_for`: the client was told, or need not be told, to send it. `is_done`: all of it was
    sent. Of the loop's time, each None while that is not so: `waiting_since`: since when the next
    piece is the client's to send; `blocked_since`: since when the backend is to take one.
    """

    __slots__ = (
        "_ahead",
        "_go_on",
        "_left",
        "_most",
        "_moved",
        "_receive",
        "blocked_since",
        "is_asked_for",
        "is_done",
        "waiting_since",
    )

    def __init__(
        self,
        receive: Receive,
        length: int,
        most: int | None,
        moved: Callable[[], None],
        *,
        expects_continue: bool,
    ) -> None:
        self._receive = receive
        self._left = None if length == CHUNKED else length
        self._most = most
        self._moved = moved
        self._go_on = asyncio.Event() if expects_continue else None
        self._ahead: asyncio.Task[Message] | None = None
        self.blocked_since: float | None = None
        self.is_asked_for: bool = not expects_continue
        self.is_done: bool = False
        self.waiting_since: float | None = None

    def go_on(self) -> None:
        """The backend said 100: it wants the body."""
        if self._go_on is not None:
            self._go_on.set()

    @property
    def is_wanted(self) -> bool:
        """Whether the backend was heard to want it, or need not be asked."""
        return self._go_on is None or self._go_on.is_set()

    def look_ahead(self) -> asyncio.Task[Message] | None:
        """Ask for the client's next message before there is room for it: it may have left.

        Return the task of it, for the caller to end; None when that was done already.
        """
        if self._ahead is not None:
            return None
        self._ahead = asyncio.get_running_loop().create_task(self._next_message())
        return self._ahead

    async def run(self, protocol: ResponseHandler) -> None:
        """Send it all.

        Raises `ClientLeft`, `Refusal`. An error of the backend's connection ends it silently: there
        may be an answer, and whoever waits for that sees the error.
        """
        if self._go_on is not None and not self._go_on.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CONTINUE_SECONDS):
                    await self._go_on.wait()
            self._go_on.set()
        loop = asyncio.get_running_loop()
        writer = StreamWriter(protocol, loop)
        if self._left is None:
            writer.enable_chunking()
        more = True
        while more:
            piece, more = await self._next_piece()
            self.blocked_since = loop.time()
            try:
                if piece:
                    await writer.write(piece)
                if not more:
                    await writer.write_eof()
            except OSError:
                return
            self.blocked_since = None
            self._moved()
        self.is_done = True

    async def _next_piece(self) -> tuple[bytes, bool]:
        """Return what came, and whether there is more to come."""
        self.waiting_since = asyncio.get_running_loop().time()
        # A server tells its client to go on when it is asked for a first message.
        self.is_asked_for = True
        ahead, self._ahead = self._ahead, None
        message = await (self._receive() if ahead is None else ahead)
        self.waiting_since = None
        self._moved()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        piece: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        self._count(len(piece))
        if not more and self._left:
            raise Refusal(400, "the body is shorter than its Content-Length")
        return piece, more

    async def _next_message(self) -> Message:
        return await self._receive()

    def _count(self, size: int) -> None:
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise Refusal(400, "the body is longer than its Content-Length")
        elif self._most is not None:
            self._most -= size
            if self._most < 0:
                raise Refusal(413, "the body is too long")
