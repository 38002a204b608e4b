"""Exchanges that no server would have: what HTTP/2, middlewares and cancellation bring."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest
import servers
from backends import echo_backend, raw_backend, read_head
from backends_misbehaving import reset

from backendpool_async import BackendPool, Balancer
from backendpool_async.proxy import BrokenOff, ProxyLimits, ReverseProxy
from backendpool_async.proxy.complaints import Complaints
from backendpool_async.proxy.networks import Networks
from backendpool_async.proxy.upstream import Upstream
from backendpool_async.retries import Retries

Message = MutableMapping[str, Any]
EMPTY: Message = {"type": "http.request", "body": b"", "more_body": False}
LEFT: Message = {"type": "http.disconnect"}


class Client:
    """An ASGI server with one request; what it has no message for, it waits for."""

    def __init__(self, *messages: Message, fails_after: int | None = None) -> None:
        self.sent: list[Message] = []
        self._messages = list(messages)
        self._fails_after = fails_after

    async def receive(self) -> Message:
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop(0)

    async def send(self, message: Message) -> None:
        if self._fails_after is not None and len(self.sent) >= self._fails_after:
            raise OSError("the client left")
        self.sent.append(message)
        await asyncio.sleep(0)

    @property
    def left(self) -> int:
        """How many messages were not asked for."""
        return len(self._messages)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


def scope(
    path: bytes = b"/", method: str = "GET", version: str = "1.1", *headers: tuple[bytes, bytes]
) -> Message:
    return {
        "type": "http",
        "method": method,
        "raw_path": path,
        "query_string": b"",
        "headers": [(b"host", b"api"), *headers],
        "client": ("192.0.2.1", 5),
        "scheme": "http",
        "http_version": version,
    }


def proxy_for(*backends: str, **keywords: Any) -> ReverseProxy:
    return ReverseProxy(Balancer(BackendPool.static(list(backends))), **keywords)


def failures(proxy: ReverseProxy) -> int:
    return sum(each.failures for each in proxy._core.balancer.explain().backends)


def in_flight(proxy: ReverseProxy) -> int:
    return sum(each.in_flight for each in proxy._core.balancer.explain().backends)


def piece(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_request_of_http_2_need_not_say_that_it_has_a_body() -> None:
    async with echo_backend() as echo, proxy_for(echo.address) as proxy:
        client = Client(piece(b"hel", more=True), piece(b"lo"))
        await proxy(scope(b"/sink", "POST", "2"), client.receive, client.send)
        assert client.body == b"5"
        assert echo.requests[0].value("transfer-encoding") == "chunked"
        client = Client(EMPTY)
        await proxy(scope(b"/sink", "POST", "2"), client.receive, client.send)
        assert client.body == b"0"
        assert echo.requests[1].value("transfer-encoding") is None
        client = Client(LEFT)
        await proxy(scope(b"/sink", "POST", "2"), client.receive, client.send)
        assert not client.sent


async def test_a_refusal_in_http_2_has_no_line_of_http_1() -> None:
    async with proxy_for() as proxy:
        client = Client(EMPTY)
        await proxy(scope(b"bad", version="2"), client.receive, client.send)
        assert client.status == 400
        assert b"connection" not in dict(client.sent[0]["headers"])


@pytest.mark.parametrize("fails_after", [0, 1])
async def test_a_client_that_cannot_be_sent_to_has_left(fails_after: int) -> None:
    async with echo_backend() as echo, proxy_for(echo.address) as proxy:
        client = Client(EMPTY, fails_after=fails_after)
        await proxy(scope(), client.receive, client.send)
        assert failures(proxy) == 0
        assert in_flight(proxy) == 0
        client = Client(EMPTY, fails_after=fails_after)
        await proxy(scope(b"bad"), client.receive, client.send)


async def test_a_server_that_fails_to_send_is_told_so_and_nobody_is_to_blame() -> None:
    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise RuntimeError("a bug of the server")

    async with echo_backend() as echo, proxy_for(echo.address) as proxy:
        with pytest.raises(RuntimeError, match="a bug"):
            await proxy(scope(), Client(EMPTY).receive, send)
        assert failures(proxy) == 0
        assert in_flight(proxy) == 0


async def test_a_client_whose_messages_raise_has_left() -> None:
    async def receive() -> Message:
        raise ConnectionResetError("as a middleware of some framework")

    async with echo_backend() as echo, proxy_for(echo.address) as proxy:
        client = Client()
        await proxy(scope(b"/slow"), receive, client.send)
        length = (b"content-length", b"5")
        await proxy(scope(b"/sink", "POST", "1.1", length), receive, client.send)
        assert not client.sent
        assert failures(proxy) == 0
        await servers.until(lambda: not echo.running)


def answering(*lines: bytes) -> Callable[..., Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        for line in lines:
            writer.write(line + b"\r\n")
        await reader.read()

    return answer


@pytest.mark.parametrize(
    "lines",
    [
        (b"HTTP/1.1 600 Odd", b"Content-Length: 0", b""),
        (b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip, chunked", b"", b"0", b""),
        (b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked", b"", b"0", b""),
        (b"HTTP/1.1 200 OK", b"X: a\x01b", b"Content-Length: 0", b""),
        (b"HTTP/1.1 103 Early Hints", b"") * 40,
        (b"HTTP/1.1 100 Continue", b"") * 40,
    ],
    ids=repr,
)
async def test_an_answer_that_cannot_be_passed_on_is_a_failure(lines: tuple[bytes, ...]) -> None:
    async with raw_backend(answering(*lines)) as backend, proxy_for(backend.address) as proxy:
        client = Client(EMPTY)
        await proxy(scope(), client.receive, client.send)
        assert client.status == 502
        assert client.body == b"502 bad gateway: the backend's answer is malformed\n"
        assert failures(proxy) == 1


async def test_an_answer_that_is_idle_is_broken_off_by_an_exception() -> None:
    limits = ProxyLimits(idle_timeout=0.1)
    async with echo_backend() as echo, proxy_for(echo.address, limits=limits) as proxy:
        client = Client(EMPTY)
        with pytest.raises(BrokenOff, match="nothing moved"):
            await proxy(scope(b"/stream"), client.receive, client.send)
        assert len(client.sent) == 1


async def test_a_backend_that_stops_reading_a_body_is_to_blame() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket has it
        await asyncio.sleep(3600)

    limits = ProxyLimits(idle_timeout=0.3)
    async with raw_backend(deaf) as backend, proxy_for(backend.address, limits=limits) as proxy:
        client = Client(*[piece(b"x" * 1_000_000, more=True) for _ in range(50)])
        length = (b"content-length", b"100000000")
        await proxy(scope(b"/", "POST", "1.1", length), client.receive, client.send)
        assert client.status == 504
        assert failures(proxy) == 1
        # It was not asked for what nobody takes.
        assert client.left > 20


@pytest.mark.parametrize("answered", [False, True])
async def test_no_connection_is_left_to_a_backend_that_never_reads(
    answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Upstream.connect
    used: list[socket.socket] = []

    async def noted(*arguments: Any) -> Any:
        connection, protocol = await connect(*arguments)
        assert protocol.transport is not None
        used.append(protocol.transport.get_extra_info("socket"))
        return connection, protocol

    monkeypatch.setattr(Upstream, "connect", noted)

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket has it
        if answered:
            await asyncio.sleep(0.1)
            writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(3600)

    limits = ProxyLimits(idle_timeout=0.3)
    async with raw_backend(deaf) as backend, proxy_for(backend.address, limits=limits) as proxy:
        client = Client(*[piece(b"x" * 1_000_000, more=True) for _ in range(50)])
        length = (b"content-length", b"100000000")
        await proxy(scope(b"/", "POST", "1.1", length), client.receive, client.send)
        assert client.status == (413 if answered else 504)
        await proxy.aclose()
        await servers.until(lambda: [each.fileno() for each in used] == [-1])


async def test_a_client_that_does_not_say_whether_it_has_a_body_is_not_waited_for() -> None:
    limits = ProxyLimits(total_timeout=0.1)
    async with proxy_for(limits=limits) as proxy:
        client = Client()
        await proxy(scope(b"/", "POST", "2"), client.receive, client.send)
        assert client.status == 408


async def test_a_backend_that_resets_while_a_body_is_sent_broke_off() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket has it
        await asyncio.sleep(0.2)
        reset(writer)

    async with raw_backend(deaf) as backend, proxy_for(backend.address) as proxy:
        client = Client(*[piece(b"x" * 1_000_000, more=True) for _ in range(50)])
        length = (b"content-length", b"100000000")
        await proxy(scope(b"/", "POST", "1.1", length), client.receive, client.send)
        assert client.body == b"502 bad gateway: the backend broke off\n"
        assert failures(proxy) == 1


async def test_a_connection_on_which_a_body_was_not_sent_to_its_end_is_not_used_again() -> None:
    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()

    async with raw_backend(hasty) as backend, proxy_for(backend.address) as proxy:
        for _ in range(2):
            client = Client(piece(b"hel", more=True))
            length = (b"content-length", b"5")
            await proxy(scope(b"/", "POST", "1.1", length), client.receive, client.send)
            assert client.body == b"ok"
        assert backend.accepted == 2


async def test_an_exchange_that_is_over_asks_its_client_for_nothing_more() -> None:
    async with echo_backend() as echo, proxy_for(echo.address) as proxy:
        client = Client(EMPTY)
        await proxy(scope(), client.receive, client.send)
        await asyncio.sleep(0.15)
        # What is short has no task that waits for the client to leave.
        assert client.left == 1


async def test_a_body_goes_nowhere_once_its_answer_has_come_and_the_backend_closed() -> None:
    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    taken, gone = asyncio.Event(), asyncio.Event()
    sent: list[Message] = []
    messages = [piece(b"x" * 100_000, more=True) for _ in range(3)]

    async def receive() -> Message:
        await gone.wait()
        if len(messages) == 1:
            taken.set()
        return messages.pop()

    async def send(message: Message) -> None:
        # A client that takes its time.
        await servers.until(lambda: not backend.open)
        gone.set()
        await taken.wait()
        sent.append(message)

    async with raw_backend(hasty) as backend, proxy_for(backend.address) as proxy:
        length = (b"content-length", b"100000000")
        exchanging = proxy(scope(b"/", "POST", "1.1", length), receive, send)
        taken_anyway = asyncio.get_running_loop().call_later(0.3, taken.set)
        await exchanging
        taken_anyway.cancel()
        assert sent[-1]["body"] == b"ok"
        assert failures(proxy) == 0


async def test_an_answer_to_a_body_that_was_not_asked_for_is_the_same_in_http_2() -> None:
    answer = answering(b"HTTP/1.1 401 Unauthorized", b"Content-Length: 0", b"")
    headers = [(b"content-length", b"5"), (b"expect", b"100-continue")]
    async with raw_backend(answer) as backend, proxy_for(backend.address) as proxy:
        client = Client()
        await proxy(scope(b"/", "POST", "2", *headers), client.receive, client.send)
        assert client.status == 401
        assert b"connection" not in dict(client.sent[0]["headers"])


async def test_a_backend_that_says_100_unasked_is_not_minded() -> None:
    async def eager(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()

    async with raw_backend(eager) as backend, proxy_for(backend.address) as proxy:
        client = Client(piece(b"hello"))
        length = (b"content-length", b"5")
        await proxy(scope(b"/", "POST", "1.1", length), client.receive, client.send)
        assert client.body == b"ok"


CASES: dict[str, tuple[Message, list[Message]]] = {
    "get": (scope(b"/chunked/200000"), [EMPTY]),
    "post": (
        scope(b"/upload", "POST", "1.1", (b"content-length", b"200000")),
        [piece(b"x" * 100_000, more=True), piece(b"x" * 100_000)],
    ),
    "expect": (
        scope(b"/sink", "POST", "1.1", (b"content-length", b"5"), (b"expect", b"100-continue")),
        [piece(b"hello")],
    ),
}


async def careful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await read_head(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.mark.parametrize("case", CASES)
async def test_a_cancellation_at_any_point_leaves_nothing(case: str) -> None:
    asked, messages = CASES[case]
    async with echo_backend() as echo, raw_backend(careful) as raw:
        proxy = proxy_for(raw.address if case == "expect" else echo.address)
        for steps in range(10_000):
            client = Client(*messages)
            exchanging = asyncio.create_task(proxy(asked, client.receive, client.send))
            for _ in range(steps):
                await asyncio.sleep(0)
            if exchanging.done():
                break
            exchanging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exchanging
            assert in_flight(proxy) == 0
            assert proxy.in_flight == 0
            assert not proxy._core.upstream()._connector._acquired
        assert client.status == 200
        assert steps > 10
        assert failures(proxy) == 0
        await proxy.aclose()
        await servers.until(lambda: not echo.running)


ENDLESS = b"HTTP/1.1 200 OK\r\n\r\nhel"
UNFINISHED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"


@pytest.mark.parametrize("said", [b"", ENDLESS, UNFINISHED])
async def test_a_proxy_that_is_closed_under_a_request_blames_nobody(said: bytes) -> None:
    asked = asyncio.Event()

    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(said)
        asked.set()
        await reader.read()

    async with (
        raw_backend(says) as backend,
        echo_backend() as other,
        proxy_for(backend.address, retries=Retries(idempotent=True)) as proxy,
    ):
        client = Client(EMPTY)
        exchanging = asyncio.create_task(proxy(scope(), client.receive, client.send))
        await asked.wait()
        proxy._core.balancer.pool.update([backend.address, other.address])
        if said:
            await servers.until(lambda: client.body == b"hel")
        await proxy.aclose()
        if said:
            with pytest.raises(BrokenOff, match="closing"):
                await exchanging
        else:
            await exchanging
            assert client.status == 503
            assert b"retry-after" in dict(client.sent[0]["headers"])
        assert (failures(proxy), in_flight(proxy)) == (0, 0)
        assert not other.requests


def test_trouble_is_said_again_after_a_while_with_how_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "backendpool_async")
    now = 0.0
    complaints = Complaints(clock=lambda: now)
    for _ in range(3):
        complaints.complain("a:1", "it broke", ValueError("x\ny"))
    now = 11.0
    complaints.complain("a:1", "it broke", None)
    assert caplog.messages == [
        "proxy: a:1: it broke: ValueError: 'x\\ny'",
        "proxy: a:1: it broke (and 2 times more since it was last said)",
    ]
    caplog.clear()
    for number in range(2000):
        complaints.complain(f"b:{number}", "it broke", None)
    assert len(caplog.messages) == 2000
    assert len(complaints._last) <= 1024


def test_networks_know_addresses_only() -> None:
    networks = Networks("allow_networks", ["10.0.0.0/8", "2001:db8::/32"])
    for inside in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "2001:db8::1%eth0"):
        assert inside in networks
    for outside in ("11.1.2.3", "2001:db9::1", "localhost", "", None):
        assert outside not in networks
    for number in range(5000):
        assert f"10.0.{number // 256}.{number % 256}" in networks
    assert len(networks._known) <= 4096
    assert repr(networks) == "[10.0.0.0/8, 2001:db8::/32]"
