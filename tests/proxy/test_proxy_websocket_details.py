"""WebSockets through the proxy: what backends and servers get wrong, and rare moments."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any
from unittest import mock

import aiohttp
import pytest
from aiohttp.http import HttpProcessingError
from backends import (
    MISBEHAVIOURS,
    certificates,
    connected,
    echo_backend,
    raw_backend,
    read_answer,
    read_head,
)
from servers import until
from test_proxy_websocket_messages import HANDSHAKE
from websocket_fronts import backend, client_of, closed, fronted
from websockets.asyncio.server import ServerConnection
from websockets.utils import accept_key

from backendpool_async import BackendPool, Balancer, Candidate, Chooser
from backendpool_async.proxy import ProxyLimits, ProxyRequest, ReverseProxy
from backendpool_async.proxy.guard import OutsideNetworks
from backendpool_async.proxy.unanswered import unanswered
from backendpool_async.proxy.websocket_backend import BackendSocket
from backendpool_async.retries import Retries

SERVER = "uvicorn-websockets"
SCOPE = {
    "type": "websocket",
    "path": "/",
    "query_string": b"",
    "headers": [(b"host", b"api.test")],
    "client": ("192.0.2.1", 1),
    "scheme": "ws",
    "http_version": "1.1",
}


def switching(head: bytes, more: str = "") -> bytes:
    """The 101 that answers a handshake; `more` lines of it."""
    lines = head.decode("latin-1").split("\r\n")
    (key,) = [line.partition(": ")[2] for line in lines if line.startswith("Sec-WebSocket-Key")]
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\n{more}\r\n"
    ).encode()


async def test_websockets_to_backends_go_over_tls_too() -> None:
    client_tls = certificates().client()
    async with (
        echo_backend(tls=certificates().server("api.internal")) as echo,
        fronted(SERVER, echo.address, tls=client_tls, tls_name="api.internal") as front,
        client_of(front, "/ws") as client,
    ):
        await client.send("hello")
        assert await client.recv() == "hello"


async def test_words_that_come_with_the_101_are_not_lost() -> None:
    async def speaks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(switching(await read_head(reader)) + b"\x81\x05hello")
        await reader.read(1)

    async with (
        raw_backend(speaks_first) as eager,
        fronted(SERVER, eager.address) as front,
        client_of(front) as client,
    ):
        assert await client.recv() == "hello"


async def test_the_length_of_a_101_is_not_passed_on() -> None:
    async def says_a_length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(switching(await read_head(reader), "Content-Length: 0\r\nX-Of: backend\r\n"))
        await reader.read(1)

    async with (
        raw_backend(says_a_length) as backend,
        fronted(SERVER, backend.address) as front,
        client_of(front) as client,
    ):
        assert client.response is not None
        assert client.response.headers["X-Of"] == "backend"
        assert "Content-Length" not in client.response.headers


@pytest.mark.parametrize(
    "name",
    [
        "closes_at_once",
        "closes_after_request",
        "resets_after_request",
        "resets_mid_header",
        "malformed_status",
        "no_http",
        "huge_header",
        "endless_headers",
        "switches_unasked",
        "bad_chunk_size",
        "too_short",
    ],
)
async def test_a_backend_that_misbehaves_in_the_handshake_is_502(name: str) -> None:
    async with (
        raw_backend(MISBEHAVIOURS[name]) as bad,
        fronted(SERVER, bad.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        assert (await read_answer(reader)).status == 502
        await until(lambda: front.state().in_flight == 0)
        assert front.state().failures == 1


async def test_interim_answers_are_passed_over() -> None:
    async def informs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        for byte in (interim * 16 + switching(head)).partition(b"Upgrade")[0]:
            writer.write(bytes([byte]))
            await writer.drain()
        writer.write(switching(head).partition(b"Protocols\r\n")[2] + b"\x81\x05hello")
        await reader.read(1)

    async with (
        raw_backend(informs) as informing,
        fronted(SERVER, informing.address) as front,
        client_of(front) as client,
    ):
        assert await client.recv() == "hello"
        assert front.state().failures == 0


async def test_a_refusal_after_an_interim_answer_is_the_client_s() -> None:
    async with (
        raw_backend(MISBEHAVIOURS["informs_first"]) as informing,
        fronted(SERVER, informing.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        answer = await read_answer(reader)
        assert (answer.status, answer.body) == (200, b"ok")


@pytest.mark.parametrize(
    "informs",
    [
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 33,
        b"HTTP/1.1 103 Early Hints\r\nX: " + b"a" * 200_000,
        b"HTTP/1.1 1030 Odd\r\n\r\n",
        b"SSH-2.0\r\n",
        b"\r\n",
    ],
)
async def test_endless_interim_answers_and_nonsense_are_502(informs: bytes) -> None:
    async def informs_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(informs)
        await reader.read()

    async with (
        raw_backend(informs_only) as bad,
        fronted(SERVER, bad.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        async with asyncio.timeout(10):
            assert (await read_answer(reader)).status == 502
        await until(lambda: front.state().failures == 1)


@pytest.mark.parametrize(
    ("offered", "status"),
    [
        (["a\r\nX: y"], 400),
        (["chat", "a b"], 400),
        (["ch\xe4t"], 400),
        (["a\udcff"], 400),
        (["", "chat", ""], 101),
    ],
)
async def test_subprotocols_are_tokens_whatever_a_server_lets_through(
    offered: list[str], status: int
) -> None:
    said: list[Mapping[str, Any]] = []
    coming = [{"type": "websocket.connect"}]
    answered = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if coming:
            return coming.pop()
        await answered.wait()
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)
        answered.set()

    scope = {**SCOPE, "subprotocols": offered, "extensions": {"websocket.http.response": {}}}
    heads = []

    async def chats(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_head(reader))
        writer.write(switching(heads[0], "Sec-WebSocket-Protocol: chat\r\n"))
        await reader.read()

    async with (
        raw_backend(chats) as chatty,
        ReverseProxy(Balancer(BackendPool.static([chatty.address]))) as proxy,
    ):
        await proxy(scope, receive, send)
    assert [b"Sec-WebSocket-Protocol: chat\r\n" in head for head in heads] == [True] * (
        status == 101
    )
    assert said[0].get("status", 101) == status
    assert said[0].get("subprotocol") == ("chat" if status == 101 else None)


async def test_a_wrong_proof_of_the_handshake_is_502() -> None:
    async def lies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = switching(await read_head(reader))
        writer.write(answer.replace(b"Accept: ", b"Accept: x"))
        await reader.read()

    async with (
        raw_backend(lies) as bad,
        fronted(SERVER, bad.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        assert (await read_answer(reader)).status == 502


async def test_a_refusal_that_cannot_be_passed_on_is_502() -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(
            b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        await reader.read()

    async with (
        raw_backend(refuses) as bad,
        fronted(SERVER, bad.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        assert (await read_answer(reader)).status == 502
        await until(lambda: front.state().failures == 1)


async def test_a_refusal_without_a_body_has_none() -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 204 Nothing\r\n\r\n")
        await reader.read()

    async with (
        raw_backend(refuses) as bad,
        fronted("hypercorn", bad.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        answer = await read_answer(reader)
        assert (answer.status, answer.value("Content-Length")) == (204, None)


async def test_a_silent_backend_is_504() -> None:
    limits = ProxyLimits(idle_timeout=0.1)
    async with (
        raw_backend(MISBEHAVIOURS["silent"]) as silent,
        fronted(SERVER, silent.address, limits=limits) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        assert (await read_answer(reader)).status == 504
        assert front.state().failures == 1


async def test_a_handshake_that_broke_off_is_tried_elsewhere_if_asked_for() -> None:
    retries = Retries(idempotent=True, statuses={503})

    async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    async with (
        raw_backend(MISBEHAVIOURS["closes_after_request"]) as closes,
        raw_backend(busy) as refuses,
        backend() as echo,
        fronted(SERVER, closes.address, refuses.address, echo.address, retries=retries) as front,
    ):
        for _ in range(3):
            async with client_of(front) as client:
                await client.send("here")
                assert await client.recv() == "here"
        assert front.balancer.explain().retries >= 2


@pytest.mark.parametrize(
    ("setting", "host"), [("preserve", "client"), ("backend", "backend"), ("a.test", "a.test")]
)
async def test_the_backend_gets_the_host_that_it_is_to_get(setting: str, host: str) -> None:
    async with (
        backend() as echo,
        fronted(SERVER, echo.address, host=setting) as front,
        client_of(front),
    ):
        request = echo.connections[0].request
        assert request is not None
        expected = {"client": front.address, "backend": echo.address}.get(host, host)
        assert request.headers["Host"] == expected


async def test_a_malformed_request_is_refused() -> None:
    async with fronted("hypercorn") as front, connected(front.address) as (reader, writer):
        writer.write((HANDSHAKE % b"/").replace(b"Host:", b"X-A: \x01\r\nHost:"))
        assert (await read_answer(reader)).status == 400


async def test_it_is_hashed_like_any_request() -> None:
    keys: list[str | None] = []

    class Noting:
        def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
            def choose(key: str | None) -> Candidate:
                keys.append(key)
                return candidates[0]

            return choose

    def key(request: ProxyRequest) -> str:
        return request.target.decode()

    async with (
        backend() as echo,
        fronted(SERVER, echo.address, key=key, policy=Noting()) as front,
        client_of(front, "/a?b"),
    ):
        assert keys == ["/a?b"]


async def test_a_server_without_the_extension_refuses_in_its_own_way() -> None:
    said: list[Mapping[str, Any]] = []
    coming = [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        if coming:
            return coming.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    async with ReverseProxy(Balancer(BackendPool.static([]))) as proxy:
        await proxy(dict(SCOPE), receive, send)
    assert [message["type"] for message in said] == ["websocket.close"]


@pytest.mark.parametrize("moment", ["handshake", "accept", "send", "receive"])
async def test_a_server_that_raises_when_the_client_left_says_just_that(moment: str) -> None:
    coming = [{"type": "websocket.connect"}]
    accepted = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if coming:
            return coming.pop()
        if moment == "handshake":
            raise ConnectionResetError
        await accepted.wait()
        if moment == "receive":
            raise ConnectionResetError
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        accepted.set()
        if message["type"].endswith(moment):
            raise ConnectionResetError

    async def greets(connection: ServerConnection) -> None:
        await connection.send("hello")
        await connection.wait_closed()

    async with backend(greets) as talks:
        balancer = Balancer(BackendPool.static([talks.address]))
        async with ReverseProxy(balancer) as proxy:
            await proxy(dict(SCOPE), receive, send)
        await until(lambda: not talks.connections)
        (state,) = balancer.explain().backends
        assert (state.in_flight, state.failures) == (0, 0)


async def test_a_cancellation_waits_for_no_backend_that_reads_nothing() -> None:
    coming = [{"type": "websocket.connect"}]
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        if coming:
            return coming.pop()
        taken += 1
        return {"type": "websocket.receive", "bytes": b"x" * 2**20}

    async def send(message: MutableMapping[str, Any]) -> None:
        assert message["type"] == "websocket.accept"

    async def reads_nothing(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await ended.wait()
        connection.transport.abort()

    ended = asyncio.Event()
    async with backend(reads_nothing) as slow:
        async with ReverseProxy(Balancer(BackendPool.static([slow.address]))) as proxy:
            serving = asyncio.create_task(proxy(dict(SCOPE), receive, send))
            before = -1
            while taken != before:
                before = taken
                await asyncio.sleep(0.2)
            serving.cancel()
            await asyncio.wait({serving}, timeout=1)
            assert serving.cancelled()
        ended.set()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OutsideNetworks("10.0.0.1"), 503),
        (aiohttp.ConnectionTimeoutError(), 504),
        (TimeoutError(), 504),
        (HttpProcessingError(), 502),
        (aiohttp.ServerDisconnectedError(), 502),
        (aiohttp.ClientConnectorError(mock.Mock(), OSError()), 502),
    ],
)
def test_what_a_client_is_told_depends_on_what_went_wrong(error: Exception, status: int) -> None:
    wrapped = OSError("somewhere")
    wrapped.__cause__ = error
    assert unanswered(error, 1).status == status
    assert unanswered(wrapped, 1).status == (503 if status == 503 else 502)


async def test_a_connection_that_was_lost_before_its_use_is_an_error_of_the_network() -> None:
    class Lost:
        protocol = transport = None
        is_closed = False

        def close(self) -> None:
            self.is_closed = True

    lost = Lost()
    with pytest.raises(ConnectionResetError):
        BackendSocket(lost, (), 1)  # type: ignore[arg-type]  # as much of a connection as matters
    assert lost.is_closed


async def test_a_proxy_that_is_closed_during_a_handshake_blames_nobody() -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        asked.set()
        await reader.read()

    async with (
        raw_backend(silent) as backend,
        fronted(SERVER, backend.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        await asked.wait()
        await front.proxy.aclose()
        assert (await read_answer(reader)).status == 503
        assert front.state().failures == 0


async def test_a_proxy_that_is_closed_ends_the_websockets_that_it_has() -> None:
    async with (
        backend() as echo,
        fronted(SERVER, echo.address) as front,
        client_of(front) as client,
    ):
        async with asyncio.timeout(10):
            await front.proxy.aclose()
        assert (await closed(client))[0] == 1001
        await until(lambda: front.state().requests == 1)
        assert front.state().failures == 0
