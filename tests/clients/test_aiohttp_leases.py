"""When the lease of a request ends, and as what."""

from __future__ import annotations

import asyncio
import gc
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp_sessions import balancer_of, in_flight, session_of, state_of
from backends import MISBEHAVIOURS, echo_backend, raw_backend, read_request
from servers import nobody, until

from backendpool_async import Balancer
from backendpool_async.retries import Retries

ONCE = Retries(attempts=1)


def outcome(balancer: Balancer) -> tuple[int, int, int]:
    """In flight, requests and failures of the only backend."""
    state = state_of(balancer)
    return state.in_flight, state.requests, state.failures


async def test_a_response_that_is_read_to_its_end_ends_the_lease() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s, s.get("http://api/stream") as response:
            a.chunks.put_nowait(b"first")
            assert await response.content.readany() == b"first"
            assert outcome(balancer) == (1, 0, 0)
            a.chunks.put_nowait(None)
            assert await response.content.readany() == b""
            # The block is not left yet.
            assert outcome(balancer) == (0, 1, 0)
        assert outcome(balancer) == (0, 1, 0)


@pytest.mark.parametrize("path", ["/", "/bytes/0", "/bytes/300000", "/chunked/300000", "/gzip"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_every_kind_of_body_ends_the_lease_once(path: str, method: str) -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            await (await s.request(method, f"http://api{path}")).read()
        assert outcome(balancer) == (0, 1, 0)


@pytest.mark.parametrize("method", ["release", "close"])
async def test_a_response_that_is_let_go_early_was_one_all_the_same(method: str) -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            response = await s.get("http://api/stream")
            assert outcome(balancer) == (1, 0, 0)
            getattr(response, method)()
            assert outcome(balancer) == (0, 1, 0)
            getattr(response, method)()
        assert outcome(balancer) == (0, 1, 0)


async def test_a_block_that_is_left_early_ends_the_lease() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            async with s.get("http://api/stream"):
                assert outcome(balancer) == (1, 0, 0)
            assert outcome(balancer) == (0, 1, 0)


async def test_an_error_of_the_callers_own_says_nothing_of_the_backend() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            with pytest.raises(ValueError, match="mine"):
                async with s.get("http://api/stream"):
                    raise ValueError("mine")
        assert outcome(balancer) == (0, 0, 0)


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), TimeoutError(), aiohttp.ClientConnectionResetError()]
)
async def test_nor_does_one_of_another_connection_of_the_callers(error: Exception) -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            with pytest.raises(type(error)):
                async with s.get("http://api/stream"):
                    raise error
        assert outcome(balancer) == (0, 0, 0)


