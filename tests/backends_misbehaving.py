"""What backends do that are broken, each a handler for `raw_backend`.

For one that refuses connections there is `servers.nobody()`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from typing import Final

from backends_raw import Handler, read_head, read_request

_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
_FOREVER: Final = 3600.0


async def silent(reader: StreamReader, writer: StreamWriter) -> None:
    """Reads everything and never answers."""
    while await reader.read(65536):
        pass
    await asyncio.sleep(_FOREVER)


async def deaf(reader: StreamReader, writer: StreamWriter) -> None:
    """Accepts, and never even reads."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket has it
    await asyncio.sleep(_FOREVER)


async def closes_at_once(reader: StreamReader, writer: StreamWriter) -> None:
    """Closes before it read anything."""


async def closes_after_request(reader: StreamReader, writer: StreamWriter) -> None:
    """Reads the request and closes without a word."""
    await read_request(reader)


async def resets_after_request(reader: StreamReader, writer: StreamWriter) -> None:
    """Reads the request and resets the connection."""
    await read_request(reader)
    reset(writer)


async def resets_mid_header(reader: StreamReader, writer: StreamWriter) -> None:
    """Resets within the answer's header."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    await _arrived(writer)
    reset(writer)


async def resets_mid_body(reader: StreamReader, writer: StreamWriter) -> None:
    """Resets after 5 of 10 bytes."""
    await read_request(reader)
    writer.write(_OK + b"Content-Length: 10\r\n\r\n01234")
    await _arrived(writer)
    reset(writer)


async def resets_mid_chunks(reader: StreamReader, writer: StreamWriter) -> None:
    """Resets between two chunks."""
    await read_request(reader)
    writer.write(_OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n")
    await _arrived(writer)
    reset(writer)


async def closes_mid_chunks(reader: StreamReader, writer: StreamWriter) -> None:
    """Closes properly, without the last chunk."""
    await read_request(reader)
    writer.write(_OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n")


async def too_short(reader: StreamReader, writer: StreamWriter) -> None:
    """Announces 10 bytes, sends 5 and closes."""
    await read_request(reader)
    writer.write(_OK + b"Content-Length: 10\r\n\r\n01234")


async def too_long(reader: StreamReader, writer: StreamWriter) -> None:
    """Announces 5 bytes and sends 10."""
    await read_request(reader)
    writer.write(_OK + b"Content-Length: 5\r\n\r\n0123456789")


async def drips(reader: StreamReader, writer: StreamWriter) -> None:
    """Sends a byte of its answer every 50 ms, for ever."""
    await read_request(reader)
    writer.write(_OK + b"Content-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.05)


async def drips_header(reader: StreamReader, writer: StreamWriter) -> None:
    """Sends a byte of its header every 50 ms, for ever."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.05)


async def answers_early(reader: StreamReader, writer: StreamWriter) -> None:
    """Answers 413 to the head of a request, and closes without having read the body."""
    await read_head(reader)
    writer.write(
        b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large"
    )
    await writer.drain()
    writer.write_eof()
    # A close with unread bytes is a reset, and the answer might be lost with it.
    await asyncio.sleep(0.1)


async def answers_early_and_resets(reader: StreamReader, writer: StreamWriter) -> None:
    """The same with a reset, as of a server that does not wait."""
    await read_head(reader)
    writer.write(
        b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large"
    )
    await _arrived(writer)
    reset(writer)


async def huge_header(reader: StreamReader, writer: StreamWriter) -> None:
    """A header of 100 MiB."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nX-Huge: ")
    for _ in range(1600):
        writer.write(b"a" * 65536)
        await writer.drain()
    writer.write(b"\r\nContent-Length: 0\r\n\r\n")


async def endless_headers(reader: StreamReader, writer: StreamWriter) -> None:
    """One header after another, for ever."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: and more\r\n" * 1000)
        await writer.drain()


async def malformed_status(reader: StreamReader, writer: StreamWriter) -> None:
    """A status line that is none."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 two hundred\r\nContent-Length: 0\r\n\r\n")


async def no_http(reader: StreamReader, writer: StreamWriter) -> None:
    """Another protocol."""
    await read_head(reader)
    writer.write(b"220 mail.test ESMTP\r\n")


async def length_and_chunked(reader: StreamReader, writer: StreamWriter) -> None:
    """Both Content-Length and Transfer-Encoding, which do not agree."""
    await read_request(reader)
    writer.write(
        _OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n0\r\n\r\n"
    )


async def two_lengths(reader: StreamReader, writer: StreamWriter) -> None:
    """Two Content-Lengths that differ."""
    await read_request(reader)
    writer.write(_OK + b"Content-Length: 5\r\nContent-Length: 10\r\n\r\n0123456789")


async def bad_chunk_size(reader: StreamReader, writer: StreamWriter) -> None:
    """A chunk whose size is no number."""
    await read_request(reader)
    writer.write(_OK + b"Transfer-Encoding: chunked\r\n\r\nfive\r\n01234\r\n0\r\n\r\n")


async def closes_idle(reader: StreamReader, writer: StreamWriter) -> None:
    """Answers one request, promises to stay, and closes."""
    await read_request(reader)
    writer.write(_OK + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\nok")


async def resets_second_request(reader: StreamReader, writer: StreamWriter) -> None:
    """Answers one request, and resets when the next one on the connection has come."""
    await read_request(reader)
    writer.write(_OK + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\nok")
    await read_request(reader)
    reset(writer)


async def informs_first(reader: StreamReader, writer: StreamWriter) -> None:
    """103 and 102 before the answer, on every request of the connection."""
    while True:
        await read_request(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        writer.write(_OK + b"Content-Length: 2\r\n\r\nok")
        await writer.drain()


async def switches_unasked(reader: StreamReader, writer: StreamWriter) -> None:
    """101 to a request that asked for no upgrade."""
    await read_request(reader)
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n"
    )
    await asyncio.sleep(_FOREVER)


async def splits_header(reader: StreamReader, writer: StreamWriter) -> None:
    """A header with a bare carriage return and a control character in its value."""
    await read_request(reader)
    writer.write(_OK + b"X-Split: a\rSet-Cookie: b\x01\r\nContent-Length: 2\r\n\r\nok")


def reset(writer: StreamWriter) -> None:
    """Send a TCP reset, and lose what was not sent yet."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _arrived(writer: StreamWriter) -> None:
    # A reset overtakes what the other side has not read yet.
    await writer.drain()
    await asyncio.sleep(0.05)


MISBEHAVIOURS: Final[dict[str, Handler]] = {
    handler.__name__: handler
    for handler in (
        silent,
        deaf,
        closes_at_once,
        closes_after_request,
        resets_after_request,
        resets_mid_header,
        resets_mid_body,
        resets_mid_chunks,
        closes_mid_chunks,
        too_short,
        too_long,
        drips,
        drips_header,
        answers_early,
        answers_early_and_resets,
        huge_header,
        endless_headers,
        malformed_status,
        no_http,
        length_and_chunked,
        two_lengths,
        bad_chunk_size,
        closes_idle,
        resets_second_request,
        informs_first,
        switches_unasked,
        splits_header,
    )
}
