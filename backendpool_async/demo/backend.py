"""A backend of the demo, in a process of its own: ``python backend.py NAME SECONDS``.

It prints its address, answers every request with its name after some SECONDS, and drains on
SIGTERM: no new connections, no new requests on old ones, and the end when the last one is answered.
It imports nothing of the package, so that it starts at once.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Final

_LAST_CALL: Final = 0.05


class Backend:
    """Answers requests without a body over HTTP/1.1."""

    def __init__(self, name: str, seconds: float) -> None:
        self._body = f"{name}\n".encode()
        self._seconds = seconds
        self._draining = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM, or until whoever started it is gone; then drain."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._draining.set)
        await loop.connect_read_pipe(lambda: _EndOfInput(self._draining), sys.stdin)
        print(f"{host}:{port}", flush=True)  # noqa: T201 - for whoever started it
        await self._draining.wait()
        # Somebody may have connected a moment before.
        await asyncio.sleep(_LAST_CALL)
        server.close()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a callback of asyncio's runs in a task
        self._connections.add(task)
        try:
            while await self._next_request(reader):
                await asyncio.sleep(self._seconds)
                writer.write(self._answer())
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _next_request(self, reader: asyncio.StreamReader) -> bool:
        request = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        draining = asyncio.ensure_future(self._draining.wait())
        await asyncio.wait({request, draining}, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        if not request.done():
            # Or it is on its way.
            await asyncio.wait({request}, timeout=_LAST_CALL)
        if request.done():
            request.result()
            return True
        request.cancel()
        return False

    def _answer(self) -> bytes:
        # In one piece: a client gets all of it or nothing, also of one that is killed.
        connection = b"close" if self._draining.is_set() else b"keep-alive"
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n%s" % (
            len(self._body),
            connection,
            self._body,
        )


class _EndOfInput(asyncio.Protocol):
    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def connection_lost(self, _: Exception | None) -> None:
        self._ended.set()


if __name__ == "__main__":  # pragma: no cover - in a process of its own, which is not traced
    asyncio.run(Backend(sys.argv[1], float(sys.argv[2])).run())
