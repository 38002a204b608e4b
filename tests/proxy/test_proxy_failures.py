"""Backends that fail, clients that leave: who sees what, and who is to blame."""

from __future__ import annotations

import asyncio
import logging

import pytest
import servers
from backends import (
    MISBEHAVIOURS,
    Answer,
    connected,
    echo_backend,
    exchange,
    raw_backend,
    read_answer,
    read_head,
)
from backends_misbehaving import reset
from backends_raw import Handler
from proxy_fronts import FRONTS, Proxied, proxied, served

from backendpool_async import BackendPool, Balancer
from backendpool_async.proxy import ProxyLimits, ReverseProxy
from backendpool_async.retries import Retries, RetryBudget

each_front = pytest.mark.parametrize("front", FRONTS)
GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
QUICK = ProxyLimits(idle_timeout=0.3, connect_timeout=0.3)

# What a backend does, and what the client is told.
ANSWERED = {
    "silent": (504, "nothing moved for too long"),
    "deaf": (504, "nothing moved for too long"),
    "drips_header": (504, "nothing moved for too long"),
    "closes_at_once": (502, "the backend broke off"),
    "closes_after_request": (502, "the backend broke off"),
    "resets_after_request": (502, "the backend broke off"),
    "resets_mid_header": (502, "the backend broke off"),
    "huge_header": (502, "the backend's answer is malformed"),
    "endless_headers": (502, "the backend's answer is malformed"),
    "malformed_status": (502, "the backend's answer is malformed"),
    "no_http": (502, "the backend's answer is malformed"),
    "length_and_chunked": (502, "the backend's answer is malformed"),
    "two_lengths": (502, "the backend's answer is malformed"),
    "switches_unasked": (502, "the backend's answer is malformed"),
    "bad_chunk_size": (502, "the backend's answer is malformed"),
    "splits_header": (502, "the backend's answer is malformed"),
}
BROKEN_OFF = (
    "resets_mid_body",
    "resets_mid_chunks",
    "closes_mid_chunks",
    "too_short",
)


async def get(place: Proxied, request: bytes = GET) -> Answer:
    async with connected(place.address) as (reader, writer):
        writer.write(request)
        return await read_answer(reader)


@each_front
async def test_a_backend_that_does_not_answer_properly_is_told_of_in_short(front: str) -> None:
    async with proxied(front, limits=QUICK) as place:
        for behaviour, (status, text) in ANSWERED.items():
            async with raw_backend(MISBEHAVIOURS[behaviour]) as backend:
                place.pool.update([backend.address])
                answer = await get(place)
                assert answer.status == status, behaviour
                assert answer.body.decode().endswith(f": {text}\n"), behaviour
                assert backend.address not in answer.raw.decode()
                assert place.failures() == 1, behaviour
                assert place.in_flight() == 0


@each_front
async def test_an_answer_that_breaks_off_never_ends_cleanly(front: str) -> None:
    async with proxied(front) as place:
        for behaviour in BROKEN_OFF:
            async with (
                raw_backend(MISBEHAVIOURS[behaviour]) as backend,
                connected(place.address) as (reader, writer),
            ):
                place.pool.update([backend.address])
                writer.write(GET)
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    await read_answer(reader)
                await servers.until(lambda: place.failures() == 1)
                assert place.in_flight() == 0


async def reset_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n\r\nnot all of it")
    await writer.drain()
    await asyncio.sleep(0.05)
    reset(writer)


@each_front
async def test_a_reset_is_not_the_end_of_an_answer_without_a_length(front: str) -> None:
    async with raw_backend(reset_at_the_end) as backend, proxied(front, backend.address) as place:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await get(place)
        await servers.until(lambda: place.failures() == 1)


async def test_a_client_of_http_1_0_sees_a_reset_where_nothing_else_tells() -> None:
    async with (
        raw_backend(MISBEHAVIOURS["resets_mid_chunks"]) as backend,
        proxied("aiohttp", backend.address) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)


