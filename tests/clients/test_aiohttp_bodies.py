"""Whose errors are those that come while a request's body is sent."""

from __future__ import annotations

import asyncio
import io
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp_sessions import balancer_of, in_flight, session_of, state_of
from backends import MISBEHAVIOURS, echo_backend, raw_backend, read_head
from backends_misbehaving import reset
from servers import until

from backendpool_async.aiohttp import attribution, response_end

ERRORS = [
    ConnectionResetError("of the body"),
    BrokenPipeError("of the body"),
    TimeoutError("of the body"),
    TimeoutError(110, "of the body"),
    OSError(5, "of the body"),
    ssl.SSLError("of the body"),
    asyncio.IncompleteReadError(b"", 1),
    ValueError("of the body"),
    aiohttp.ClientConnectionError("of the body"),
    aiohttp.ClientConnectionResetError("of the body"),
    aiohttp.ClientOSError(104, "of the body"),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ServerTimeoutError(),
    aiohttp.SocketTimeoutError(),
    aiohttp.ConnectionTimeoutError(),
    aiohttp.ClientPayloadError("of the body"),
]


async def failing(error: Exception) -> AsyncIterator[bytes]:
    yield b"begun"
    await asyncio.sleep(0)
    raise error


class FailingFile(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise ConnectionResetError("of the file")


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_what_a_body_raises_says_nothing_of_the_backend(
    method: str, error: Exception
) -> None:
    async with echo_backend() as a, echo_backend() as b:
        balancer = balancer_of(a, b)
        async with session_of(balancer) as s:
            with pytest.raises((aiohttp.ClientError, OSError)):
                await s.request(method, "http://api/sink", data=failing(error))
        assert in_flight(balancer) == 0
        assert [state.requests for state in balancer.explain().backends] == [0, 0]
        assert balancer.explain().retries == 0


async def test_what_a_file_raises_says_nothing_of_the_backend() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            with pytest.raises(aiohttp.ClientError):
                await s.put("http://api/sink", data=FailingFile(b"file"))
        assert (state_of(balancer).requests, in_flight(balancer)) == (0, 0)


async def test_the_body_of_an_answer_that_breaks_off_says_nothing_of_where_it_is_sent_to() -> None:
    async with raw_backend(MISBEHAVIOURS["resets_mid_body"]) as source, echo_backend() as a:
        balancer = balancer_of(a)
        async with (
            session_of(balancer) as s,
            s.get(f"http://{source.address}/") as response,
        ):
            with pytest.raises(aiohttp.ClientError):
                await s.put("http://api/sink", data=response.content)
        assert (state_of(balancer).requests, in_flight(balancer)) == (0, 0)


async def test_a_backend_that_does_not_take_a_body_has_failed() -> None:
    async def leaves(reader: StreamReader, writer: StreamWriter) -> None:
        await read_head(reader)
        reset(writer)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    async with raw_backend(leaves) as raw:
        balancer = balancer_of(raw)
        async with session_of(balancer) as s:
            with pytest.raises(aiohttp.ClientError):
                await s.post("http://api/", data=endless())
            await until(lambda: in_flight(balancer) == 0)
        assert (state_of(balancer).requests, state_of(balancer).failures) == (1, 1)


def test_what_the_writer_of_aiohttp_raises_is_the_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whether a real one raises within a write or at the next read is a matter of moments.
    writer: dict[str, Any] = {"__name__": "aiohttp.http_writer"}
    exec("def write(): raise ConnectionResetError('by peer')", writer)

    def write_bytes() -> None:
        writer["write"]()

    monkeypatch.setattr(attribution, "_WRITE_BYTES", write_bytes.__code__)
    balancer = balancer_of("127.0.0.1:1")
    lease = balancer.lease().acquire()
    with pytest.raises(ConnectionResetError) as raised:
        write_bytes()
    response_end.release_after_error(lease, raised.value)
    assert balancer.explain().backends[0].failures == 1
