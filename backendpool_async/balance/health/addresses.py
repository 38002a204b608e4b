"""Where to connect to for a host: at once for an address, by the system's lookup for a name."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final

from backendpool_async.keywords import count
from backendpool_async.threads import FewThreads, in_thread

AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]

_LARGEST_PORT: Final = 65535
# A lookup hangs for as long as the system's resolver likes, and the loop's own threads are for
# others.
_few: Final = FewThreads(8)


def checked_port(port: int | None) -> int | None:
    """Return a port to connect to, None for the backend's own; TypeError or ValueError else."""
    if port is not None and count("port", port) > _LARGEST_PORT:
        raise ValueError(f"port={port} is above {_LARGEST_PORT}")
    return port


async def addresses(host: str, port: int) -> Sequence[AddressInfo]:
    """Return what `socket.getaddrinfo` does, never empty; raises OSError as it does.

    >>> import asyncio
    >>> asyncio.run(addresses("127.0.0.1", 80))[0][4]
    ('127.0.0.1', 80)
    """
    try:
        return _lookup(host, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await in_thread(lambda: _lookup(host, port, 0), _few.start)


def _lookup(host: str, port: int, flags: int) -> Sequence[AddressInfo]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
