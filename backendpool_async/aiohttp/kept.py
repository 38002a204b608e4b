"""A connection of aiohttp's that may be kept for another request, and what must be known of it."""

from __future__ import annotations

import asyncio
import math
import select
from collections.abc import Callable
from typing import Final

from aiohttp.client_proto import ResponseHandler

# Windows has none, and its loop reads ahead.
_new_poll: Final[Callable[[], select.poll] | None] = getattr(select, "poll", None)


class KeptConnection(ResponseHandler):
    """aiohttp's protocol of a connection, which also knows where that leads and how old it is.

    `expires_at`: when it takes no further request, on the loop's clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.address: str = ""
        self.expires_at: float = math.inf
        self._poll: Callable[[int], list[tuple[int, int]]] = _nothing_seen

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the socket."""
        super().connection_made(transport)
        if _new_poll is not None:
            poller = _new_poll()
            poller.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
            self._poll = poller.poll

    def is_quiet(self) -> bool:
        """Whether an idle one is open, and nothing came over it.

        aiohttp itself knows of an end only once the loop has told of it, and takes an answer that
        nobody asked for as that to the next request.
        """
        return self.is_connected() and not len(self) and not self._poll(0)


def _nothing_seen(_: int) -> list[tuple[int, int]]:
    return []
