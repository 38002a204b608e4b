"""A backend that sends exactly the bytes that its handler writes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from backendpool_async import Backend

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawBackend:
    """A TCP server: `handler` talks to one connection, which is closed when it returns."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None) -> None:
        self.accepted = 0
        self.backend = Backend("127.0.0.1:1")
        self._handler = handler
        self._tls = tls
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return str(self.backend)

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._serving)

    async def start(self, port: int = 0) -> None:
        """Listen; what the kernel accepts is served."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self._tls)
        host, port = self._server.sockets[0].getsockname()
        self.backend = Backend(f"{host}:{port}")

    async def start_again(self) -> None:
        """Listen on the port that it had."""
        await self.start(self.backend.port)

    async def stop(self) -> None:
        """Close the listening socket and end every connection; nothing when it is stopped."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        # What the kernel had accepted by now gets its task.
        await asyncio.sleep(0.01)
        for task in list(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._serving.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._handler(reader, writer)
        except asyncio.CancelledError:
            # `stop`: the callback of start_server would report it.
            writer.transport.abort()
        finally:
            self._serving.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()


@asynccontextmanager
async def raw_backend(
    handler: Handler, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawBackend]:
    """Run a `RawBackend`."""
    raw = RawBackend(handler, tls)
    await raw.start()
    try:
        yield raw
    finally:
        await raw.stop()


async def read_head(reader: asyncio.StreamReader) -> bytes:
    """Read a request or an answer up to its empty line, and return it with that line."""
    return await reader.readuntil(b"\r\n\r\n")


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read a whole request; return its head, and its body as it came (chunks still framed)."""
    head = await read_head(reader)
    return head, await read_body(reader, head)


async def read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """Read what the head announces: by Content-Length, or in chunks; framed as it came."""
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:-2])
    }
    if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
        return await _read_chunks(reader)
    return await reader.readexactly(int(fields.get(b"content-length", b"0")))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        body += line
        if size:
            body += await reader.readexactly(size + 2)
            continue
        while line != b"\r\n":
            line = await reader.readuntil(b"\r\n")
            body += line
        return body
