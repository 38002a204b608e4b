"""Misbehaving backends: the library's own exceptions, a lease that ends once, nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from types import ModuleType

import httpcore
import httpcore2
import httpx
import pytest
from backends import MISBEHAVIOURS, echo_backend, raw_backend
from backends_misbehaving import deaf, resets_mid_body, silent
from httpx_clients import both, over
from servers import until

from backendpool_async import BackendPool, Balancer, Candidate
from backendpool_async.retries import Retries

# What each one makes of a request; None: an answer that is taken.
EXPECTED = {
    "closes_at_once": ("RemoteProtocolError", "ReadError"),
    "closes_after_request": ("RemoteProtocolError",),
    "resets_after_request": ("ReadError",),
    "resets_mid_header": ("ReadError", "RemoteProtocolError"),
    "resets_mid_body": ("ReadError",),
    "resets_mid_chunks": ("ReadError",),
    "closes_mid_chunks": ("RemoteProtocolError",),
    "too_short": ("RemoteProtocolError",),
    "malformed_status": ("RemoteProtocolError",),
    "no_http": ("RemoteProtocolError",),
    "two_lengths": ("RemoteProtocolError",),
    "bad_chunk_size": ("RemoteProtocolError",),
    "huge_header": ("RemoteProtocolError",),
    "endless_headers": ("RemoteProtocolError",),
    "splits_header": ("RemoteProtocolError",),
}


@both
@pytest.mark.parametrize("name", EXPECTED)
async def test_a_broken_answer_is_the_librarys_error_and_a_failure(
    library: ModuleType, name: str
) -> None:
    async with raw_backend(MISBEHAVIOURS[name]) as a, over(a.address, library=library) as it:
        with pytest.raises(library.TransportError) as caught:
            await it.client.get("/")
        assert type(caught.value).__name__ in EXPECTED[name]
        assert type(caught.value).__module__ == library.__name__
        assert str(caught.value.request.url) == "http://api/"
        assert (it.in_flight(), it.outcomes()) == (0, (1, 1))
        assert it.connections() == "0 idle, 0 active"
        await until(lambda: not a.open)


@both
async def test_silence_is_a_read_timeout(library: ModuleType) -> None:
    timeout = library.Timeout(10.0, read=0.05)
    async with raw_backend(silent) as a, over(a.address, library=library, timeout=timeout) as it:
        with pytest.raises(library.ReadTimeout):
            await it.client.get("/")
        assert (it.in_flight(), it.outcomes()) == (0, (1, 1))
        assert it.connections() == "0 idle, 0 active"


@both
async def test_a_backend_that_reads_nothing_is_a_write_timeout(library: ModuleType) -> None:
    timeout = library.Timeout(10.0, write=0.05, read=0.05)
    async with raw_backend(deaf) as a, over(a.address, library=library, timeout=timeout) as it:
        with pytest.raises(library.WriteTimeout):
            await it.client.post("/", content=b"x" * 50_000_000)
        assert it.outcomes() == (1, 1)


@both
async def test_a_connect_timeout_is_one_and_tried_elsewhere(library: ModuleType) -> None:
    # No connection comes about: the backlog is full.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = f"127.0.0.1:{full.getsockname()[1]}"
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        timeout = library.Timeout(10.0, connect=0.05)
        try:
            async with over(address, library=library, timeout=timeout) as it:
                with pytest.raises(library.ConnectTimeout):
                    await it.client.get("/")
                assert it.outcomes() == (1, 1)
        finally:
            for filler in fillers:
                filler.close()


@both
async def test_an_answer_that_breaks_off_while_it_is_read_is_the_backends_failure(
    library: ModuleType,
) -> None:
    async with raw_backend(resets_mid_body) as a, over(a.address, library=library) as it:
        async with it.client.stream("GET", "/") as response:
            assert (response.status_code, it.in_flight()) == (200, 1)
            with pytest.raises(library.ReadError) as caught:
                await response.aread()
            assert caught.value.request is response.request
            assert it.in_flight() == 0
        assert it.outcomes() == (1, 1)


async def test_an_early_answer_is_taken_though_the_body_was_not() -> None:
    async with echo_backend() as a, over(a.address) as it:
        response = await it.client.post("/unread", content=b"x" * 20_000_000)
        assert response.text == "unread"
        assert it.in_flight() == 0


async def test_a_request_body_that_raises_is_the_callers_own_error() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise ValueError("the caller's own")

    async with echo_backend() as a, over(a.address) as it:
        with pytest.raises(ValueError, match="the caller's own"):
            await it.client.post("/sink", content=body())
        assert (it.in_flight(), it.outcomes()[1]) == (0, 0)
        await until(lambda: it.connections() == "0 idle, 0 active" and not a.open)


@both
async def test_whatever_a_request_body_raises_is_no_failure_of_the_backend(
    library: ModuleType,
) -> None:
    core = httpcore if library is httpx else httpcore2
    kinds = [
        kind
        for each in (library, core)
        for kind in vars(each).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    errors: list[Exception] = [ConnectionResetError(), ConnectionRefusedError(), TimeoutError()]
    for kind in kinds:
        with contextlib.suppress(TypeError):  # some are made otherwise, and not by a network
            errors.append(kind("the body's"))
    assert len(errors) > 40

    async def body(error: Exception) -> AsyncIterator[bytes]:
        yield b"x"
        raise error

    async with echo_backend() as a, over(a.address, library=library) as it:
        for error in errors:
            with pytest.raises(type(error)) as caught:
                await it.client.post("/sink", content=body(error))
            assert caught.value is error
        assert (it.in_flight(), it.outcomes()[1]) == (0, 0)
        assert it.balancer.explain().retries == 0
        await until(lambda: it.connections() == "0 idle, 0 active" and not a.open)


@both
async def test_what_goes_wrong_after_the_answer_leaves_nothing_in_use(library: ModuleType) -> None:
    class OnceOnly:
        def __init__(self) -> None:
            self.asked = 0

        def prepare(self, candidates: Sequence[Candidate]) -> OnceOnly:
            self.candidates = candidates
            return self

        def __call__(self, key: str | None) -> Candidate:
            self.asked += 1
            if self.asked > 1:
                raise RuntimeError("the policy's own")
            return self.candidates[0]

    async with echo_backend() as a, echo_backend() as b:
        pool = BackendPool.static([a.address, b.address])
        balancer = Balancer(pool, policy=OnceOnly(), ejection=None)
        retries = Retries(idempotent=True, statuses={503})
        async with over(balancer=balancer, library=library, retries=retries) as it:
            with pytest.raises(RuntimeError, match="the policy's own"):
                await it.client.get("/status/503")
            assert (it.in_flight(), it.outcomes()) == (0, (1, 1))
            assert it.connections() == "0 idle, 0 active"


async def test_a_cancelled_read_ends_the_lease_and_is_no_failure() -> None:
    async with echo_backend() as a, over(a.address) as it:

        async def read() -> None:
            async with it.client.stream("GET", "/stream") as response:
                await response.aread()

        task = asyncio.create_task(read())
        await until(lambda: a.running == 1 and it.in_flight() == 1)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (it.in_flight(), it.outcomes()[1]) == (0, 0)
        await until(lambda: it.connections() == "0 idle, 0 active" and not a.open)


async def test_closing_an_answer_twice_ends_its_lease_once() -> None:
    async with echo_backend() as a, over(a.address) as it:
        request = httpx.Request("GET", "http://api/bytes/10")
        response = await it.transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        await asyncio.gather(response.stream.aclose(), response.stream.aclose())
        await response.stream.aclose()
        assert it.outcomes() == (1, 0)
        assert it.connections() == "0 idle, 0 active"