@pytest.mark.parametrize("front", ["uvicorn", "uvicorn-h11", "hypercorn"])
async def test_what_follows_connect_is_no_request(front: str) -> None:
    async with echo_backend() as echo, proxied(front, echo.address) as place:
        connect = b"CONNECT other:80 HTTP/1.1\r\nHost: other:80\r\n\r\n"
        answer = await exchange(place.address, connect + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        # One parser takes what follows for a part of it.
        assert answer[9:12] in (b"400", b"405")
        assert b"connection: close\r\n" in answer.lower()
        assert not echo.requests


async def test_a_client_of_http_1_0_misses_the_last_chunk_under_uvicorn() -> None:
    async with (
        raw_backend(MISBEHAVIOURS["resets_mid_chunks"]) as backend,
        proxied("uvicorn", backend.address) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await reader.read(-1)
        assert b"\r\ntransfer-encoding: chunked\r\n" in answer
        assert not answer.endswith(b"0\r\n\r\n")


@each_front
async def test_more_than_was_announced_is_not_passed_on(front: str) -> None:
    async def too_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n0123")
        await asyncio.sleep(0.05)
        writer.write(b"456789")
        await reader.read()

    async with (
        raw_backend(too_much) as backend,
        proxied(front, backend.address) as place,
        connected(place.address) as (reader, writer),
    ):
        for _ in range(2):
            writer.write(GET)
            assert (await read_answer(reader)).body == b"01234"
        # What came after it is nobody's answer.
        assert backend.accepted == 2


@each_front
@pytest.mark.parametrize("behaviour", ["answers_early", "answers_early_and_resets"])
async def test_an_answer_before_the_body_was_read_is_passed_on(front: str, behaviour: str) -> None:
    async with (
        raw_backend(MISBEHAVIOURS[behaviour]) as backend,
        proxied(front, backend.address) as place,
    ):
        async with connected(place.address) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 100000000\r\n\r\n")
            writer.write(b"x" * 100_000)
            answer = await read_answer(reader)
        assert (answer.status, answer.body) == (413, b"too large")
        await servers.until(lambda: not place.in_flight())
        assert place.failures() == 0


@each_front
async def test_nobody_to_ask_is_503_with_a_time_to_ask_again(front: str) -> None:
    async with proxied(front, retry_after=7) as place:
        answer = await get(place)
        assert (answer.status, answer.value("retry-after")) == (503, "7")
        assert answer.body == b"503 service unavailable: there is no backend\n"
        head = await exchange(
            place.address, b"HEAD / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
        )
        assert head.startswith(b"HTTP/1.1 503 ")
        assert head.endswith(b"\r\n\r\n")
        # That of the answer to GET (RFC 9110, section 8.6).
        assert b"content-length: %d\r\n" % len(answer.body) in head.lower()


@each_front
async def test_a_backend_that_refuses_costs_no_request(front: str) -> None:
    async with echo_backend() as echo, proxied(front, servers.nobody(), echo.address) as place:
        body = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\nhello"
        for _ in range(4):
            # With a body as well: nothing of it was sent.
            assert (await get(place, body)).status == 200
        assert place.failures() >= 1
        assert {bytes(request.body) for request in echo.requests} == {b"hello"}


async def test_nobody_who_can_be_connected_to_is_502() -> None:
    async with proxied("uvicorn", servers.nobody(), servers.nobody()) as place:
        answer = await get(place)
        assert answer.body == b"502 bad gateway: no connection to the backend\n"
        # Each of them was tried.
        assert place.failures() == 2


async def test_what_may_have_been_sent_is_not_sent_again_by_itself() -> None:
    async with (
        raw_backend(MISBEHAVIOURS["closes_after_request"]) as bad,
        echo_backend() as echo,
        proxied("uvicorn", bad.address, echo.address) as place,
    ):
        statuses = sorted([(await get(place)).status for _ in range(2)])
    assert statuses == [200, 502]
    assert len(echo.requests) == 1


async def test_what_is_idempotent_is_sent_again_if_that_is_asked_for() -> None:
    retries = Retries(idempotent=True, statuses={503}, budget=RetryBudget(at_least=100))
    async with (
        raw_backend(MISBEHAVIOURS["resets_mid_header"]) as bad,
        echo_backend() as echo,
        proxied("uvicorn", bad.address, echo.address, retries=retries) as place,
    ):
        assert [(await get(place)).status for _ in range(4)] == [200] * 4
        body = b"PUT / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\nhello"
        # Not what had a body: that is gone.
        statuses = {(await get(place, body)).status for _ in range(2)}
        assert statuses == {200, 502}


async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await read_head(reader)
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")


async def test_an_answer_that_says_busy_is_passed_on_and_counts() -> None:
    async with raw_backend(busy) as backend:
        async with proxied("uvicorn", backend.address) as place:
            assert (await get(place)).body == b"busy"
            assert place.failures() == 1
        async with proxied("uvicorn", backend.address, failure_statuses=()) as place:
            assert (await get(place)).body == b"busy"
            assert place.failures() == 0


async def test_an_answer_that_says_busy_is_asked_for_elsewhere_if_that_is_asked_for() -> None:
    retries = Retries(idempotent=True, statuses={503}, budget=RetryBudget(at_least=100))
    async with (
        raw_backend(busy) as backend,
        echo_backend() as echo,
        proxied("uvicorn", backend.address, echo.address, retries=retries) as place,
    ):
        assert [(await get(place)).status for _ in range(4)] == [200] * 4


async def test_an_answer_that_nobody_asked_for_is_given_to_nobody() -> None:
    answered = asyncio.Event()

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        await read_head(reader)
        writer.write(answer)
        await answered.wait()
        # As some servers say 408 to a connection that is idle for too long.
        writer.write(answer.replace(b"ok", b"no"))
        await reader.read()

    async with raw_backend(hasty) as backend, proxied("uvicorn", backend.address) as place:
        async with connected(place.address) as (reader, writer):
            writer.write(GET)
            assert (await read_answer(reader)).body == b"ok"
            answered.set()
            await asyncio.sleep(0.1)
            writer.write(GET)
            assert (await read_answer(reader)).body == b"ok"
        assert backend.accepted == 2


@each_front
async def test_a_client_that_leaves_is_no_failure_of_the_backend(front: str) -> None:
    async with echo_backend() as echo, proxied(front, echo.address) as place:
        # Before the answer, within the answer, and within the body.
        async with connected(place.address) as (_, writer):
            writer.write(b"GET /slow HTTP/1.1\r\nHost: api\r\n\r\n")
            await servers.until(lambda: len(echo.requests) == 1)
        async with connected(place.address) as (reader, writer):
            writer.write(b"GET /stream HTTP/1.1\r\nHost: api\r\n\r\n")
            await read_head(reader)
        async with connected(place.address) as (_, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\nhello")
            await servers.until(lambda: len(echo.requests) == 3)
        # Their requests to the backend end with them.
        await servers.until(lambda: not echo.running)
        await servers.until(lambda: not place.in_flight())
        assert place.failures() == 0
        assert not place.proxy.in_flight


async def leaves_within_a_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As nginx does after its client_body_timeout."""
    await read_head(reader)
    await reader.readexactly(5)


async def resets_within_a_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await leaves_within_a_body(reader, writer)
    reset(writer)


async def talks_nonsense_within_a_body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await leaves_within_a_body(reader, writer)
    writer.write(b"nonsense\r\n\r\n")
    await reader.read()


@each_front
async def test_a_backend_that_is_tired_of_a_slow_client_is_not_to_blame(
    front: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backendpool_async.proxy.exchange._SLOW_SECONDS", 0.0)
    async with (
        raw_backend(leaves_within_a_body) as backend,
        echo_backend() as other,
        proxied(front, backend.address) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\nhello")
        await servers.until(lambda: bool(backend.accepted))
        place.pool.update([backend.address, other.address])
        answer = await read_answer(reader)
        assert (answer.status, answer.value("connection")) == (408, "close")
        assert (place.failures(), place.in_flight()) == (0, 0)
        # What had a body is asked of one backend only.
        assert not other.requests


async def resets_after_the_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_head(reader)
    reset(writer)


@pytest.mark.parametrize("slow_seconds", [0.0, 60.0])
@pytest.mark.parametrize("breaks_off", [resets_after_the_head, resets_within_a_body])
async def test_a_reset_within_a_body_is_a_failure_however_slow_the_client_is(
    breaks_off: Handler, slow_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backendpool_async.proxy.exchange._SLOW_SECONDS", slow_seconds)
    async with (
        raw_backend(breaks_off) as backend,
        proxied("uvicorn", backend.address) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\nhello")
        assert (await read_answer(reader)).status == 502
        assert (place.failures(), place.in_flight()) == (1, 0)


@each_front
async def test_a_backend_that_leaves_a_client_that_was_not_slow_is_to_blame(front: str) -> None:
    async with (
        raw_backend(leaves_within_a_body) as backend,
        proxied(front, backend.address) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\nhello")
        assert (await read_answer(reader)).status == 502
        assert (place.failures(), place.in_flight()) == (1, 0)


async def test_nonsense_is_a_failure_also_while_the_client_owes_its_body() -> None:
    async with (
        raw_backend(talks_nonsense_within_a_body) as backend,
        proxied("uvicorn", backend.address) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\nhello")
        assert (await read_answer(reader)).status == 502
        assert place.failures() == 1


@each_front
async def test_a_backend_that_is_removed_ends_what_it_began(front: str) -> None:
    async with echo_backend() as echo:
        pool = BackendPool.static([echo.address])
        proxy = ReverseProxy(Balancer(pool))
        async with served(front, proxy) as address, connected(address) as (reader, writer):
            writer.write(b"GET /stream HTTP/1.1\r\nHost: api\r\n\r\n")
            await read_head(reader)
            pool.update([])
            await echo.chunks.put(b"still here")
            await asyncio.wait_for(reader.readuntil(b"still here"), 10)
            await echo.chunks.put(None)
            await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
            writer.write(GET)
            assert (await read_answer(reader)).status == 503
            # Nor is its connection kept, not even for as long as idle ones are.
            async with asyncio.timeout(2):
                await servers.until(lambda: not echo.open)


async def test_the_list_is_read_at_each_request() -> None:
    async with echo_backend("a") as a, echo_backend("b") as b:
        pool = BackendPool.static([a.address])
        async with (
            served("uvicorn", ReverseProxy(Balancer(pool))) as address,
            connected(address) as (reader, writer),
        ):
            for backend in (a, b, a):
                pool.update([backend.address])
                writer.write(GET)
                await read_answer(reader)
    assert (len(a.requests), len(b.requests)) == (2, 1)


async def test_trouble_is_logged_once_and_not_at_each_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "backendpool_async")
    async with (
        raw_backend(MISBEHAVIOURS["closes_at_once"]) as backend,
        proxied("uvicorn", backend.address) as place,
    ):
        for _ in range(3):
            await get(place)
    lines = [record.message for record in caplog.records if "proxy:" in record.message]
    assert len(lines) == 1
    assert lines[0].startswith(f"proxy: {backend.address}: it did not answer: ")
