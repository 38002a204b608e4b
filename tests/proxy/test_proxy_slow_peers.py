"""Peers that take what they are sent slowly, but take it: they are not idle."""

from __future__ import annotations

import asyncio
import contextlib
import runpy
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import servers
from backends import connected, echo_backend, read_answer
from proxy_fronts import ALL, proxied

from backendpool_async.proxy import ProxyLimits, taking
from backendpool_async.proxy.asgi import _transport_of
from backendpool_async.proxy.taking import Taken, taken
from backendpool_async.proxy.upload import Message

LIMITS = ProxyLimits(idle_timeout=0.4)
# Much longer than the limit, at a rate at which nothing gets through in whole pieces.
READS, PAUSE, SIZE = 100, 0.02, 1000
SMALL = 4096


async def read_slowly(connection: socket.socket) -> int:
    """Return how many bytes came in two seconds."""
    loop = asyncio.get_running_loop()
    count = 0
    for _ in range(READS):
        piece = await loop.sock_recv(connection, SIZE)
        if not piece:
            break
        count += len(piece)
        await asyncio.sleep(PAUSE)
    return count


@asynccontextmanager
async def slow_client(address: str) -> AsyncIterator[socket.socket]:
    host, _, port = address.partition(":")
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
        yield client


# hypercorn shows nothing of its connections.
@pytest.mark.parametrize("front", [front for front in ALL if front != "hypercorn"])
async def test_a_client_that_reads_slowly_but_steadily_is_not_idle(front: str) -> None:
    async with (
        echo_backend() as echo,
        proxied(front, echo.address, limits=LIMITS) as place,
        slow_client(place.address) as client,
    ):
        asking = b"GET /bytes/50000000 HTTP/1.1\r\nHost: api\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(client, asking)
        assert await read_slowly(client) > READS * SIZE / 2
        assert place.in_flight() == 1
        # And once it takes nothing more, it is.
        await servers.until(lambda: not place.in_flight())
        assert place.failures() == 0


async def test_a_backend_that_reads_slowly_but_steadily_is_not_idle() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        address = "{}:{}".format(*listening.getsockname())
        async with (
            proxied("uvicorn", address, limits=LIMITS) as place,
            slow_client(place.address) as client,
        ):
            asking = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 50000000\r\n\r\n"
            sending = asyncio.create_task(loop.sock_sendall(client, asking + bytes(50_000_000)))
            try:
                backend, _ = await loop.sock_accept(listening)
                with backend:
                    assert await read_slowly(backend) > READS * SIZE / 2
                    assert place.in_flight() == 1
                    # And once it takes nothing more, it is, and to blame.
                    await servers.until(lambda: not place.in_flight())
                assert place.failures() == 1
            finally:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await sending


async def test_a_body_that_is_read_slowly_is_sent_to_its_end() -> None:
    loop = asyncio.get_running_loop()
    size = 20_000_000
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        address = "{}:{}".format(*listening.getsockname())
        async with (
            proxied("uvicorn", address, limits=LIMITS) as place,
            connected(place.address) as (reader, writer),
        ):
            writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % size)
            writer.write(bytes(size))
            backend, _ = await loop.sock_accept(listening)
            with backend:
                came = await read_slowly(backend)
                while came < size:
                    piece = await asyncio.wait_for(loop.sock_recv(backend, 1_000_000), 10)
                    assert piece
                    came += len(piece)
                await loop.sock_sendall(backend, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                assert (await read_answer(reader)).body == b"ok"
            assert place.failures() == 0


@pytest.mark.parametrize("told", ["for TCP only", "never"])
async def test_where_the_kernel_says_nothing_what_waits_here_is_seen(
    told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told == "never":
        monkeypatch.setattr(taking, "_TCP_INFO", None)
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, sock=ours
        )
        try:
            transport.write(bytes(10_000_000))
            before = taken(transport)
            assert before.acknowledged == 0
            assert before.held > 0
            assert not before.is_less_than(taken(transport))
            theirs.recv(1_000_000)
            await servers.until(lambda: before.is_less_than(taken(transport)))
        finally:
            transport.abort()


def test_only_of_linux_the_numbers_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "freebsd14")
    assert runpy.run_path(taking.__file__)["_TCP_INFO"] is None


def test_what_was_taken_only_grows() -> None:
    seen = Taken(acknowledged=5, held=10)
    assert seen.is_less_than(Taken(6, 20))
    assert seen.is_less_than(Taken(5, 9))
    assert not seen.is_less_than(Taken(5, 11))


async def test_only_a_connection_is_looked_at() -> None:
    class Odd:
        transport = "none that could be looked at"

        async def send(self, message: Message) -> None:
            raise NotImplementedError

    async def send(message: Message) -> None:
        raise NotImplementedError

    assert _transport_of(Odd().send) is None
    assert _transport_of(send) is None