@pytest.mark.parametrize(
    "timeout", [aiohttp.ClientTimeout(total=0.05), aiohttp.ClientTimeout(connect=0.05)]
)
async def test_waiting_for_one_of_the_sessions_connections_says_nothing_of_the_backend(
    timeout: aiohttp.ClientTimeout,
) -> None:
    async with echo_backend() as a, echo_backend() as b:
        balancer = balancer_of(a, b)
        async with (
            session_of(balancer, limit=1, timeout=timeout) as s,
            s.get("http://api/stream", timeout=aiohttp.ClientTimeout()),
        ):
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await s.get("http://api/")
            waiting = asyncio.create_task(s.get("http://api/"))
            await until(lambda: in_flight(balancer) == 2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            states = balancer.explain().backends
            assert [state.failures for state in states] == [0, 0]
            assert [state.latency for state in states] == [None, None]
            assert in_flight(balancer) == 1
        assert balancer.explain().retries == 0


async def test_what_the_caller_was_handling_before_does_not_count() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            try:
                raise ConnectionResetError("another one's")
            except ConnectionResetError:
                async with s.get("http://api/stream"):
                    pass
        assert outcome(balancer) == (0, 1, 0)


@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")
async def test_a_response_that_is_dropped_with_its_session_ends_the_lease() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            response = await s.get("http://api/stream")
        assert outcome(balancer) == (1, 0, 0)
        del response
        try:
            # Whatever is being handled when the collector comes.
            raise ConnectionResetError("another one's")
        except ConnectionResetError:
            gc.collect()
        assert outcome(balancer) == (0, 0, 0)


async def test_a_refused_connection_is_a_failure() -> None:
    balancer = balancer_of(nobody())
    async with session_of(balancer) as s:
        with pytest.raises(aiohttp.ClientConnectorError):
            await s.get("http://api/")
    assert outcome(balancer) == (0, 1, 1)


@pytest.mark.parametrize(
    "name",
    [
        "closes_at_once",
        "closes_after_request",
        "resets_after_request",
        "resets_mid_header",
        "resets_mid_body",
        "resets_mid_chunks",
        "closes_mid_chunks",
        "too_short",
        "malformed_status",
        "no_http",
        "bad_chunk_size",
        "huge_header",
        "endless_headers",
        "two_lengths",
    ],
)
async def test_a_backend_that_breaks_off_or_speaks_no_http_has_failed(name: str) -> None:
    async with raw_backend(MISBEHAVIOURS[name]) as raw:
        balancer = balancer_of(raw)
        async with session_of(balancer, retries=ONCE) as s:
            with pytest.raises(aiohttp.ClientError):
                async with s.get("http://api/") as response:
                    await response.read()
        assert outcome(balancer) == (0, 1, 1)


async def test_a_body_that_breaks_off_is_a_failure_however_it_is_read() -> None:
    async with raw_backend(MISBEHAVIOURS["resets_mid_chunks"]) as raw:
        balancer = balancer_of(raw)
        async with session_of(balancer) as s:
            response = await s.get("http://api/")
            with pytest.raises(aiohttp.ClientError):
                async for _ in response.content.iter_any():
                    pass
            response.close()
        assert outcome(balancer) == (0, 1, 1)


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_an_answer_of_an_overloaded_backend_is_a_failure(status: int) -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            assert (await s.get(f"http://api/status/{status}")).status == status
        assert outcome(balancer) == (0, 1, 1)
        last_failure = state_of(balancer).last_failure
        assert last_failure is not None
        assert last_failure.startswith(f"{status} ")


@pytest.mark.parametrize("status", [404, 500])
async def test_other_answers_are_successes(status: int) -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            assert (await s.get(f"http://api/status/{status}")).status == status
        assert outcome(balancer) == (0, 1, 0)


@pytest.mark.parametrize("name", ["silent", "deaf", "drips_header"])
@pytest.mark.parametrize(
    "timeout", [aiohttp.ClientTimeout(total=0.1), aiohttp.ClientTimeout(sock_read=0.04)]
)
async def test_an_answer_that_does_not_come_in_time_is_a_failure(
    name: str, timeout: aiohttp.ClientTimeout
) -> None:
    async with raw_backend(MISBEHAVIOURS[name]) as raw:
        balancer = balancer_of(raw)
        async with session_of(balancer, timeout=timeout) as s:
            with pytest.raises(TimeoutError):
                await s.get("http://api/")
        assert outcome(balancer) == (0, 1, 1)


@pytest.mark.parametrize(
    "timeout", [aiohttp.ClientTimeout(total=0.1), aiohttp.ClientTimeout(sock_read=0.04)]
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_body_that_does_not_come_in_time_is_a_failure(
    timeout: aiohttp.ClientTimeout, *, at_once: bool
) -> None:
    async with raw_backend(MISBEHAVIOURS["drips"]) as raw:
        balancer = balancer_of(raw)
        async with session_of(balancer, timeout=timeout) as s:
            with pytest.raises(TimeoutError):
                await _read(s, at_once=at_once)
        assert outcome(balancer) == (0, 1, 1)


async def _read(session: aiohttp.ClientSession, *, at_once: bool) -> None:
    async with session.get("http://api/") as response:
        if at_once:
            await response.read()
        async for _ in response.content.iter_any():
            pass


async def test_a_connection_that_is_not_made_in_time_is_a_failure() -> None:
    async def never(*arguments: object, **options: object) -> list[aiohttp.abc.ResolveResult]:
        await asyncio.Event().wait()
        raise AssertionError

    async with echo_backend() as a:
        balancer = balancer_of(f"slow.test:{a.backend.port}")
        async with session_of(balancer, timeout=aiohttp.ClientTimeout(total=0.05)) as s:
            assert isinstance(s.connector, aiohttp.TCPConnector)
            s.connector._resolver.resolve = never  # type: ignore[method-assign]  # a stand-in
            with pytest.raises(TimeoutError):
                await s.get("http://api/")
        assert outcome(balancer) == (0, 1, 1)


async def test_the_callers_own_limit_says_nothing_of_the_backend() -> None:
    async with raw_backend(MISBEHAVIOURS["silent"]) as raw:
        balancer = balancer_of(raw)
        async with session_of(balancer) as s:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await s.get("http://api/")
        assert outcome(balancer) == (0, 0, 0)


async def test_a_request_that_is_cancelled_anywhere_ends_its_lease_and_is_no_failure() -> None:
    async def slow(reader: StreamReader, writer: StreamWriter) -> None:
        await read_request(reader)
        for piece in (b"HTTP/1.1 200 OK\r\n", b"Content-Length: 4\r\n\r\n", b"ab", b"cd"):
            await asyncio.sleep(0)
            writer.write(piece)
            await writer.drain()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield b"x"

    async with raw_backend(slow) as raw:
        balancer = balancer_of(raw)
        for steps in range(200):
            async with session_of(balancer) as s:

                async def request(session: aiohttp.ClientSession = s) -> None:
                    async with session.put("http://api/", data=body()) as response:
                        await response.read()

                task = asyncio.create_task(request())
                for _ in range(steps):
                    await asyncio.sleep(0)
                done = task.done()
                task.cancel()
                await asyncio.wait({task})
                await until(lambda: in_flight(balancer) == 0)
                if done:
                    break
        assert done
        assert steps > 10
        assert state_of(balancer).failures == 0


async def test_a_response_ends_with_its_upload() -> None:
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while (piece := await pieces.get()) is not None:
            yield piece

    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            pieces.put_nowait(b"first")
            async with s.post("http://api/unread", data=body()) as response:
                assert await response.text() == "unread"
            await until(lambda: in_flight(balancer) == 0)
        assert outcome(balancer) == (0, 1, 0)


async def test_a_session_that_is_closed_under_a_response_ends_the_lease() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            response = await s.get("http://api/stream")
        # aiohttp's own way of saying it.
        with pytest.raises(RuntimeError, match="Connection closed"):
            await response.read()
        assert outcome(balancer) == (0, 0, 0)
