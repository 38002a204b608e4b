"""``backendpool serve``: clients that send no whole head, do not read, or want an upgrade."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator

import pytest
import websockets
from backends import connected, echo_backend, exchange, read_answer, served_by_uvicorn
from backends_served import Message, Receive, Send
from commands import TERMINATED, interrupt

from backendpool_async import BackendPool, Balancer
from backendpool_async.proxy import ReverseProxy, server, server_protocol, server_transport
from backendpool_async.proxy.server_protocol import BoundedProtocol
from backendpool_async.status import StatusApp

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
LAST = b"Connection: close\r\n\r\n"
MUCH = 400_000


@pytest.fixture
async def front() -> AsyncIterator[str]:
    """Where a proxy for an echo backend is served as the command serves it."""
    async with echo_backend() as echo:
        proxy = ReverseProxy(Balancer(BackendPool.static([echo.address])))
        async with served_by_uvicorn(proxy, http=BoundedProtocol) as place:
            yield place.address


async def sent(address: str, *parts: bytes) -> bytes:
    """What comes back until the end, when the parts arrive one by one."""
    async with connected(address) as (reader, writer):
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while more := await reader.read(65_536):
                answer += more
        return answer


def test_the_command_uses_it() -> None:
    assert vars(server)["BoundedProtocol"] is BoundedProtocol


@pytest.mark.parametrize("line", [b"X: " + b"a" * MUCH, b"a: b\r\n" * (MUCH // 6), b"b" * MUCH])
async def test_a_head_that_does_not_end_is_refused(line: bytes, front: str) -> None:
    parts = [line[at : at + 20_000] for at in range(0, len(line), 20_000)]
    answer = await sent(front, GET, *parts)
    # A client that goes on sending may see the reset before the answer.
    assert answer.startswith(b"HTTP/1.1 431 ") or not answer


async def test_a_head_that_does_not_end_is_told_so(front: str) -> None:
    limit = server_protocol._LONGEST_HEAD
    async with connected(front) as (reader, writer):
        writer.write(GET + b"X: ")
        for _ in range(limit // 16_384):
            writer.write(b"a" * 16_384)
            await writer.drain()
        writer.write(b"a")
        answer = await read_answer(reader)
        assert answer.status == 431
        assert answer.value("connection") == "close"
        assert await reader.read() == b""


async def test_trailers_that_do_not_end_are_refused(front: str) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with connected(front) as (reader, writer):
        writer.write(head + b"1\r\na\r\n0\r\n")
        for _ in range(100):
            writer.write(b"a: b\r\n" * 1000)
            await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            assert b" 431 " in (await reader.read(100) or b" 431 ")


async def test_trailers_are_no_header_lines(front: str) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + LAST
    answer = await exchange(front, head + b"1\r\na\r\n0\r\nHost: b\r\nX-Of: trailer\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"trailer" not in answer


async def test_a_long_upload_in_small_parts_passes(front: str) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n" + LAST
    answer = await sent(front, head, *[b"x" * 20_000] * 20)
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("part", [b"", b"GET / HTT", GET, b"\r\n" * 10])
async def test_a_client_has_its_time_for_a_head(
    part: bytes, front: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_protocol, "_HEAD_TIMEOUT", 0.05)
    assert await sent(front, part) == b""


async def test_the_time_for_a_head_begins_with_its_first_byte(
    front: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_protocol, "_HEAD_TIMEOUT", 0.2)
    async with connected(front) as (reader, writer):
        writer.write(GET + b"\r\n")
        assert (await read_answer(reader)).status == 200
        # An idle connection is kept for longer.
        await asyncio.sleep(0.4)
        assert not reader.at_eof()
        writer.write(GET)
        await asyncio.sleep(0.15)
        # More of it does not start anew.
        writer.write(b"X: y\r\n")
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_a_websocket_has_all_the_time(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_protocol, "_HEAD_TIMEOUT", 0.1)
    async with websockets.connect(f"ws://{front}/ws", proxy=None, compression=None) as client:
        await asyncio.sleep(0.2)
        await client.send("hello")
        assert await client.recv() == "hello"


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("times", [1, 3])
async def test_an_upgrade_to_anything_but_a_websocket_is_ignored(
    together: bool, times: int, front: str
) -> None:
    head = (
        b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAo\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\nContent-Length: 5\r\n\r\n"
    )
    async with connected(front) as (reader, writer):
        if together:
            writer.write((head + b"hello") * times)
        for _ in range(times):
            if not together:
                writer.write(head)
                await asyncio.sleep(0.01)
                writer.write(b"hello")
            answer = await read_answer(reader)
            assert answer.status == 200
            got = json.loads(answer.body)
            assert "hello" in str(got)
            assert "h2c" not in str(got)


@pytest.mark.parametrize("path", [b"/status", b"/nothing/here"])
@pytest.mark.parametrize("expects", [True, False])
async def test_no_request_is_read_where_a_body_was_owed(path: bytes, expects: bool) -> None:
    balancer = Balancer(BackendPool.static([]))
    app = server.with_status(StatusApp(balancer), "/status", balancer)
    first = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % (path, len(GET) + 2)
    if expects:
        first += b"Expect: 100-continue\r\n"
    async with (
        served_by_uvicorn(app, http=BoundedProtocol, lifespan="off") as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(first + b"\r\n")
        answer = await read_answer(reader)
        assert answer.status in (404, 405)
        assert answer.value("connection") == ("close" if expects else None)
        # A body to one, and a request to the other.
        writer.write(GET + b"\r\n" + GET + LAST)
        rest = b""
        with contextlib.suppress(ConnectionError):
            rest = await reader.read()
        assert rest.count(b"HTTP/1.1 ") == (0 if expects else 1)


async def test_a_connection_is_kept_when_the_body_came_unasked() -> None:
    balancer = Balancer(BackendPool.static([]))
    head = b"POST /status HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    async with (
        served_by_uvicorn(StatusApp(balancer), http=BoundedProtocol, lifespan="off") as place,
        connected(place.address) as (reader, writer),
    ):
        for _ in range(2):
            writer.write(head + b"hello")
            assert (await read_answer(reader)).value("connection") is None


async def test_connect_is_refused(front: str) -> None:
    request = b"CONNECT /b HTTP/1.1\r\nHost: b\r\n" + LAST
    answer = await exchange(front, request + b"and what is no HTTP")
    assert answer.startswith(b"HTTP/1.1 405 ")


async def test_what_a_target_says_of_the_host_counts() -> None:
    async with (
        echo_backend() as echo,
        served_by_uvicorn(
            ReverseProxy(Balancer(BackendPool.static([echo.address]))), http=BoundedProtocol
        ) as place,
    ):
        for target, path in ((b"http://other/x?y", "/x?y"), (b"HTTP://other", "/")):
            answer = await exchange(
                place.address, b"GET %b HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n" % target
            )
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert echo.requests[-1].value("host") == "other"
            assert echo.requests[-1].target == path
        for target in (b"http://me@other/x", b"ftp://other/x", b"other"):
            answer = await exchange(place.address, b"GET %b HTTP/1.1\r\nHost: api\r\n\r\n" % target)
            assert answer.startswith(b"HTTP/1.1 400 ")
        assert len(echo.requests) == 2


async def test_what_is_malformed_is_refused(front: str) -> None:
    answer = await exchange(front, b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("waiting", [b"", GET + b"\r\n"])
async def test_no_refusal_stands_in_the_middle_of_an_answer(waiting: bytes) -> None:
    begun = asyncio.Event()

    async def app(_: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    async with (
        served_by_uvicorn(app, http=BoundedProtocol, lifespan="off", grace=0.1) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(GET + b"\r\n")
        await begun.wait()
        writer.write(waiting + b"no request\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionError):
            while more := await reader.read(1000):
                answer += more
        assert b" 400 " not in answer


async def gets_all(*, reads: bool) -> bool:
    """Whether a client gets a long last answer, if it reads slowly or not before its end."""
    lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    size = 20_000_000

    async def app(_: Message, __: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % size), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    class Observed(BoundedProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set_result(exc)

    loop = asyncio.get_running_loop()
    async with served_by_uvicorn(app, http=Observed, lifespan="off", grace=0.1) as place:
        host, _, port = place.address.partition(":")
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            await loop.sock_connect(client, (host, int(port)))
            await loop.sock_sendall(client, GET + b"\r\n")
            got = 0
            if not reads:
                async with asyncio.timeout(10):
                    await lost
            with contextlib.suppress(ConnectionError):
                while more := await loop.sock_recv(client, 1_000_000):
                    got += len(more)
                    await asyncio.sleep(0.005)
            return got > size


async def test_a_client_that_does_not_read_does_not_keep_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_transport, "_PATIENCE", 0.05)
    assert not await gets_all(reads=False)


async def test_a_client_that_reads_slowly_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_transport, "_PATIENCE", 0.1)
    assert await gets_all(reads=True)


async def test_a_second_signal_ends_also_connections_that_nobody_reads() -> None:
    ready, answered = asyncio.Event(), asyncio.Event()
    size = 20_000_000

    async def app(_: Message, __: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % size), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})
        answered.set()

    listening = socket.create_server(("127.0.0.1", 0))
    address = "{}:{}".format(*listening.getsockname())
    serving = asyncio.create_task(
        server.serve_until_signalled(app, listening, drain_timeout=30, ready=ready.set)
    )
    await ready.wait()
    async with connected(address) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket has it
        writer.write(GET + b"\r\n")
        await answered.wait()
        interrupt(signal.SIGTERM)
        await asyncio.sleep(0.05)
        assert not serving.done()
        interrupt(signal.SIGTERM)
        assert await serving == TERMINATED
