"""A client that sends exact bytes and shows the exact answer."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from servers import PATIENCE

from backendpool_async import Backend


class Answer(NamedTuple):
    """One HTTP/1.1 answer; `raw` is all of its bytes, `body` is without the chunks' frames."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    raw: bytes

    def values(self, name: str) -> list[str]:
        """All values of a header, in order."""
        return [value for each, value in self.headers if each.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """The value of a header that comes once at most; None without one."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


@asynccontextmanager
async def connected(
    address: str, *, tls: ssl.SSLContext | None = None, server_name: str | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to "host:port" that is closed with the block."""
    backend = Backend(address)
    reader, writer = await asyncio.open_connection(
        backend.host, backend.port, ssl=tls, server_hostname=server_name if tls else None
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


async def exchange(address: str, request: bytes, *, within: float = PATIENCE) -> bytes:
    """Send the bytes and return all that comes until the other side closes.

    Say ``Connection: close`` in a request, or fail after `within` seconds: AssertionError shows
    what had come by then. A reset ends the answer like a close; `exchange` cannot tell them apart.
    """
    answer = b""
    async with connected(address) as (reader, writer):
        writer.write(request)
        try:
            async with asyncio.timeout(within):
                with contextlib.suppress(ConnectionError):
                    while data := await reader.read(65536):
                        answer += data
        except TimeoutError:
            raise AssertionError(f"the connection was not closed; it said {answer!r}") from None
    return answer


async def read_answer(
    reader: asyncio.StreamReader, method: str = "GET", *, within: float = PATIENCE
) -> Answer:
    """Read one answer to a request of this method, and nothing after it.

    Raises `asyncio.IncompleteReadError` or ConnectionError when it breaks off.
    """
    async with asyncio.timeout(within):
        head = await reader.readuntil(b"\r\n\r\n")
        line, *lines = head[:-4].decode("latin-1").split("\r\n")
        _, status, reason = [*line.split(" ", 2), ""][:3]
        pairs = [each.partition(":") for each in lines]
        headers = [(name, value.strip()) for name, _, value in pairs]
        answer = Answer(int(status), reason, headers, b"", head)
        if method == "HEAD" or answer.status < 200 or answer.status in {204, 304}:
            return answer
        if "chunked" in (answer.value("Transfer-Encoding") or ""):
            return await _with_chunks(reader, answer)
        length = answer.value("Content-Length")
        body = await (reader.read() if length is None else reader.readexactly(int(length)))
        return answer._replace(body=body, raw=head + body)


async def _with_chunks(reader: asyncio.StreamReader, answer: Answer) -> Answer:
    body, raw = b"", answer.raw
    while True:
        line = await reader.readuntil(b"\r\n")
        raw += line
        size = int(line.partition(b";")[0], 16)
        if size:
            chunk = await reader.readexactly(size + 2)
            raw, body = raw + chunk, body + chunk[:-2]
            continue
        while line != b"\r\n":
            line = await reader.readuntil(b"\r\n")
            raw += line
        return answer._replace(body=body, raw=raw)
