"""``backendpool serve``: handshakes of all sorts, and WebSocket clients that do not read."""

from __future__ import annotations

import asyncio

import pytest
from backends import connected, echo_backend, raw_backend, read_answer, read_request
from test_proxy_websocket_details import switching
from test_proxy_websocket_messages import HANDSHAKE
from websocket_fronts import fronted

SERVER = "serve"


def handshake(*lines: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    """A handshake with these lines more."""
    head = (HANDSHAKE % b"/").replace(b"GET / HTTP/1.1", b"%b / HTTP/%b" % (method, version))
    return head[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


async def accepts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer any handshake with 101, and any other request with 200."""
    head, _ = await read_request(reader)
    if b"Sec-WebSocket-Key" in head:
        writer.write(switching(head))
        await reader.read()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def status_of(reader: asyncio.StreamReader) -> int:
    """What the next answer is, if there is one."""
    async with asyncio.timeout(10):
        return (await read_answer(reader)).status


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"Cookie: " + b"a" * 9_000], 101),
        ([b"Cookie: " + b"a" * 60_000], 101),
        ([b"X-%d: 1" % number for number in range(130)], 101),
        ([b"X: \xe9\xff"], 101),
        ([b"Cookie: " + b"a" * 66_000], 431),
        ([b"X-%d: %b" % (number, b"a" * 1_000) for number in range(70)], 431),
        ([b"X: \x01"], 400),
    ],
)
async def test_a_handshake_may_be_as_long_as_any_request(lines: list[bytes], status: int) -> None:
    async with (
        raw_backend(accepts) as backend,
        fronted(SERVER, backend.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(handshake(*lines))
        assert await status_of(reader) == status


async def test_a_target_of_other_bytes_is_refused() -> None:
    async with (
        raw_backend(accepts) as backend,
        fronted(SERVER, backend.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/\xff")
        assert await status_of(reader) == 400
        assert await reader.read() == b""
        assert not backend.accepted


@pytest.mark.parametrize(
    "request_",
    [
        handshake(b"Content-Length: 5") + b"hello",
        handshake(b"Content-Length: 5", method=b"POST") + b"hello",
        handshake(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
        handshake(method=b"DELETE"),
        handshake(version=b"1.0"),
    ],
)
async def test_what_is_no_handshake_is_a_plain_request(request_: bytes) -> None:
    async with (
        echo_backend() as echo,
        fronted(SERVER, echo.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(request_)
        assert await status_of(reader) == 200
        (got,) = echo.requests
        assert bytes(got.body) == (b"hello" if b"hello" in request_ else b"")


async def test_a_length_of_0_is_no_body() -> None:
    async with (
        raw_backend(accepts) as backend,
        fronted(SERVER, backend.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(handshake(b"Content-Length: 0"))
        assert await status_of(reader) == 101


async def test_a_handshake_that_is_wrong_is_refused() -> None:
    async with (
        raw_backend(accepts) as backend,
        fronted(SERVER, backend.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(handshake(b"Sec-WebSocket-Key: again"))
        assert await status_of(reader) == 400
        assert await reader.read() == b""
        assert not backend.accepted


async def test_no_101_comes_in_the_middle_of_another_answer() -> None:
    release = asyncio.Event()

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _ = await read_request(reader)
        if head.startswith(b"GET /first "):
            await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with (
        raw_backend(waits) as backend,
        fronted(SERVER, backend.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n" + HANDSHAKE % b"/second")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        release.set()
        assert await status_of(reader) == 200
        assert await status_of(reader) == 200
