"""How WebSockets end through the proxy: by either side, properly or not, or by its limits."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Any

import pytest
import websockets
from backends import connected
from servers import until
from test_proxy_websocket_messages import HANDSHAKE
from websocket_fronts import SERVERS, backend, client_of, closed, fronted
from websockets.asyncio.server import ServerConnection

from backendpool_async.proxy import ProxyLimits, websocket_tunnel
from backendpool_async.proxy.websocket_backend import BackendSocket

pytestmark = pytest.mark.parametrize("server", SERVERS)

# hypercorn tells an application of every end as of a lost connection.
TELLS_NO_CODE = {"hypercorn"}


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "off"), (4001, "enough, bäh")])
async def test_the_client_s_code_and_reason_reach_the_backend(
    server: str, code: int, reason: str
) -> None:
    async with backend() as echo, fronted(server, echo.address) as front:
        async with client_of(front) as client:
            await client.close(code, reason)
        await until(lambda: echo.endings)
        assert echo.endings == [(1006, "") if server in TELLS_NO_CODE else (code, reason)]
        await until(lambda: front.state().in_flight == 0)
        assert front.state().failures == 0


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1012, "deploy"), (4001, "enough, bäh")])
async def test_the_backend_s_code_and_reason_reach_the_client(
    server: str, code: int, reason: str
) -> None:
    async def closes(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.close(code, reason)

    async with backend(closes) as ends, fronted(server, ends.address) as front:
        async with client_of(front) as client:
            await client.send("go")
            assert await closed(client) == (code, reason)
        await until(lambda: front.state().in_flight == 0)
        assert front.state().failures == 0
        await until(lambda: ends.endings == [(code, reason)])


async def test_a_client_that_closes_without_a_code_is_passed_on_so(server: str) -> None:
    async with backend() as echo, fronted(server, echo.address) as front:
        async with connected(front.address) as (reader, writer):
            writer.write(HANDSHAKE % b"/")
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"\x88\x80\0\0\0\0")
            await until(lambda: echo.endings)
        assert echo.endings == [(1006 if server in TELLS_NO_CODE else 1005, "")]


async def test_a_backend_that_closes_without_a_code_ends_it_normally(server: str) -> None:
    async def closes(connection: ServerConnection) -> None:
        connection.protocol.send_close()
        connection.transport.write(b"".join(connection.protocol.data_to_send()))
        await connection.wait_closed()

    async with (
        backend(closes) as ends,
        fronted(server, ends.address) as front,
        client_of(front) as client,
    ):
        assert await closed(client) == (1000, "")


async def test_a_backend_that_breaks_off_is_never_a_clean_end(server: str) -> None:
    async def breaks_off(connection: ServerConnection) -> None:
        await connection.send("last words")
        await connection.recv()
        connection.transport.abort()

    async with backend(breaks_off) as broken, fronted(server, broken.address) as front:
        async with client_of(front) as client:
            assert await client.recv() == "last words"
            await client.send("go")
            assert await closed(client) == (1011, "the backend broke off")
        await until(lambda: front.state().in_flight == 0)
        assert front.state().failures == 1


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.ECONNRESET])
@pytest.mark.parametrize("at", ["reading", "sending"])
async def test_a_backend_whose_host_vanishes_is_never_a_clean_end(
    server: str, number: int, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[BackendSocket] = []

    class Watched(BackendSocket):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(websocket_tunnel, "BackendSocket", Watched)
    reads = asyncio.Event()

    async def reads_nothing(connection: ServerConnection) -> None:
        await connection.send("hello")
        if at == "sending":
            connection.transport.pause_reading()
            await reads.wait()
            connection.transport.abort()
        await connection.wait_closed()

    async with backend(reads_nothing) as gone, fronted(server, gone.address) as front:
        try:
            async with client_of(front, write_limit=2**30) as client:
                assert await client.recv() == "hello"
                transport = made[0]._writer.transport
                if at == "sending":
                    for _ in range(20):
                        await client.send(b"x" * 2**20)
                    await until(lambda: transport.get_write_buffer_size() > 65_536)
                # As asyncio has it when the kernel says so.
                transport._fatal_error(OSError(number, os.strerror(number)))  # type: ignore[attr-defined]  # no public way
                assert await closed(client) == (1011, "the backend broke off")
            await until(lambda: front.state().in_flight == 0)
            assert front.state().failures == 1
        finally:
            reads.set()


async def test_a_client_that_is_cut_off_is_no_clean_end_and_no_failure(server: str) -> None:
    async with backend() as echo, fronted(server, echo.address) as front:
        async with client_of(front) as client:
            await client.send("hello")
            await client.recv()
            client.transport.abort()
        await until(lambda: echo.endings)
        assert echo.endings == [(1006, "")]
        await until(lambda: front.state().in_flight == 0)
        assert front.state().failures == 0


async def test_a_malformed_frame_of_the_backend_is_no_clean_end(server: str) -> None:
    async def talks_nonsense(connection: ServerConnection) -> None:
        connection.transport.write(b"\xf3\x00")
        await connection.wait_closed()

    async with backend(talks_nonsense) as broken, fronted(server, broken.address) as front:
        async with client_of(front) as client:
            assert (await closed(client))[0] == 1011
        await until(lambda: front.state().failures == 1)


async def test_text_that_is_none_is_no_clean_end(server: str) -> None:
    async def talks_nonsense(connection: ServerConnection) -> None:
        connection.transport.write(b"\x81\x02\xff\xfe")
        await connection.wait_closed()

    async with backend(talks_nonsense) as broken, fronted(server, broken.address) as front:
        async with client_of(front) as client:
            assert (await closed(client))[0] == 1011
        await until(lambda: broken.endings == [(1007, "not UTF-8")])


async def test_too_big_a_message_of_the_backend_is_1009(server: str) -> None:
    async def sends_much(connection: ServerConnection) -> None:
        await connection.send("x" * 1000)
        await connection.send("x" * 1001)
        await connection.wait_closed()

    limits = ProxyLimits(message_size=1000)
    async with backend(sends_much) as big, fronted(server, big.address, limits=limits) as front:
        async with client_of(front) as client:
            assert await client.recv() == "x" * 1000
            assert await closed(client) == (1009, "message too big")
        await until(lambda: [code for code, _ in big.endings] == [1009])
        assert front.state().failures == 0


@pytest.mark.parametrize("message", ["x" * 1001, "ä" * 501, b"x" * 70_000])
async def test_too_big_a_message_of_the_client_is_1009(server: str, message: str | bytes) -> None:
    limits = ProxyLimits(message_size=1000)
    async with backend() as echo, fronted(server, echo.address, limits=limits) as front:
        async with client_of(front) as client:
            await client.send("ä" * 500)
            assert await client.recv() == "ä" * 500
            await client.send(message)
            assert (await closed(client))[0] == 1009
        await until(lambda: echo.endings == [(1001, "message too big")])


async def test_one_in_which_nothing_moves_is_ended(server: str) -> None:
    limits = ProxyLimits(idle_timeout=0.1)
    async with backend() as echo, fronted(server, echo.address, limits=limits) as front:
        async with client_of(front) as client:
            assert await closed(client) == (1001, "nothing moved for 0.1 s")
        await until(lambda: echo.endings == [(1001, "nothing moved for 0.1 s")])
        assert front.state().failures == 0


@pytest.mark.parametrize("who", ["client", "backend"])
async def test_one_in_which_something_moves_goes_on(server: str, who: str) -> None:
    async def pings(connection: ServerConnection) -> None:
        while who == "backend":
            await (await connection.ping())
            await asyncio.sleep(0.02)
        async for _ in connection:
            pass

    limits = ProxyLimits(idle_timeout=0.25)
    async with (
        backend(pings) as quiet,
        fronted(server, quiet.address, limits=limits) as front,
        client_of(front) as client,
    ):
        for _ in range(20):
            if who == "client":
                await client.send("still here")
            await asyncio.sleep(0.03)
        assert client.state is websockets.State.OPEN


async def test_a_backend_that_is_removed_keeps_what_it_has(server: str) -> None:
    async with backend() as old, backend() as new, fronted(server, old.address) as front:
        async with client_of(front) as before:
            front.pool.update([new.address])
            async with client_of(front) as after:
                await after.send("new")
                assert await after.recv() == "new"
                assert (len(old.connections), len(new.connections)) == (1, 1)
            await before.send("old")
            assert await before.recv() == "old"
        await until(lambda: not old.connections)


async def test_a_lease_lasts_as_long_as_its_socket(server: str) -> None:
    async with backend() as echo, fronted(server, echo.address) as front:
        async with client_of(front), client_of(front):
            assert front.state().in_flight == 2
            assert front.proxy.in_flight == 2
        await until(lambda: front.state().in_flight == 0)
        assert front.state().requests == 2
        assert front.proxy.in_flight == 0


async def test_how_long_it_lasts_is_no_latency(server: str) -> None:
    async with backend() as echo, fronted(server, echo.address) as front:
        async with client_of(front):
            await asyncio.sleep(0.5)
        await until(lambda: front.state().requests == 1)
        latency = front.state().latency
        assert latency is not None
        assert latency < 0.5


async def test_a_server_that_stops_ends_both_sides(server: str) -> None:
    async with backend() as echo, fronted(server, echo.address, limits=None) as front:
        async with client_of(front) as client:
            await client.send("hello")
            await client.recv()
            stopping = asyncio.create_task(front.served.stop())
            if server == "hypercorn":  # which waits for its clients
                await client.close()
            else:
                # aiohttp.web says nothing to its clients.
                assert (await closed(client))[0] == (1006 if server == "aiohttp" else 1012)
            await stopping
        await until(lambda: echo.endings)
        await until(lambda: front.proxy.in_flight == 0)


async def test_a_slow_client_slows_the_backend_down(server: str) -> None:
    sent = 0

    async def floods(connection: ServerConnection) -> None:
        nonlocal sent
        while True:
            await connection.send(b"x" * 65_536)
            sent += 65_536

    async with (
        backend(floods) as flood,
        fronted(server, flood.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        await reader.readuntil(b"\r\n\r\n")
        # The stream pauses when it holds twice its limit.
        await _stands_still(lambda: sent)
        # What the buffers of the kernel and of both servers hold.
        assert 0 < sent < 16 * 2**20
        writer.transport.abort()


async def test_a_slow_backend_slows_the_client_down(server: str) -> None:
    if server == "hypercorn":
        pytest.skip("hypercorn takes from a client whatever it sends")
    sent, release = 0, asyncio.Event()
    frame = b"\x82\xff" + (65_536).to_bytes(8) + bytes(4) + b"x" * 65_536

    async def reads_nothing(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await release.wait()
        connection.transport.abort()

    async with (
        backend(reads_nothing) as slow,
        fronted(server, slow.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        await reader.readuntil(b"\r\n\r\n")

        async def flood() -> None:
            nonlocal sent
            while True:
                writer.write(frame)
                await writer.drain()
                sent += 65_536

        flooding = asyncio.create_task(flood())
        await _stands_still(lambda: sent)
        flooding.cancel()
        await asyncio.wait({flooding})
        assert 0 < sent < 16 * 2**20
        writer.transport.abort()
        release.set()


async def _stands_still(count: Callable[[], int]) -> None:
    before = 0
    while count() != before or not before:
        before = count()
        await asyncio.sleep(0.25)
