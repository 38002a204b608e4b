"""Requests that two readers may read differently: refused, or passed on as exactly one.

Each goes as raw bytes to each server with the proxy behind it, and what counts is what a backend
receives.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from backends import connected, raw_backend
from proxy_fronts import PARSERS, proxied

each_front = pytest.mark.parametrize("front", PARSERS)

INNER = b"GET /smuggled HTTP/1.1\r\nHost: api\r\n\r\n"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    head = b"POST /outer HTTP/1.1\r\nHost: api\r\n"
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def get(*lines: bytes, target: bytes = b"/outer", version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET %b %b\r\n" % (target, version) + b"".join(x + b"\r\n" for x in lines) + b"\r\n"


class Received(NamedTuple):
    head: bytes
    body: bytes


# Never passed on, by no server.
REFUSED: dict[str, bytes] = {
    "length beside chunked": post(
        b"Content-Length: 6", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + INNER
    ),
    "chunked beside length": post(
        b"Transfer-Encoding: chunked", b"Content-Length: 4", body=CHUNKS + INNER
    ),
    "two lengths": post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello" + INNER),
    "a length with a plus": post(b"Content-Length: +5", body=b"hello"),
    "a negative length": post(b"Content-Length: -1", body=b"hello"),
    "a length in hexadecimal": post(b"Content-Length: 0x5", body=b"hello"),
    "a list of lengths": post(b"Content-Length: 5, 6", body=b"hello" + INNER),
    "a length with a space within": post(b"Content-Length: 5 5", body=b"hello"),
    "a length out of range": post(b"Content-Length: 99999999999999999999999", body=b"hello"),
    "another coding": post(b"Transfer-Encoding: xchunked", body=CHUNKS),
    "identity": post(b"Transfer-Encoding: identity", body=CHUNKS),
    "chunked that is not last": post(b"Transfer-Encoding: chunked, identity", body=CHUNKS),
    "a coding before chunked": post(b"Transfer-Encoding: gzip, chunked", body=CHUNKS),
    "a second coding": post(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=CHUNKS
    ),
    "chunked twice": post(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=CHUNKS
    ),
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n"
    + CHUNKS,
    "a vertical tab before chunked": post(b"Transfer-Encoding: \x0bchunked", body=CHUNKS),
    "a space before the colon": post(
        b"Transfer-Encoding : chunked", b"Content-Length: 5", body=b"hello"
    ),
    "a space in a name": get(b"Host: api", b"X Y: z"),
    "no name": get(b"Host: api", b": z"),
    "no colon": get(b"Host: api", b"nonsense"),
    "a NUL in a value": get(b"Host: api", b"X: a\0b"),
    "a carriage return in a value": get(b"Host: api", b"X: a\rTransfer-Encoding: chunked"),
    "two hosts": get(b"Host: api", b"Host: other"),
    "no host": get(),
    "a host with a path": get(b"Host: api/x"),
    "a host with a space": get(b"Host: a b"),
    "a host with quotes": get(b'Host: a";by=me'),
    "a target with a space": get(b"Host: api", target=b"/a b"),
    "a target with a tabulator": get(b"Host: api", target=b"/a\tb"),
    "a target that is no path": get(b"Host: api", target=b"outer"),
    "a tunnel": b"CONNECT other:80 HTTP/1.1\r\nHost: other:80\r\n\r\n",
    "a trace": b"TRACE / HTTP/1.1\r\nHost: api\r\n\r\n",
    "a method with odd characters": b"G(T / HTTP/1.1\r\nHost: api\r\n\r\n",
    "another expectation": post(b"Content-Length: 5", b"Expect: miracles", body=b"hello"),
    "another protocol": get(b"Host: api", version=b"SMTP/1.1"),
}

# Refused, or passed on once and without the doubt, as the server has it.
AT_MOST_ONE: dict[str, bytes] = {
    "the same length twice": post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "a length that is empty": post(b"Content-Length:"),
    "a length with zeros before it": post(b"Content-Length: 005", body=b"hello"),
    "a coding with underscores": post(
        b"Transfer_Encoding: chunked", b"Content-Length: 5", body=b"hello"
    ),
    "a length with underscores": post(b"Content_Length: 0", b"Content-Length: 5", body=b"hello"),
    "a tabulator before chunked": post(b"Transfer-Encoding:\tchunked", body=CHUNKS),
    "chunked in capitals": post(b"Transfer-Encoding: CHUNKED", body=CHUNKS),
    "a folded line": get(b"Host: api", b"X: a\r\n Transfer-Encoding: chunked"),
    "a folded coding": post(b"Transfer-Encoding:\r\n chunked", body=CHUNKS),
    "lines that end in LF only": b"GET /outer HTTP/1.1\nHost: api\n\n",
    "one line that ends in LF only": get(b"Host: api", b"X: y\nZ: a"),
    "a length on a line of its own sort": post(
        b"X: y\nContent-Length: 0", b"Content-Length: 5", body=b"hello"
    ),
    "a length that Connection names": post(
        b"Connection: content-length", b"Content-Length: 5", body=b"hello"
    ),
    "a host that Connection names": get(b"Host: api", b"Connection: host, close"),
    "a target with a host": get(b"Host: api", target=b"http://other/outer"),
    "a target with a fragment": get(b"Host: api", target=b"/outer#part"),
    "a target of other bytes": get(b"Host: api", target=b"/outer\xff\xfe"),
    "a get with a body": get(b"Host: api", b"Content-Length: 5") + b"hello",
    "an old upgrade": get(b"Host: api", b"Upgrade: other", b"Connection: upgrade"),
    "a trailer": post(
        b"Transfer-Encoding: chunked",
        b"Trailer: X",
        body=b"5\r\nhello\r\n0\r\nContent-Length: 100\r\nX: y\r\n\r\n",
    ),
    "an extension of a chunk": post(
        b"Transfer-Encoding: chunked", body=b"5;a=b\r\nhello\r\n0\r\n\r\n"
    ),
    "a header of 100 KB": get(b"Host: api", b"X: " + b"a" * 100_000),
}

# The head may have gone on when it shows; the request then never ends.
BROKEN_BODIES: dict[str, bytes] = {
    "a size that is no number": b"zz\r\nhello\r\n0\r\n\r\n" + INNER,
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n" + INNER,
    "a size in hexadecimal notation": b"0x5\r\nhello\r\n0\r\n\r\n" + INNER,
    "a size out of range": b"fffffffffffffffff5\r\nhello\r\n0\r\n\r\n" + INNER,
    "a chunk longer than its size": b"3\r\nhello\r\n0\r\n\r\n" + INNER,
    "a size with an underscore": b"1_0\r\nhellohellohello!\r\n0\r\n\r\n" + INNER,
}


class Bench:
    """A server, the proxy, and a backend that keeps what it receives."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.address = ""

    async def outcome(self, request: bytes) -> tuple[bytes, bytes]:
        """Return what the client was answered and what the backend received."""
        self.received.clear()
        answer = b""
        async with connected(self.address) as (reader, writer):
            writer.write(request)
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(0.3):
                    answer = await reader.read(65536)
                    # What would follow by mistake follows at once.
                    await asyncio.sleep(0.02)
        return answer, bytes(self.received)

    async def record(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.received += data
            if complete(bytes(self.received)):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                return


@asynccontextmanager
async def bench(front: str) -> AsyncIterator[Bench]:
    made = Bench()
    async with raw_backend(made.record) as backend, proxied(front, backend.address) as place:
        made.address = place.address
        yield made


def is_refusal(answer: bytes) -> bool:
    """Whether the client was told that it is wrong, or had its connection closed."""
    return re.match(rb"HTTP/1\.[01] [45]|$", answer) is not None


def complete(received: bytes) -> Received | None:
    """Read one request as strictly as can be; None while it is not whole."""
    head, found, rest = received.partition(b"\r\n\r\n")
    if not found:
        return None
    line, *lines = head.split(b"\r\n")
    assert re.fullmatch(rb"[A-Z]+ [!-~\x80-\xff]+ HTTP/1\.1", line), line
    fields = []
    for each in lines:
        assert re.fullmatch(rb"[!#$%&'*+.^_`|~0-9a-z-]+: [\t -~\x80-\xff]*", each), each
        fields.append(each.split(b": ", 1))
    framing = [field for field in fields if field[0] in (b"content-length", b"transfer-encoding")]
    assert len(framing) <= 1, framing
    assert [name for name, _ in fields].count(b"host") == 1
    assert not {b"upgrade", b"connection", b"trailer"} & {name for name, _ in fields}
    if not framing:
        assert not rest, rest
        return Received(head, b"")
    name, value = framing[0]
    if name == b"content-length":
        length = int(value)
        assert len(rest) <= length, rest
        return Received(head, rest) if len(rest) == length else None
    assert value == b"chunked"
    body = b""
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return None
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
        if not int(size, 16):
            assert not rest, rest
            return Received(head, body)


@each_front
async def test_what_is_ambiguous_is_refused(front: str) -> None:
    wrong = {}
    async with bench(front) as made:
        for name, request in REFUSED.items():
            answer, received = await made.outcome(request)
            if received or not is_refusal(answer):
                wrong[name] = (answer, received)
    assert not wrong


@each_front
async def test_what_is_odd_is_refused_or_passed_on_as_one(front: str) -> None:
    async with bench(front) as made:
        for name, request in AT_MOST_ONE.items():
            answer, received = await made.outcome(request)
            one = complete(received)
            if one is None:
                assert is_refusal(answer), name
                continue
            assert one.head.startswith((b"GET /outer", b"POST /outer")), name
            assert one.body in (b"", b"hello"), name
            assert (one.body == b"hello") == (b"hello" in request), name


@each_front
async def test_a_body_with_broken_chunks_is_never_passed_on_as_whole(front: str) -> None:
    async with bench(front) as made:
        for name, body in BROKEN_BODIES.items():
            _, received = await made.outcome(post(b"Transfer-Encoding: chunked", body=body))
            assert complete(received) is None, name
