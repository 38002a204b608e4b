"""TcpCheck: does it accept connections?"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

from backendpool_async.backend import Backend
from backendpool_async.balance.health.addresses import AddressInfo, addresses, checked_port

_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)


class TcpCheck:
    """Connects to a backend, and closes.

    `port` is connected to instead of the backend's own; None: its own. Of a name with several
    addresses one has to accept. The connection is closed by a reset, as HAProxy does: closed in
    order, each would be kept in TIME_WAIT for a minute, 60,000 of them for 10,000 backends every
    10 s. Raises TypeError or ValueError for what is no port, and `check` raises OSError.

    >>> import asyncio
    >>> try:
    ...     asyncio.run(TcpCheck(port=1).check(Backend("127.0.0.1:8080")))
    ... except ConnectionRefusedError:
    ...     print("not well")
    not well
    """

    __slots__ = ("_port",)

    def __init__(self, *, port: int | None = None) -> None:
        self._port = checked_port(port)

    async def check(self, backend: Backend) -> None:
        """Return when it accepted a connection, else raise OSError."""
        *others, last = await addresses(backend.host, self._port or backend.port)
        for info in others:
            with contextlib.suppress(OSError):
                await _connect(info)
                return
        await _connect(last)

    def __repr__(self) -> str:
        return f"TcpCheck({'' if self._port is None else f'port={self._port}'})"


async def _connect(info: AddressInfo) -> None:
    family, kind, protocol, _, address = info
    # Not a transport: that costs as much again, and nothing is to be read or written.
    with socket.socket(family, kind, protocol) as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        await asyncio.get_running_loop().sock_connect(connection, address)
