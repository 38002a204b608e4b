"""WebSockets that move slowly, but evenly: neither idle nor lost."""

from __future__ import annotations

import asyncio
import socket

import pytest
import websockets
from backends import connected, raw_backend, read_head
from servers import until
from test_proxy_slow_peers import READS, SIZE, SMALL, read_slowly, slow_client
from test_proxy_websocket_details import switching
from test_proxy_websocket_messages import HANDSHAKE
from websocket_fronts import SERVERS, backend, client_of, closed, fronted
from websockets.asyncio.server import ServerConnection

from backendpool_async.proxy import ProxyLimits

PARTS = 20
# Of all parts together more than twice this.
IDLE = ProxyLimits(idle_timeout=0.4)
BETWEEN = 0.05
LONG = 12_000_000
DONE = b"\x81\x04done"
ENOUGH = b"\x81\x80" + bytes(4)


async def take_slowly(reader: asyncio.StreamReader, size: int) -> None:
    """Read so much, in a time that is long."""
    for _ in range(PARTS):
        await reader.readexactly(size // PARTS)
        await asyncio.sleep(BETWEEN)


def hold_little(writer: asyncio.StreamWriter) -> None:
    """Have the kernel hold little: what it has is taken, to those who send it."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)


def beginning(size: int, mask: bytes = b"") -> bytes:
    """What comes before the bytes of a message."""
    return b"\x82%c" % (0x7F | (0x80 if mask else 0)) + size.to_bytes(8) + mask


async def test_a_client_may_send_a_message_slowly_where_the_server_shows_it() -> None:
    part = b"x" * 5_000
    async with (
        backend() as echo,
        fronted("serve", echo.address, limits=IDLE) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        await read_head(reader)
        writer.write(beginning(PARTS * len(part), bytes(4)))
        for _ in range(PARTS):
            writer.write(part)
            await asyncio.sleep(BETWEEN)
        assert await reader.readexactly(10) == beginning(PARTS * len(part))


async def test_a_pong_hides_no_part_of_a_message_that_comes_with_it() -> None:
    part, pong = b"\xe4" + bytes(4 + 100), b"\x8a\x80" + bytes(4)
    async with (
        backend() as echo,
        fronted("serve", echo.address, limits=IDLE) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        await read_head(reader)
        writer.write(b"\x02" + part)
        for _ in range(PARTS):
            writer.write(pong + b"\x00" + part)
            await asyncio.sleep(BETWEEN)
        writer.write(b"\x80" + part)
        assert await reader.readexactly(4) == b"\x82\x7e" + (100 * (PARTS + 2)).to_bytes(2)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_backend_may_send_a_message_slowly(server: str) -> None:
    part = b"x" * 5_000

    async def sends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(switching(await read_head(reader)) + beginning(PARTS * len(part)))
        for _ in range(PARTS):
            writer.write(part)
            await asyncio.sleep(BETWEEN)
        await reader.read()

    async with (
        raw_backend(sends) as slow,
        fronted(server, slow.address, limits=IDLE) as front,
        client_of(front) as client,
    ):
        assert await client.recv() == part * PARTS


@pytest.mark.parametrize("server", SERVERS)
async def test_a_backend_may_take_a_message_slowly(server: str) -> None:
    async def takes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hold_little(writer)
        writer.write(switching(await read_head(reader)))
        await take_slowly(reader, LONG)
        writer.write(DONE)
        await reader.read()

    async with (
        raw_backend(takes) as slow,
        fronted(server, slow.address, limits=IDLE) as front,
        client_of(front, max_size=None) as client,
    ):
        await client.send(b"x" * LONG)
        assert await client.recv() == "done"


@pytest.mark.parametrize("server", ["serve", "aiohttp"])
async def test_a_client_may_take_a_message_slowly_where_the_server_shows_it(server: str) -> None:
    async def sends(connection: ServerConnection) -> None:
        await connection.send(b"x" * LONG)
        await connection.recv()
        await connection.send("done")

    async with (
        backend(sends) as big,
        fronted(server, big.address, limits=IDLE) as front,
        connected(front.address) as (reader, writer),
    ):
        hold_little(writer)
        writer.write(HANDSHAKE % b"/")
        await read_head(reader)
        assert await reader.readexactly(10) == beginning(LONG)
        await take_slowly(reader, LONG)
        writer.write(ENOUGH)
        async with asyncio.timeout(10):
            await reader.readuntil(DONE)


@pytest.fixture
def _ends_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("websocket", "websocket_backend"):
        monkeypatch.setattr(f"backendpool_async.proxy.{module}._CLOSE_TIMEOUT", 0.1)


@pytest.mark.usefixtures("_ends_quickly")
@pytest.mark.parametrize("server", ["serve", "aiohttp"])
async def test_a_client_that_reads_slowly_but_steadily_is_not_idle(server: str) -> None:
    async def sends(connection: ServerConnection) -> None:
        await connection.send(b"x" * LONG)
        await connection.wait_closed()

    loop = asyncio.get_running_loop()
    async with (
        backend(sends) as big,
        fronted(server, big.address, limits=IDLE) as front,
        slow_client(front.address) as client,
    ):
        await loop.sock_sendall(client, HANDSHAKE % b"/")
        assert await read_slowly(client) > READS * SIZE / 2
        assert front.proxy.in_flight == 1
        # And once it takes nothing more, it is.
        await until(lambda: not front.proxy.in_flight)


@pytest.mark.usefixtures("_ends_quickly")
async def test_a_backend_that_reads_slowly_but_steadily_is_not_idle() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        address = "{}:{}".format(*listening.getsockname())
        async with (
            fronted("serve", address, limits=IDLE) as front,
            connected(front.address) as (reader, writer),
        ):
            writer.write(HANDSHAKE % b"/")
            slow, _ = await loop.sock_accept(listening)
            with slow:
                await loop.sock_sendall(slow, switching(await loop.sock_recv(slow, SMALL)))
                await read_head(reader)
                writer.write(beginning(LONG, bytes(4)) + bytes(LONG))
                assert await read_slowly(slow) > READS * SIZE / 2
                assert front.proxy.in_flight == 1
                # And once it takes nothing more, it is.
                await until(lambda: not front.proxy.in_flight)


async def test_answers_to_the_server_s_own_pings_keep_no_websocket() -> None:
    options = {"ws_ping_interval": 0.05, "ws_ping_timeout": 5.0}
    async with (
        backend() as echo,
        fronted("serve", echo.address, limits=IDLE, options=options) as front,
        client_of(front) as client,
    ):
        assert (await closed(client))[0] == 1001


PINGS = {"ws_ping_interval": 0.05, "ws_ping_timeout": 0.35}


async def test_a_client_that_answers_no_ping_is_given_up() -> None:
    async with (
        backend() as echo,
        fronted("serve", echo.address, options=PINGS) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        await read_head(reader)
        async with asyncio.timeout(10):
            assert b"keepalive ping timeout" in await reader.read()
        await until(lambda: echo.endings == [(1006, "")])


async def test_a_client_that_nobody_listens_to_is_not_given_up() -> None:
    release = asyncio.Event()
    got = 0

    async def reads_late(connection: ServerConnection) -> None:
        nonlocal got
        connection.transport.pause_reading()
        await release.wait()
        connection.transport.resume_reading()
        async for message in connection:
            got += len(message)

    async with (
        backend(reads_late, max_size=None) as late,
        fronted("serve", late.address, options=PINGS) as front,
        client_of(front) as client,
    ):
        sending = asyncio.create_task(client.send(b"x" * LONG))
        await asyncio.sleep(0)
        more = asyncio.create_task(client.send(b"x" * LONG))
        await asyncio.sleep(1)
        release.set()
        await sending
        await more
        await until(lambda: got == 2 * LONG)
        assert client.state is websockets.State.OPEN


async def test_a_client_that_sends_something_else_is_not_given_up() -> None:
    part = b"x" * 5_000
    async with (
        backend() as echo,
        fronted("serve", echo.address, options=PINGS) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        await read_head(reader)
        writer.write(beginning(PARTS * len(part), bytes(4)))
        for _ in range(PARTS):
            writer.write(part)
            await asyncio.sleep(BETWEEN)
        async with asyncio.timeout(10):
            await reader.readuntil(beginning(PARTS * len(part)))


async def test_a_client_that_takes_something_else_is_not_given_up() -> None:
    async def sends(connection: ServerConnection) -> None:
        await connection.send(b"x" * LONG)
        await connection.recv()
        await connection.send("done")

    async with (
        backend(sends) as big,
        fronted("serve", big.address, options=PINGS) as front,
        connected(front.address) as (reader, writer),
    ):
        hold_little(writer)
        writer.write(HANDSHAKE % b"/")
        await read_head(reader)
        assert await reader.readexactly(10) == beginning(LONG)
        await take_slowly(reader, LONG)
        writer.write(ENOUGH)
        async with asyncio.timeout(10):
            await reader.readuntil(DONE)
