"""Where to connect to for a host: at once for an address, by the system's lookup for a name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from backendpool_async.keywords import count
from backendpool_async.threads import FewThreads, ShortLivedThreads

AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
_Lookups = dict[str, asyncio.Future[Sequence[AddressInfo]]]

_LARGEST_PORT: Final = 65535
# A lookup hangs for as long as the system's resolver likes, and the loop's own threads are for
# others. One that hangs keeps its thread, so there are more than of those that answer at once.
_few: Final = FewThreads(64)
# One at a time for each name: asked for anew at every check, one that hangs would take them all.
_under_way: Final[dict[asyncio.AbstractEventLoop, _Lookups]] = {}


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
        # Whoever is cancelled leaves it to the others, and to those who ask next.
        found = await asyncio.shield(_joined(host))
        return [_with_port(info, port) for info in found]


def _joined(host: str) -> asyncio.Future[Sequence[AddressInfo]]:
    """Return the lookup of a name that is under way on this event loop, else begin it."""
    loop = asyncio.get_running_loop()
    lookups = _under_way.get(loop)
    if lookups is None:
        # A lookup keeps its loop, and one that was closed is never told of its end.
        for closed in [each for each in list(_under_way) if each.is_closed()]:
            _under_way.pop(closed, None)
        lookups = _under_way[loop] = {}
    lookup = lookups.get(host)
    if lookup is None:
        threads = ShortLivedThreads(loop, _few.start)
        lookup = lookups[host] = loop.run_in_executor(threads, _lookup, host, 0, 0)
        lookup.add_done_callback(partial(_ended, loop, host))
    return lookup


def _ended(loop: asyncio.AbstractEventLoop, host: str, _: object) -> None:
    lookups = _under_way[loop]
    del lookups[host]
    if not lookups:
        del _under_way[loop]


def _with_port(info: AddressInfo, port: int) -> AddressInfo:
    family, kind, protocol, name, address = info
    return family, kind, protocol, name, (address[0], port, *address[2:])


def _lookup(host: str, port: int, flags: int) -> Sequence[AddressInfo]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
