"""Backends for `benchmarks.clients`: prints a port a line; each answers every request alike."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

BODY: Final = b"x" * 1024
_ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\nContent-Type: text/plain\r\n\r\n" + BODY
)
_END: Final = b"\r\n\r\n"


class Answering(asyncio.Protocol):
    """Answers each request without a body, and keeps the connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        # A head comes in one piece here, and the next one after the answer.
        assert data.endswith(_END)
        self._transport.write(_ANSWER)


async def main(backends: int) -> None:
    loop = asyncio.get_running_loop()
    listeners = [await loop.create_server(Answering, "127.0.0.1", 0) for _ in range(backends)]
    for listener in listeners:
        print(listener.sockets[0].getsockname()[1], flush=True)
    # Ends with the process that it was started by.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
