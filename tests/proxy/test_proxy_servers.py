"""What the servers and frameworks around the proxy do to requests before it has them."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import MutableMapping
from typing import Any

import pytest
import servers
from backends import (
    connected,
    echo_backend,
    exchange,
    raw_backend,
    read_answer,
    read_head,
    served_by_uvicorn,
)
from proxy_fronts import FRONTS, proxied
from starlette.applications import Starlette
from starlette.routing import Mount

from backendpool_async import BackendPool, Balancer, HealthChecks, HttpCheck
from backendpool_async.proxy import ReverseProxy

GZIP = b"Content-Encoding: GZip\r\n"
IDENTITY = b"Content-Encoding: identity\r\n"


@pytest.mark.parametrize("codings", [GZIP, IDENTITY + GZIP, GZIP + IDENTITY])
@pytest.mark.parametrize("unpacks", [True, False])
async def test_a_compressed_body_passes_as_it_is_or_not_at_all(
    unpacks: bool, codings: bytes
) -> None:
    body = gzip.compress(b"hello" * 1000)
    head = b"POST / HTTP/1.1\r\nHost: api\r\n%bContent-Length: %%d\r\n\r\n" % codings
    async with (
        echo_backend() as echo,
        proxied("aiohttp", echo.address, auto_decompress=unpacks) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(head % len(body) + body)
        answer = await read_answer(reader)
        if unpacks:
            assert answer.status == 415
            assert not echo.requests
        else:
            assert answer.status == 200
            assert echo.requests[0].body == body


@pytest.mark.parametrize("front", FRONTS)
async def test_other_bytes_than_ascii_pass_in_the_lines_of_an_answer(front: str) -> None:
    async def foreign(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        lines = b"X-Latin: caf\xe9\r\nX-Utf: caf\xc3\xa9\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%b\r\nok" % lines)
        await reader.read()

    async with raw_backend(foreign) as backend, proxied(front, backend.address) as place:
        answer = await exchange(
            place.address, b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
        )
    assert b": caf\xe9\r\n" in answer
    assert b": caf\xc3\xa9\r\n" in answer
    assert answer.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("target", [b"/api%2Fx", b"/%61pi%2fx/y"])
async def test_an_encoded_slash_does_not_end_the_prefix_of_a_mount(target: bytes) -> None:
    async with echo_backend() as echo:
        proxy = ReverseProxy(Balancer(BackendPool.static([echo.address])))
        app = Starlette(routes=[Mount("/api", proxy)])
        async with served_by_uvicorn(app) as place, proxy:
            request = b"GET %b HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
            assert (await exchange(place.address, request % target)).startswith(b"HTTP/1.1 400 ")
            assert not echo.requests
            assert b" 200 " in await exchange(place.address, request % b"/api/a%2Fb")
    assert [request.target for request in echo.requests] == ["/a%2Fb"]


@pytest.mark.parametrize("front", FRONTS)
async def test_nothing_is_read_after_an_answer_that_says_close(front: str) -> None:
    async with echo_backend() as echo, proxied(front, echo.address) as place:
        answers = await exchange(
            place.address,
            b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        assert answers.startswith(b"HTTP/1.1 400 ")
        assert answers.count(b"HTTP/1.1 ") == 1
        assert not echo.requests


@pytest.mark.parametrize("value", [b"a\xffb", b"a;b", b'"a"'])
async def test_a_subprotocol_that_is_no_token_is_refused(value: bytes) -> None:
    async with echo_backend() as echo, proxied("aiohttp", echo.address) as place:
        answer = await exchange(
            place.address,
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Protocol: %b\r\n\r\n" % value,
        )
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert not echo.requests


async def test_a_balancer_runs_though_its_pool_was_running() -> None:
    async with echo_backend() as echo:
        pool = BackendPool.static([echo.address])
        balancer = Balancer(pool, checks=HealthChecks(HttpCheck("/health"), interval=0.05))
        async with pool:
            assert not balancer.is_running
            async with ReverseProxy(balancer):
                assert balancer.is_running
                await servers.until(lambda: bool(echo.requests))
            assert not balancer.is_running


async def test_what_asgi_makes_optional_may_be_missing() -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async with echo_backend() as echo:
        proxy = ReverseProxy(Balancer(BackendPool.static([echo.address])))
        for more in ({}, {"scheme": "gopher"}):
            scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"api")]}
            await proxy({**scope, **more}, receive, send)
        await proxy.aclose()
        assert [request.value("x-forwarded-proto") for request in echo.requests] == ["http"] * 2
    assert sent[0]["status"] == 200
