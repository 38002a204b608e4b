"""What the proxy takes of its clients and of backends, and no more."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
from collections.abc import MutableMapping
from typing import Any

import pytest
import servers
from backends import (
    MISBEHAVIOURS,
    connected,
    echo_backend,
    exchange,
    raw_backend,
    read_answer,
    read_head,
)
from proxy_fronts import FRONTS, proxied

from backendpool_async import BackendPool, Balancer
from backendpool_async.proxy import ProxyLimits, ReverseProxy

each_front = pytest.mark.parametrize("front", FRONTS)
GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
MIB = 1024 * 1024


@each_front
async def test_a_body_that_is_announced_too_long_is_not_asked_for(front: str) -> None:
    limits = ProxyLimits(body_size=10)
    async with (
        echo_backend() as echo,
        proxied(front, echo.address, limits=limits) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 11\r\n\r\nhello world")
        answer = await read_answer(reader)
    assert answer.status == 413
    assert not echo.requests


@each_front
async def test_a_body_that_turns_out_too_long_is_refused(front: str) -> None:
    limits = ProxyLimits(body_size=10)
    async with (
        echo_backend() as echo,
        proxied(front, echo.address, limits=limits) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"6\r\nhello \r\n")
        await servers.until(lambda: len(echo.requests) == 1)
        writer.write(b"5\r\nworld\r\n")
        assert (await read_answer(reader)).status == 413
        await servers.until(lambda: not place.in_flight())
        assert place.failures() == 0
        # The backend saw it break off, and did not take it for whole.
        await servers.until(lambda: echo.requests[0].state != "running")
        assert echo.requests[0].state != "answered"


async def test_a_body_that_is_refused_in_the_middle_of_its_answer_breaks_that_off() -> None:
    limits = ProxyLimits(body_size=8)
    async with (
        echo_backend() as echo,
        proxied("uvicorn", echo.address, limits=limits) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"POST /upload HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"5\r\nhello\r\n")
        await reader.readuntil(b"hello\r\n")
        writer.write(b"5\r\nworld\r\n")
        assert await reader.read() == b""


async def test_the_body_is_as_long_as_it_was_announced() -> None:
    # No server lets another through; a middleware before the proxy may.
    async def asked(*pieces: bytes) -> int:
        messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        messages[-1]["more_body"] = False
        sent: list[MutableMapping[str, Any]] = []
        incoming = iter(messages)

        async def receive() -> MutableMapping[str, Any]:
            return next(incoming)

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        headers = [(b"host", b"api"), (b"content-length", b"5")]
        scope = {
            "type": "http", "method": "POST", "raw_path": b"/sink", "query_string": b"",
            "headers": headers, "client": None, "scheme": "http", "http_version": "1.1",
        }  # fmt: skip
        await proxy(scope, receive, send)
        status: int = sent[0]["status"]
        return status

    async with echo_backend() as echo:
        proxy = ReverseProxy(Balancer(BackendPool.static([echo.address])))
        async with proxy:
            assert await asked(b"he", b"llo") == 200
            assert await asked(b"hell") == 400
            assert await asked(b"hello ", b"world") == 400


async def test_header_lines_of_an_answer_are_limited_by_size_and_not_by_number() -> None:
    async def many(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            lines = int(head.split(b" ")[1][1:])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n")
            writer.write(b"x: y\r\n" * lines + b"\r\nok")

    async with raw_backend(many) as backend, proxied("uvicorn", backend.address) as place:
        for lines, status in ((500, 200), (10_000, 200), (20_000, 502)):
            async with connected(place.address) as (reader, writer):
                writer.write(b"GET /%d HTTP/1.1\r\nHost: api\r\n\r\n" % lines)
                # Longer than what the reader of a test takes at once.
                status_line = await reader.readline()
            assert status_line.startswith(b"HTTP/1.1 %d " % status), lines
        assert place.failures() == 1


async def test_a_head_without_an_end_is_not_kept_for_long() -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: " + b"a" * 60_000 + b"\r\n")
            await writer.drain()
            sent += 60_000

    async with raw_backend(endless) as backend, proxied("uvicorn", backend.address) as place:
        answer = await exchange(
            place.address, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        assert answer.startswith(b"HTTP/1.1 502 ")
        await servers.until(lambda: not backend.open)
        assert place.failures() == 1
        # What the kernel holds, and a little of ours.
        assert sent < 20 * MIB


@each_front
async def test_more_requests_than_allowed_at_once_are_refused(front: str) -> None:
    limits = ProxyLimits(concurrent_requests=1)
    async with (
        echo_backend() as echo,
        proxied(front, echo.address, limits=limits) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"GET /slow HTTP/1.1\r\nHost: api\r\n\r\n")
        await servers.until(lambda: place.proxy.in_flight == 1)
        refused = await exchange(
            place.address, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in refused
        echo.release.set()
        assert (await read_answer(reader)).status == 200
        assert place.proxy.in_flight == 0


@each_front
async def test_a_client_that_sends_no_more_of_its_body_is_told_so(front: str) -> None:
    limits = ProxyLimits(idle_timeout=0.3)
    async with (
        echo_backend() as echo,
        proxied(front, echo.address, limits=limits) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\nhello")
        answer = await read_answer(reader)
        assert (answer.status, answer.value("connection")) == (408, "close")
        assert place.failures() == 0


@each_front
async def test_an_answer_in_which_nothing_moves_is_broken_off(front: str) -> None:
    limits = ProxyLimits(idle_timeout=0.3)
    async with (
        echo_backend() as echo,
        proxied(front, echo.address, limits=limits) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"GET /stream HTTP/1.1\r\nHost: api\r\n\r\n")
        # What moves now and then is not idle.
        for _ in range(3):
            await echo.chunks.put(b"more")
            await asyncio.wait_for(reader.readuntil(b"more"), 5)
            await asyncio.sleep(0.15)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readuntil(b"0\r\n\r\n")
        await servers.until(lambda: place.failures() == 1)


async def test_an_exchange_has_an_end_even_if_something_moves() -> None:
    limits = ProxyLimits(total_timeout=0.4)
    async with (
        raw_backend(MISBEHAVIOURS["drips"]) as backend,
        proxied("uvicorn", backend.address, limits=limits) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(GET)
        head = await read_head(reader)
        assert b"content-length: 1000000" in head
        assert len(await reader.read(-1)) < 100
        assert place.in_flight() == 0
    async with (
        raw_backend(MISBEHAVIOURS["silent"]) as backend,
        proxied("uvicorn", backend.address, limits=limits) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(GET)
        answer = await read_answer(reader)
        assert answer.body == b"504 gateway timeout: it took too long\n"


async def test_a_client_that_takes_nothing_is_no_failure_of_the_backend() -> None:
    limits = ProxyLimits(idle_timeout=0.3)
    async with (
        echo_backend() as echo,
        proxied("uvicorn", echo.address, limits=limits) as place,
        connected(place.address) as (_, writer),
    ):
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket has it
        writer.write(b"GET /bytes/50000000 HTTP/1.1\r\nHost: api\r\n\r\n")
        await servers.until(lambda: place.in_flight() == 1)
        await servers.until(lambda: place.in_flight() == 0)
        assert place.failures() == 0


async def test_a_connection_that_does_not_come_about_in_time_is_504() -> None:
    limits = ProxyLimits(connect_timeout=0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = "{}:{}".format(*server.getsockname())
        async with (
            proxied("uvicorn", address, limits=limits) as place,
            # Whom nobody accepts fills the backlog, and the next one waits for its turn.
            connected(address),
            connected(place.address) as (reader, writer),
        ):
            writer.write(GET)
            answer = await read_answer(reader)
            assert answer.body == b"504 gateway timeout: no connection to the backend in time\n"
            assert place.failures() == 1


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@each_front
async def test_bodies_pass_without_being_gathered(front: str) -> None:
    size = 64 * MIB
    piece = b"x" * 65536
    async with (
        echo_backend() as echo,
        proxied(front, echo.address) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"POST /sink HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % size)
        gc.collect()
        before = most = resident()
        for _ in range(0, size, len(piece)):
            writer.write(piece)
            await writer.drain()
            most = max(most, resident())
        assert (await read_answer(reader)).body == b"%d" % size
        writer.write(b"GET /bytes/%d HTTP/1.1\r\nHost: api\r\n\r\n" % size)
        head = await read_head(reader)
        assert b"content-length: %d" % size in head
        left = size
        while left:
            left -= len(await reader.read(65536))
            most = max(most, resident())
    # Client, proxy and backend are one process here.
    assert most - before < 20 * MIB


async def test_who_does_not_read_stops_who_sends() -> None:
    sent = 0

    async def generous(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with (
        raw_backend(generous) as backend,
        proxied("uvicorn", backend.address) as place,
        connected(place.address) as (_, writer),
    ):
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket has it
        writer.write(GET)
        before = -1
        while sent != before or not sent:
            before = sent
            await asyncio.sleep(0.2)
        # What the kernel holds on both ways, and a little of ours.
        assert sent < 40 * MIB


@pytest.mark.parametrize(
    "keywords",
    [
        {"header_size": 0},
        {"body_size": 0},
        {"message_size": 0},
        {"connect_timeout": 0},
        {"idle_timeout": float("inf")},
        {"idle_timeout": None},
        {"total_timeout": -1},
        {"concurrent_requests": 1.5},
    ],
    ids=repr,
)
def test_a_limit_out_of_range_is_refused(keywords: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(keywords))):
        ProxyLimits(**keywords)


@pytest.mark.parametrize(
    "keywords",
    [
        {"host": ""},
        {"host": "a b"},
        {"host": 5},
        {"trusted_proxies": "10.0.0.0/8"},
        {"trusted_proxies": [5]},
        {"trusted_proxies": ["10.0.0.1/8"]},
        {"allow_networks": ["all"]},
        {"limits": 5},
        {"retries": 5},
        {"failure_statuses": [99]},
        {"failure_statuses": ["503"]},
        {"via": ""},
        {"via": "a b"},
        {"via": 5},
        {"retry_after": 0},
        {"tls": True},
        {"tls_name": "api.internal"},
        {"tls_name": 5, "tls": ssl.create_default_context()},
        {"tls_name": "", "tls": ssl.create_default_context()},
        {"tls_name": "a b", "tls": ssl.create_default_context()},
        {"key": 5},
    ],
    ids=repr,
)
def test_a_keyword_out_of_range_is_refused(keywords: dict[str, Any]) -> None:
    balancer = Balancer(BackendPool.static(["10.0.0.1:80"]))
    with pytest.raises((TypeError, ValueError), match=next(iter(keywords))):
        ReverseProxy(balancer, **keywords)


def test_a_proxy_is_for_a_balancer() -> None:
    with pytest.raises(TypeError, match="Balancer"):
        ReverseProxy(BackendPool.static(["10.0.0.1:80"]))  # type: ignore[arg-type]  # as a mistake


def test_all_keywords_together_are_taken() -> None:
    balancer = Balancer(BackendPool.static(["10.0.0.1:80"]))
    context = ssl.create_default_context()
    proxy = ReverseProxy(balancer, host="shop:8080", tls=context, allow_networks=["::/0"])
    assert repr(proxy) == f"<ReverseProxy of {balancer!r}>"
