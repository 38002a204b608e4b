"""The backends that other tests rely on do what they say, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from backends import (
    MISBEHAVIOURS,
    Served,
    certificates,
    connected,
    echo_backend,
    exchange,
    raw_backend,
    read_answer,
    read_request,
    served_by_aiohttp,
    served_by_hypercorn,
    served_by_uvicorn,
)
from servers import until

ASK = b"GET / HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n"


async def test_an_echo_tells_what_it_got_byte_by_byte() -> None:
    async with echo_backend("b") as echo:
        answer = await exchange(
            echo.address,
            b"POST /a%2Fb//../c?x=%zz HTTP/1.1\r\nHost: api.test\r\nX-A: 1\r\nx-a: 2\r\n"
            b"Content-Length: 3\r\nConnection: close\r\n\r\nabc",
        )
        told = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert told["name"] == "b"
        assert told["target"] == "/a%2Fb//../c?x=%zz"
        assert told["body"] == "abc"
        (request,) = echo.requests
        assert request.headers[:3] == [("Host", "api.test"), ("X-A", "1"), ("x-a", "2")]
        assert request.values("X-A") == ["1", "2"]
        assert request.state == "answered"
        assert echo.accepted == 1


async def test_an_echo_stops_and_starts_again_on_its_port() -> None:
    async with echo_backend() as echo:
        address = echo.address
        async with connected(address) as (reader, writer):
            writer.write(ASK.replace(b"close", b"keep-alive"))
            assert (await read_answer(reader)).status == 200
            await echo.stop()
            assert await reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await exchange(address, ASK)
        await echo.start_again()
        assert echo.address == address
        assert (await exchange(address, ASK)).startswith(b"HTTP/1.1 200")


async def test_a_killed_echo_breaks_off_what_it_was_doing() -> None:
    async with echo_backend() as echo, connected(echo.address) as (reader, writer):
        writer.write(b"GET /slow HTTP/1.1\r\nHost: api.test\r\n\r\n")
        await until(lambda: echo.running == 1)
        await echo.kill()
        assert await reader.read() == b""
        assert echo.requests[0].state == "cancelled"


async def test_an_echo_sees_a_client_leave() -> None:
    async with echo_backend() as echo:
        async with connected(echo.address) as (_, writer):
            writer.write(b"GET /slow HTTP/1.1\r\nHost: api.test\r\n\r\n")
            await until(lambda: echo.running == 1)
        await until(lambda: echo.requests[0].state == "cancelled")
        await until(lambda: echo.open == 0)


async def test_an_echo_streams_what_it_is_fed() -> None:
    async with echo_backend() as echo, connected(echo.address) as (reader, writer):
        writer.write(b"GET /stream HTTP/1.1\r\nHost: api.test\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        echo.chunks.put_nowait(b"one")
        assert await reader.readexactly(8) == b"3\r\none\r\n"
        echo.chunks.put_nowait(None)
        assert await reader.readexactly(5) == b"0\r\n\r\n"


@pytest.mark.parametrize("path", ["/bytes/100000", "/chunked/100000"])
async def test_an_echo_sends_as_many_bytes_as_it_is_asked_for(path: str) -> None:
    async with echo_backend() as echo, connected(echo.address) as (reader, writer):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: api.test\r\n\r\n".encode())
        answer = await read_answer(reader)
        assert len(answer.body) == 100_000


async def test_an_echo_sends_pieces_of_an_upload_back_before_its_end() -> None:
    async with echo_backend() as echo, connected(echo.address) as (reader, writer):
        writer.write(
            b"POST /upload HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"2\r\nab\r\n")
        assert await reader.readexactly(7) == b"2\r\nab\r\n"
        writer.write(b"0\r\n\r\n")
        assert await reader.readexactly(5) == b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/status/503", b"HTTP/1.1 503"),
        ("/redirect", b"HTTP/1.1 302"),
        ("/redirect/absolute", b"HTTP/1.1 302"),
        ("/cookie", b"HTTP/1.1 200"),
        ("/gzip", b"HTTP/1.1 200"),
        ("/sink", b"HTTP/1.1 200"),
        ("/unread", b"HTTP/1.1 200"),
        ("/ws/refused", b"HTTP/1.1 403"),
        ("/status/none", b"HTTP/1.1 500"),
    ],
)
async def test_the_path_says_how_an_echo_answers(path: str, line: bytes) -> None:
    async with echo_backend() as echo:
        assert (await exchange(echo.address, ASK.replace(b"/", path.encode(), 1))).startswith(line)


async def test_an_echo_talks_over_websockets() -> None:
    async with echo_backend() as echo, aiohttp.ClientSession() as session:
        echo.subprotocols = ("chat",)
        url = f"http://{echo.address}/ws"
        async with session.ws_connect(url, protocols=["other", "chat"]) as websocket:
            assert websocket.protocol == "chat"
            await websocket.send_str("hello")
            assert await websocket.receive_str() == "hello"
            await websocket.send_bytes(b"\0")
            assert await websocket.receive_bytes() == b"\0"
            await websocket.send_str("headers")
            assert ["Upgrade", "websocket"] in await websocket.receive_json()
            await websocket.send_str("close 4001 enough of it")
            assert (await websocket.receive()).data == 4001
        async with session.ws_connect(url) as websocket:
            await websocket.send_str("abort")
            assert (await websocket.receive()).type is aiohttp.WSMsgType.CLOSED
            assert websocket.close_code == 1006
        async with session.ws_connect(url) as websocket:
            await echo.stop()
            assert (await websocket.receive()).data == 1001


async def test_a_certificate_is_for_its_names_only() -> None:
    tls = certificates().server("api.test")
    trusting = certificates().client()
    assert certificates().authority_pem.startswith(b"-----BEGIN CERTIFICATE")
    async with echo_backend(tls=tls) as echo:
        async with connected(echo.address, tls=trusting, server_name="api.test") as (
            reader,
            writer,
        ):
            writer.write(ASK)
            assert (await read_answer(reader)).status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            async with connected(echo.address, tls=trusting, server_name="db.test"):
                pass


async def test_a_raw_backend_says_what_its_handler_says() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, body = await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(head + body))
            writer.write(head + body)

    chunked = (
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )
    async with raw_backend(handler) as raw:
        async with connected(raw.address) as (reader, writer):
            for request in (b"PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab", chunked):
                writer.write(request)
                assert (await read_answer(reader)).body == request
            assert raw.accepted == raw.open == 1
        await raw.stop()
        with pytest.raises(ConnectionRefusedError):
            await exchange(raw.address, ASK)
        await raw.start_again()


@pytest.mark.parametrize("name", sorted(MISBEHAVIOURS))
async def test_no_misbehaviour_outlives_its_block(name: str) -> None:
    async with raw_backend(MISBEHAVIOURS[name]) as raw, connected(raw.address) as (reader, writer):
        writer.write(ASK)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(0.1):
                while await reader.read(65536):
                    pass
        assert raw.accepted == 1
    assert raw.open == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("closes_after_request", b""),
        (
            "too_short",
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n01234",
        ),
        ("malformed_status", b"HTTP/1.1 two hundred\r\nContent-Length: 0\r\n\r\n"),
        ("no_http", b"220 mail.test ESMTP\r\n"),
        ("resets_mid_header", b"HTTP/1.1 200 OK\r\nContent-Le"),
    ],
)
async def test_a_misbehaviour_is_exact(name: str, said: bytes) -> None:
    async with raw_backend(MISBEHAVIOURS[name]) as raw:
        assert await exchange(raw.address, ASK) == said


@pytest.mark.parametrize("name", ["resets_mid_body", "resets_mid_chunks", "resets_after_request"])
async def test_a_reset_is_a_reset(name: str) -> None:
    async with raw_backend(MISBEHAVIOURS[name]) as raw, connected(raw.address) as (reader, writer):
        writer.write(ASK)
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def said_hello(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that has a lifespan."""
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def fails_to_start(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no"})


@pytest.mark.parametrize("serve", [served_by_uvicorn, served_by_hypercorn])
async def test_an_application_is_served_by_a_real_server(
    serve: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    async with serve(said_hello) as served:
        assert b"hello" in await exchange(served.address, ASK)
        await served.stop()
        with pytest.raises(ConnectionRefusedError):
            await exchange(served.address, ASK)


@pytest.mark.parametrize("serve", [served_by_uvicorn, served_by_hypercorn])
async def test_an_application_that_does_not_start_fails_its_test(
    serve: Callable[..., AbstractAsyncContextManager[Served]],
) -> None:
    with pytest.raises(Exception, match=r"did not start|startup|Lifespan"):
        async with serve(fails_to_start):
            pass


async def test_an_aiohttp_application_is_served() -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    async with served_by_aiohttp(app) as served:
        assert b"hello" in await exchange(served.address, ASK)
        await served.stop()
