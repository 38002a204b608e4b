"""A request that is cancelled wherever it waits leaves no lease, slot, connection or task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import ModuleType
from typing import Any

import anyio
import httpx
import pytest
from backends import certificates, echo_backend
from cancelling import cancelled_at, scope_cancelled_at
from http2_backend import http2_backend
from httpx_clients import Over, both, over
from servers import until

from backendpool_async import BackendPool, Balancer, Failure
from backendpool_async.httpx import connection
from backendpool_async.retries import Retries

# More than any of these requests has places to wait at.
MANY = 200


async def get(it: Over) -> None:
    response = await it.client.get("/bytes/200000")
    assert len(response.content) == 200_000


async def post(it: Over) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        await asyncio.sleep(0)
        yield b"y" * 1000

    assert (await it.client.post("/sink", content=body())).text == "2000"


async def leave(it: Over) -> None:
    async with it.client.stream("GET", "/bytes/2000000") as response:
        async for _ in response.aiter_raw():
            break


async def retried(it: Over) -> None:
    assert (await it.client.get("/status/503")).status_code == 503


REQUESTS = pytest.mark.parametrize("request_", [get, post, leave], ids=lambda each: each.__name__)


async def settled(it: Over, open_connections: Callable[[], int]) -> None:
    """Nothing is in use, and the backend has no connection that the transport knows not of."""
    assert it.in_flight() == 0
    idle, active = it.connections().split(", ")
    assert active == "0 active"
    await until(lambda: open_connections() == int(idle.split()[0]))
    assert it.outcomes()[1] == 0


@both
@REQUESTS
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_at_every_await(
    library: ModuleType, request_: Callable[[Over], Any], times: int, warm: bool
) -> None:
    limits = library.Limits(max_connections=1)
    for step in range(1, MANY):
        async with echo_backend() as a, over(a.address, library=library, limits=limits) as it:
            if warm:
                await get(it)
            came_so_far = await cancelled_at(step, request_(it), times=times)
            await settled(it, lambda: a.open)
            # The one slot there is was given back.
            await get(it)
        if not came_so_far:
            break
    assert 3 < step < MANY - 1


@both
async def test_at_every_await_of_a_handshake(library: ModuleType) -> None:
    certificate = certificates()
    server, client = certificate.server("api"), certificate.client()
    for step in range(1, MANY):
        async with (
            echo_backend(tls=server) as a,
            over(a.address, library=library, verify=client, base_url="https://api") as it,
        ):
            came_so_far = await cancelled_at(step, get(it))
            await settled(it, lambda: a.open)
        if not came_so_far:
            break
    assert 3 < step < MANY - 1


@both
async def test_at_every_await_of_http2(library: ModuleType) -> None:
    for step in range(1, MANY):
        async with (
            http2_backend() as a,
            over(a.raw.address, library=library, http1=False, http2=True) as it,
        ):
            beside = asyncio.create_task(it.client.get("/"))
            came_so_far = await cancelled_at(step, it.client.post("/", content=b"abc"))
            assert (await beside).status_code == 200
            await settled(it, lambda: a.raw.open)
            assert (await it.client.get("/")).status_code == 200
        if not came_so_far:
            break
    assert 3 < step < MANY - 1


@both
@pytest.mark.parametrize("opens", [True, False])
async def test_at_every_await_of_http2_those_who_share_the_connection_go_on(
    library: ModuleType, opens: bool
) -> None:
    for step in range(1, MANY):
        async with (
            http2_backend() as a,
            over(a.raw.address, library=library, http1=False, http2=True) as it,
        ):
            if not opens:
                await it.client.get("/")
            first = asyncio.create_task(cancelled_at(step, it.client.get("/")))
            # It comes first: its task is begun by another.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert it.in_flight() == 1
            beside = [asyncio.create_task(it.client.get("/")) for _ in range(3)]
            came_so_far = await first
            assert {each.status_code for each in await asyncio.gather(*beside)} == {200}
            await settled(it, lambda: a.raw.open)
        if not came_so_far:
            break
    assert 2 < step < MANY - 1


async def test_at_every_await_of_a_retry() -> None:
    retries = Retries(idempotent=True, statuses={503})
    for step in range(1, MANY):
        async with (
            echo_backend() as a,
            echo_backend() as b,
            over(a.address, b.address, retries=retries, failure_statuses=()) as it,
        ):
            came_so_far = await cancelled_at(step, retried(it))
            await settled(it, lambda: a.open + b.open)
        if not came_so_far:
            break
    assert 6 < step < MANY - 1


async def test_at_every_await_while_waiting_for_a_connection() -> None:
    limits = httpx.Limits(max_connections=1)
    for step in range(1, MANY):
        async with echo_backend() as a, over(a.address, limits=limits) as it:
            first = asyncio.create_task(get(it))
            last = asyncio.create_task(get(it))
            await asyncio.sleep(0)
            came_so_far = await cancelled_at(step, get(it))
            await asyncio.gather(first, last)
            await settled(it, lambda: a.open)
        if not came_so_far:
            break
    assert 3 < step < MANY - 1


async def test_at_every_await_while_waiting_for_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_MAX_STREAMS", 2)
    limits = httpx.Limits(max_connections=1)
    for step in range(1, MANY):
        async with (
            http2_backend() as a,
            over(a.raw.address, limits=limits, http1=False, http2=True) as it,
        ):
            others = [asyncio.create_task(it.client.get("/")) for _ in range(2)]
            waiting = asyncio.create_task(cancelled_at(step, it.client.get("/")))
            # Its task is begun by another.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert "2 waited for" in it.connections()
            # Whoever stands behind it goes on.
            others += [asyncio.create_task(it.client.get("/")) for _ in range(2)]
            came_so_far = await waiting
            assert {each.status_code for each in await asyncio.gather(*others)} == {200}
            await settled(it, lambda: a.raw.open)
        if not came_so_far:
            break
    assert 3 < step < MANY - 1


@both
@REQUESTS
async def test_at_every_await_by_a_scope_of_anyio(
    library: ModuleType, request_: Callable[[Over], Awaitable[None]]
) -> None:
    for step in range(1, MANY):
        async with echo_backend() as a, over(a.address, library=library) as it:
            with anyio.CancelScope() as scope:
                # A scope cancels again at every await, until it is left.
                await scope_cancelled_at(step, request_(it), scope.cancel)  # type: ignore[arg-type]  # they are coroutines
            await settled(it, lambda: a.open)
        if not scope.cancel_called:
            break
    assert 3 < step < MANY - 1


@both
async def test_when_one_of_many_is_cancelled_the_others_are_not(library: ModuleType) -> None:
    async with echo_backend() as a, over(a.address, library=library) as it:
        tasks = [asyncio.create_task(it.client.get("/slow")) for _ in range(10)]
        await until(lambda: a.running == 10)
        for task in tasks[::2]:
            task.cancel()
        await until(lambda: a.running == 5)
        a.release.set()
        answers = await asyncio.gather(*tasks[1::2])
        assert [each.status_code for each in answers] == [200] * 5
        await settled(it, lambda: a.open)


async def test_a_cancellation_is_never_tried_again_whatever_the_classifier_says() -> None:
    async with echo_backend() as a, echo_backend() as b:
        pool = BackendPool.static([a.address, b.address])
        balancer = Balancer(pool, ejection=None, classify=lambda error: Failure.CONNECT)
        async with over(balancer=balancer) as it:
            task = asyncio.create_task(it.client.get("/slow"))
            await until(lambda: a.running + b.running == 1)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            assert len(a.requests) + len(b.requests) == 1
