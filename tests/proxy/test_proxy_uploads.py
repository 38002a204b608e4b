"""Bodies that are not taken, or not yet: their clients' messages, and leaving, are not missed."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
import servers
from backends import connected, echo_backend, raw_backend, read_head
from proxy_fronts import PARSERS, proxied

from backendpool_async import BackendPool, Balancer
from backendpool_async.proxy import BrokenOff, ProxyLimits, ReverseProxy
from backendpool_async.proxy.upstream import Upstream

Message = MutableMapping[str, Any]
LEFT: Message = {"type": "http.disconnect"}
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def ticking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers without an end, and reads no body."""
    await read_head(reader)
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket has it
    writer.write(STREAM)
    while not writer.transport.is_closing():
        writer.write(b"4\r\ntick\r\n")
        await asyncio.sleep(0.02)


class Client:
    """An ASGI server with one request, whose messages are put into it."""

    def __init__(self, *messages: Message) -> None:
        self.messages: asyncio.Queue[Message | Exception] = asyncio.Queue()
        for message in messages:
            self.messages.put_nowait(message)
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        message = await self.messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        await asyncio.sleep(0)


def piece(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def post(length: int | None, version: str = "1.1") -> Message:
    headers = [(b"host", b"api")]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    return {
        "type": "http",
        "method": "POST",
        "raw_path": b"/",
        "query_string": b"",
        "headers": headers,
        "client": ("192.0.2.1", 5),
        "scheme": "http",
        "http_version": version,
    }


def proxy_for(backend: str, **keywords: Any) -> ReverseProxy:
    return ReverseProxy(Balancer(BackendPool.static([backend])), **keywords)


@pytest.mark.parametrize("front", PARSERS)
async def test_a_client_leaves_whose_body_was_not_asked_for(front: str) -> None:
    async with raw_backend(ticking) as backend, proxied(front, backend.address) as place:
        async with connected(place.address) as (reader, writer):
            writer.write(
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
            )
            await reader.readuntil(b"tick")
        await servers.until(lambda: not place.in_flight())
        assert place.failures() == 0


@pytest.mark.parametrize("leaving", [LEFT, RuntimeError("the client left")])
async def test_a_client_leaves_while_its_backend_does_not_read(
    leaving: Message | Exception,
) -> None:
    async with raw_backend(ticking) as backend, proxy_for(backend.address) as proxy:
        client = Client(piece(b"x" * 50_000_000, more=True))
        exchanging = asyncio.create_task(proxy(post(100_000_000), client.receive, client.send))
        await servers.until(lambda: len(client.sent) > 3)
        client.messages.put_nowait(leaving)
        await asyncio.wait_for(exchanging, servers.PATIENCE)


async def test_a_client_that_still_sends_leaves_while_its_backend_does_not_read() -> None:
    limits = ProxyLimits(idle_timeout=0.3)
    many = [piece(b"x" * 50_000_000, more=True), *[piece(b"x", more=True)] * 20, LEFT]
    async with (
        raw_backend(ticking) as backend,
        proxy_for(backend.address, limits=limits) as proxy,
    ):
        client = Client(*many)
        async with asyncio.timeout(servers.PATIENCE):
            await proxy(post(100_000_000), client.receive, client.send)
        assert client.messages.empty()


async def test_a_client_is_asked_ahead_once_and_not_after_the_end() -> None:
    limits = ProxyLimits(total_timeout=1.3)
    async with (
        raw_backend(ticking) as backend,
        proxy_for(backend.address, limits=limits) as proxy,
    ):
        client = Client(piece(b"x" * 50_000_000, more=True))
        with pytest.raises(BrokenOff):
            await proxy(post(100_000_000), client.receive, client.send)
        client.messages.put_nowait(LEFT)
        await asyncio.sleep(0)
        assert client.messages.qsize() == 1


async def test_what_was_asked_for_ahead_arrives_in_its_place() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await servers.until(lambda: client.messages.qsize() == 1)
        body = await reader.readexactly(20_000_003)
        ends.append(body[-4:])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()

    ends: list[bytes] = []
    client = Client(piece(b"x" * 20_000_000, more=True), piece(b"a", more=True), piece(b"bc"))
    async with raw_backend(slow) as backend, proxy_for(backend.address) as proxy:
        await proxy(post(20_000_003), client.receive, client.send)
    assert ends == [b"xabc"]
    assert client.sent[-1]["body"] == b"ok"


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_body_is_kept_while_the_connection_is_made(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Upstream.connect

    async def slowly(*arguments: Any) -> Any:
        await asyncio.sleep(0.3)
        return await connect(*arguments)

    monkeypatch.setattr(Upstream, "connect", slowly)
    async with echo_backend() as echo, proxy_for(echo.address) as proxy:
        client = Client()
        later = asyncio.get_running_loop().call_later
        later(0.15, client.messages.put_nowait, piece(b"hel", more=True))
        later(0.2, client.messages.put_nowait, piece(b"lo"))
        async with asyncio.timeout(servers.PATIENCE):
            length = 5 if version == "1.1" else None
            await proxy(post(length, version), client.receive, client.send)
        assert client.sent[0]["status"] == 200
        assert echo.requests[0].body == b"hello"
