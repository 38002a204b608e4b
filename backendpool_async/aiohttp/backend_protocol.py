"""One connection to a backend, as aiohttp's client has it, and what must be known of it."""

from __future__ import annotations

import asyncio
import math
import select
from collections.abc import Callable
from typing import Final

from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

# Windows has none, and its loop reads ahead.
_new_poll: Final[Callable[[], select.poll] | None] = getattr(select, "poll", None)


class BackendProtocol(ResponseHandler):
    """aiohttp's protocol, which also knows where it leads, how old it is, and what has come.

    `expires_at`: when it takes no further request, on the loop's clock. `received`: bytes since
    whoever uses it has set that to 0. `longest_head`: over so many of them without an answer that
    is waited for is an error, `HttpProcessingError`; aiohttp's own limits are for each line and for
    their number.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.address: str = ""
        self.expires_at: float = math.inf
        self.received: int = 0
        self.longest_head: float = math.inf
        self._poll: Callable[[int], list[tuple[int, int]]] = _nothing_seen

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the socket."""
        super().connection_made(transport)
        if _new_poll is not None:
            poller = _new_poll()
            poller.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
            self._poll = poller.poll

    def data_received(self, data: bytes) -> None:
        """Count it, and parse it."""
        self.received += len(data)
        super().data_received(data)
        if self.received > self.longest_head and self._waiter is not None:
            self.abort()
            self.set_exception(HttpProcessingError(message="the head of the answer is too long"))

    def is_quiet(self) -> bool:
        """Whether an idle one is open, and nothing came over it.

        aiohttp itself knows of an end only once the loop has told of it, and takes what nobody
        asked for as the beginning of the next answer. What came in one piece with the end of the
        answer before, and is no whole answer, is not seen.
        """
        return self.is_connected() and not self.received and not self._poll(0)


def _nothing_seen(_: int) -> list[tuple[int, int]]:
    return []
