"""How far a peer has come with taking what is sent to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from typing import Final, NamedTuple

# Others have a constant of this name, too, and other numbers behind it.
_TCP_INFO: Final[int | None] = socket.TCP_INFO if sys.platform == "linux" else None
# struct tcp_info of linux/tcp.h: eight bytes, 24 numbers of 4 bytes, two of 8, tcpi_bytes_acked.
_BYTES_ACKED: Final = struct.Struct("=120xQ")


class Taken(NamedTuple):
    """What was seen of a connection at one moment."""

    acknowledged: int
    held: int

    def is_less_than(self, later: Taken) -> bool:
        """Whether the peer had taken more by then."""
        return later.acknowledged > self.acknowledged or later.held < self.held


# Of a connection that is not to be seen.
NOTHING: Final = Taken(0, 0)


def taken(transport: asyncio.Transport) -> Taken:
    """Look at the connection: how many bytes the peer has acknowledged, and how many wait here.

    Where the system does not say what the peer has acknowledged, what waits in the kernel is not
    seen, and what waits here goes there in large steps.
    """
    acknowledged = 0
    connection = transport.get_extra_info("socket")
    # A Unix socket has none of it, and one that is closed has nothing any more.
    with contextlib.suppress(OSError, struct.error):
        if connection is not None and _TCP_INFO is not None:
            info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_ACKED.size)
            (acknowledged,) = _BYTES_ACKED.unpack(info)
    return Taken(acknowledged, transport.get_write_buffer_size())
