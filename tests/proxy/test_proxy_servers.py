"""What the servers and frameworks around the proxy do to requests before it has them."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import MutableMapping
from typing import Any

import pytest
import servers
from backends import connected, echo_backend, exchange, read_answer
from proxy_fronts import FRONTS, proxied

from backendpool_async import BackendPool, Balancer, HealthChecks, HttpCheck
from backendpool_async.proxy import ReverseProxy


@pytest.mark.parametrize("unpacks", [True, False])
async def test_a_compressed_body_passes_as_it_is_or_not_at_all(unpacks: bool) -> None:
    body = gzip.compress(b"hello" * 1000)
    head = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Encoding: GZip\r\nContent-Length: %d\r\n\r\n"
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
