"""Peers of WebSockets that send what costs memory: crumbs, and pings without reading the pongs."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable

from backends import connected, raw_backend, read_head
from test_proxy_websocket_details import switching
from test_proxy_websocket_messages import HANDSHAKE
from websocket_fronts import backend, fronted

SERVER = "serve"
# As many as do not fit into what kernels hold of a connection.
PINGS = 100_000
CRUMBS = 20_000
MASKED = 4


def frame(first: int, payload: bytes, *, masked: bool) -> bytes:
    """A frame, masked with zeros."""
    size = len(payload) | (0x80 if masked else 0)
    return bytes([first, size]) + (bytes(4) if masked else b"") + payload


def numbered(number: int) -> bytes:
    return b"%0125d" % number


async def floods(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, masked: bool
) -> list[int]:
    """Send pings without reading, and return the numbers of the pongs that came."""
    for start in range(0, PINGS, 1_000):
        pings = [frame(0x89, numbered(start + n), masked=masked) for n in range(1_000)]
        writer.write(b"".join(pings))
        await writer.drain()
    got: list[int] = []
    # What is masked goes to a server, which does not mask.
    mask_size = 0 if masked else MASKED
    async with asyncio.timeout(20):
        while not got or got[-1] != PINGS - 1:
            pong = await reader.readexactly(2 + mask_size + 125)
            assert pong[0] == 0x8A
            mask, payload = pong[2 : 2 + mask_size], pong[2 + mask_size :]
            if mask:
                payload = bytes(byte ^ mask[at % MASKED] for at, byte in enumerate(payload))
            got.append(int(payload))
    return got


def assert_some_were_dropped(got: list[int]) -> None:
    assert len(got) < PINGS
    assert got == sorted(got)


async def crumble(
    writer: asyncio.StreamWriter, pong: Callable[[int], Awaitable[bytes]], *, masked: bool
) -> None:
    """Send one message in crumbs, of which some are empty, and look at what is held of it."""
    writer.write(frame(0x01, b"ab", masked=masked))
    crumbs = frame(0x00, b"ab", masked=masked) + frame(0x00, b"", masked=masked)
    tracemalloc.start(1)
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(CRUMBS - 2):
            writer.write(crumbs)
        writer.write(frame(0x89, b"", masked=masked))
        await pong(2)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < 25 * CRUMBS
    writer.write(frame(0x80, b"ab", masked=masked))


async def test_a_backend_that_does_not_read_gets_the_latest_pong_only() -> None:
    got: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

    async def pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(switching(await read_head(reader)))
        got.set_result(await floods(reader, writer, masked=False))

    async with (
        raw_backend(pings) as floody,
        fronted(SERVER, floody.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        await read_head(reader)
        assert_some_were_dropped(await got)


async def test_a_client_that_does_not_read_gets_the_latest_pong_only() -> None:
    async with (
        backend() as echo,
        fronted(SERVER, echo.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        await read_head(reader)
        assert_some_were_dropped(await floods(reader, writer, masked=True))


async def test_a_client_s_crumbs_take_no_more_memory_than_they_are_long() -> None:
    async with (
        backend() as echo,
        fronted(SERVER, echo.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        await read_head(reader)
        await crumble(writer, reader.readexactly, masked=True)
        answer = await reader.readexactly(4 + 2 * CRUMBS)
        assert answer[4:] == b"ab" * CRUMBS


async def test_a_backend_s_crumbs_take_no_more_memory_than_they_are_long() -> None:
    async def crumbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(switching(await read_head(reader)))
        await crumble(writer, lambda size: reader.readexactly(size + MASKED), masked=False)
        await reader.read()

    async with (
        raw_backend(crumbles) as crumbly,
        fronted(SERVER, crumbly.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        await read_head(reader)
        answer = await reader.readexactly(4 + 2 * CRUMBS)
        assert answer[4:] == b"ab" * CRUMBS
