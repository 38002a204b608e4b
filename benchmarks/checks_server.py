"""A server for health checks: prints its port, and answers every request on it with 200.

It listens for all of 127.0.0.0/8, so that one of it stands for any number of backends.
"""

from __future__ import annotations

import asyncio
from typing import Final

_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_BACKLOG: Final = 4096


class Answering(asyncio.Protocol):
    """Answers once, whatever it was asked, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, _data: bytes) -> None:
        self._transport.write(_ANSWER)
        self._transport.close()


async def main() -> None:
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(Answering, "0.0.0.0", 0, backlog=_BACKLOG)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
