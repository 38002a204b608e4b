"""Connections over BackendTransport: which are used again, how many there are, when they close."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

import httpx
import pytest
from backends import EchoBackend, echo_backend, raw_backend, read_request
from backends_misbehaving import closes_idle
from httpx_clients import Over, both, over
from servers import until

from backendpool_async import BackendPool, Balancer
from backendpool_async.httpx import BackendTransport
from backendpool_async.httpx.connections import Connections
from backendpool_async.httpx.flavour import FLAVOURS
from backendpool_async.retries import Retries


async def held(it: Over, backend: EchoBackend, requests: int) -> list[asyncio.Task[httpx.Response]]:
    """Let so many requests be under way at one backend, until its `release` is set."""
    tasks = [asyncio.create_task(it.client.get("/slow")) for _ in range(requests)]
    await until(lambda: backend.running == requests)
    return tasks


@both
async def test_of_idle_connections_the_one_used_last_is_used_first(library: ModuleType) -> None:
    async with echo_backend() as a, over(a.address, library=library) as it:
        tasks = await held(it, a, 3)
        a.release.set()
        answers = await asyncio.gather(*tasks)
        ports = [
            each.extensions["network_stream"].get_extra_info("client_addr") for each in answers
        ]
        assert it.connections() == "3 idle, 0 active"
        used = [await it.client.get("/") for _ in range(5)]
        again = {each.extensions["network_stream"].get_extra_info("client_addr") for each in used}
    assert len(set(ports)) == 3
    assert len(again) == 1
    assert a.accepted == 3


@both
async def test_an_idle_connection_that_the_server_closed_is_not_used(library: ModuleType) -> None:
    async with raw_backend(closes_idle) as a, over(a.address, library=library) as it:
        for _ in range(5):
            assert (await it.client.get("/")).text == "ok"
            await until(lambda: not a.open)
            assert it.connections() == "1 idle, 0 active"
        assert a.accepted == 5


@both
async def test_an_idle_connection_on_which_the_server_speaks_is_not_used(
    library: ModuleType,
) -> None:
    more = asyncio.Event()

    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await more.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await writer.drain()
        more.clear()
        await reader.read()

    async with raw_backend(speaks) as a, over(a.address, library=library) as it:
        await it.client.get("/")
        more.set()
        await until(lambda: not more.is_set())
        assert (await it.client.get("/")).text == "ok"
        assert a.accepted == 2


async def test_a_connection_that_the_server_will_close_is_not_kept() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()

    async with raw_backend(once) as a, over(a.address) as it:
        assert (await it.client.get("/")).text == "ok"
        assert it.connections() == "0 idle, 0 active"
        await until(lambda: not a.open)


@both
async def test_a_connection_whose_answer_was_not_read_is_closed(library: ModuleType) -> None:
    async with echo_backend() as a, over(a.address, library=library) as it:
        async with it.client.stream("GET", "/bytes/1000000"):
            assert it.connections() == "0 idle, 1 active"
        assert it.connections() == "0 idle, 0 active"
        assert (it.in_flight(), it.outcomes()) == (0, (1, 0))
        await until(lambda: not a.open)


async def test_a_connection_is_retired_at_its_age() -> None:
    async with echo_backend() as a, over(a.address, max_age=0.2) as it:
        await it.client.get("/")
        assert it.connections() == "1 idle, 0 active"
        await asyncio.sleep(0.21)
        await it.client.get("/")
        assert a.accepted == 2
        await it.client.post("/sink", content=_slowly(0.21))
        assert it.connections() == "0 idle, 0 active"


async def test_an_idle_connection_is_not_used_after_its_expiry_and_closed_soon() -> None:
    limits = httpx.Limits(keepalive_expiry=0.05)
    async with echo_backend() as a, over(a.address, limits=limits) as it:
        await it.client.get("/")
        await asyncio.sleep(0.06)
        await it.client.get("/")
        assert a.accepted == 2
        # Nobody asks any more.
        await until(lambda: it.connections() == "0 idle, 0 active" and not a.open)


async def test_those_that_are_not_old_enough_yet_are_closed_later() -> None:
    limits = httpx.Limits(keepalive_expiry=0.7)
    async with echo_backend() as a, over(a.address, limits=limits) as it:
        task = (await held(it, a, 1))[0]
        await it.client.get("/")
        # When the first has expired, at the first look, the other has not.
        await asyncio.sleep(0.5)
        a.release.set()
        await task
        assert it.connections() == "2 idle, 0 active"
        await until(lambda: it.connections() == "1 idle, 0 active")
        await until(lambda: it.connections() == "0 idle, 0 active")


async def test_without_expiry_and_age_they_are_kept() -> None:
    limits = httpx.Limits(keepalive_expiry=None)
    async with echo_backend() as a, over(a.address, limits=limits, max_age=None) as it:
        for _ in range(3):
            await it.client.get("/")
        assert it.connections() == "1 idle, 0 active"
        assert a.accepted == 1


async def test_no_more_than_allowed_are_kept_idle() -> None:
    limits = httpx.Limits(max_keepalive_connections=2)
    async with echo_backend() as a, over(a.address, limits=limits) as it:
        tasks = await held(it, a, 5)
        a.release.set()
        await asyncio.gather(*tasks)
        assert it.connections() == "2 idle, 0 active"
        await until(lambda: a.open == 2)


async def test_none_is_kept_idle_where_none_is_allowed() -> None:
    limits = httpx.Limits(max_keepalive_connections=0)
    async with echo_backend() as a, over(a.address, limits=limits) as it:
        await it.client.get("/")
        assert it.connections() == "0 idle, 0 active"


@both
async def test_a_request_waits_for_a_connection_and_gets_it(library: ModuleType) -> None:
    limits = library.Limits(max_connections=2)
    async with echo_backend() as a, over(a.address, library=library, limits=limits) as it:
        tasks = await held(it, a, 2)
        tasks += [asyncio.create_task(it.client.get("/slow")) for _ in range(6)]
        await until(lambda: it.connections() == "0 idle, 2 active, 6 waited for")
        a.release.set()
        answers = await asyncio.gather(*tasks)
        assert {each.status_code for each in answers} == {200}
        assert it.connections() == "2 idle, 0 active"
        assert a.accepted == 2


@both
async def test_with_all_connections_in_use_every_backend_gets_its_share(
    library: ModuleType,
) -> None:
    limits = library.Limits(max_connections=4)
    async with contextlib.AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(echo_backend()) for _ in range(4)]
        it = await stack.enter_async_context(
            over(*(each.address for each in backends), library=library, limits=limits)
        )

        async def work() -> None:
            for _ in range(25):
                await it.client.get("/")

        await asyncio.gather(*(work() for _ in range(16)))
        assert [len(each.requests) for each in backends] == [100] * 4
        # Nothing was chosen that was not asked.
        assert [each.picks for each in it.balancer.explain().backends] == [100] * 4


@both
async def test_waiting_too_long_for_a_connection_is_a_pool_timeout(library: ModuleType) -> None:
    limits = library.Limits(max_connections=1)
    timeout = library.Timeout(10.0, pool=0.05)
    async with (
        echo_backend() as a,
        over(a.address, library=library, limits=limits, timeout=timeout) as it,
    ):
        (task,) = await held(it, a, 1)
        with pytest.raises(library.PoolTimeout, match="all 1 connections are in use") as caught:
            await it.client.get("/")
        assert str(caught.value.request.url) == "http://api/"
        assert it.in_flight() == 1
        a.release.set()
        await task
        # Not the backend's fault.
        assert it.outcomes()[1] == 0
        assert (await it.client.get("/")).status_code == 200


async def test_a_cancelled_waiter_leaks_no_slot() -> None:
    limits = httpx.Limits(max_connections=1)
    async with echo_backend() as a, over(a.address, limits=limits) as it:
        (task,) = await held(it, a, 1)
        waiting = [asyncio.create_task(it.client.get("/")) for _ in range(3)]
        await until(lambda: it.connections() == "0 idle, 1 active, 3 waited for")
        waiting[1].cancel()
        await asyncio.wait({waiting[1]})
        assert it.connections() == "0 idle, 1 active, 2 waited for"
        a.release.set()
        await asyncio.gather(task, waiting[0], waiting[2])
        assert it.connections() == "1 idle, 0 active"
        assert it.in_flight() == 0


async def test_an_idle_connection_to_another_backend_makes_room() -> None:
    limits = httpx.Limits(max_connections=2)
    async with (
        echo_backend() as a,
        echo_backend() as b,
        echo_backend() as c,
        over(a.address, b.address, c.address, limits=limits) as it,
    ):
        for _ in range(3):
            await it.client.get("/")
        assert it.connections() == "2 idle, 0 active"
        await until(lambda: a.open + b.open + c.open == 2)


@both
async def test_idle_connections_of_a_removed_backend_are_closed_at_once(
    library: ModuleType,
) -> None:
    async with (
        echo_backend() as a,
        echo_backend() as b,
        over(a.address, b.address, library=library) as it,
    ):
        for _ in range(4):
            await it.client.get("/")
        assert it.connections() == "2 idle, 0 active"
        it.pool.update([b.address])
        # No request comes.
        await until(lambda: a.open == 0)
        assert it.connections() == "1 idle, 0 active"
        assert b.open == 1


@both
async def test_a_connection_in_use_is_closed_after_its_answer_when_its_backend_was_removed(
    library: ModuleType,
) -> None:
    async with (
        echo_backend() as a,
        echo_backend() as b,
        over(a.address, library=library) as it,
    ):
        async with it.client.stream("GET", "/stream") as response:
            it.pool.update([b.address])
            await asyncio.to_thread(it.pool.update, [b.address, "10.0.0.1:1"])
            await a.chunks.put(b"still")
            await a.chunks.put(None)
            assert await response.aread() == b"still"
        assert it.connections() == "0 idle, 0 active"
        await until(lambda: a.open == 0)


async def test_a_backend_that_comes_back_gets_new_connections() -> None:
    async with echo_backend() as a, over(a.address) as it:
        async with it.client.stream("GET", "/stream") as response:
            await it.client.get("/")
            it.pool.update([])
            await until(lambda: it.connections() == "0 idle, 1 active")
            it.pool.update([a.address])
            await it.client.get("/")
            assert it.connections() == "1 idle, 1 active"
            await a.chunks.put(None)
            await response.aread()
        assert it.connections() == "1 idle, 0 active"
        await until(lambda: a.open == 1)


async def test_an_idle_connection_that_was_closed_by_hand_is_not_used() -> None:
    async with echo_backend() as a, over(a.address) as it:
        response = await it.client.get("/")
        await response.extensions["network_stream"].aclose()
        await until(lambda: not a.open)
        assert (await it.client.get("/")).status_code == 200
        assert a.accepted == 2


async def test_a_backend_may_have_a_name() -> None:
    async with echo_backend() as a, over(f"localhost:{a.backend.port}") as it:
        assert (await it.client.get("/")).json()["headers"][0] == ["Host", "api"]


async def test_a_change_that_comes_between_an_answer_and_its_end_is_seen() -> None:
    limits = httpx.Limits(max_connections=1)
    async with echo_backend() as a, over(a.address, limits=limits) as it:
        (task,) = await held(it, a, 1)
        waiting = asyncio.create_task(it.client.get("/"))
        await until(lambda: it.connections() == "0 idle, 1 active, 1 waited for")
        it.pool.update([a.address, "10.0.0.1:1"])
        a.release.set()
        await asyncio.gather(task, waiting)
        # Still listed, in another generation.
        assert it.connections() == "1 idle, 0 active"


@both
async def test_closing_the_client_closes_every_connection(library: ModuleType) -> None:
    async with echo_backend() as a:
        async with over(a.address, library=library) as it:
            reading = await it.client.send(it.client.build_request("GET", "/stream"), stream=True)
            await it.client.get("/")
            assert it.connections() == "1 idle, 1 active"
        assert repr(it.transport).endswith("connections: 0 idle, 0 active>")
        await until(lambda: not a.open)
        with pytest.raises(library.ReadError):
            await reading.aread()
        # No fault of the backend's.
        assert (it.in_flight(), it.outcomes()[1]) == (0, 0)


@both
async def test_a_connection_that_opens_after_closing_is_closed(
    library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    (flavour,) = (each for each in FLAVOURS if each.library is library)
    connect, goes_on = flavour.network_backend.connect_tcp, asyncio.Event()
    begun = asyncio.Event()

    async def slowly(*arguments: Any) -> Any:
        begun.set()
        await goes_on.wait()
        return await connect(*arguments)

    monkeypatch.setattr(flavour.network_backend, "connect_tcp", slowly)
    async with echo_backend() as a, over(a.address, library=library) as it:
        task = asyncio.create_task(it.client.get("/"))
        await begun.wait()
        await it.transport.aclose()
        goes_on.set()
        with pytest.raises(RuntimeError, match="closed before it was open"):
            await task
        assert (it.in_flight(), it.outcomes()[1]) == (0, 0)
        await until(lambda: a.accepted == 1 and not a.open)
        assert not a.requests


async def test_whenever_it_is_closed_while_one_opens_nothing_stays_open() -> None:
    for steps in range(40):
        async with echo_backend() as a, over(a.address) as it:
            task = asyncio.create_task(it.client.get("/"))
            for _ in range(steps):
                await asyncio.sleep(0)
            await it.transport.aclose()
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            # Too early and too late there is nothing to close.
            assert isinstance(outcome, (httpx.Response, httpx.TransportError, RuntimeError))
            assert (it.in_flight(), it.outcomes()[1]) == (0, 0)
            await it.transport.aclose()
            await until(lambda: not a.open)


async def test_loops_that_begin_at_once_may_both_find_one_that_was_closed() -> None:
    closed = asyncio.new_event_loop()
    closed.close()

    class FoundByTwo(dict[asyncio.AbstractEventLoop, Connections]):
        def __iter__(self) -> Iterator[asyncio.AbstractEventLoop]:
            # The other one has just removed it.
            return iter((closed, *super().__iter__()))

    async with echo_backend() as a, over(a.address) as it:
        it.transport._connections = FoundByTwo()
        assert (await it.client.get("/")).status_code == 200


async def test_whoever_waits_when_it_is_closed_is_told() -> None:
    limits = httpx.Limits(max_connections=1)
    async with echo_backend() as a, over(a.address, limits=limits) as it:
        (task,) = await held(it, a, 1)
        waiting = asyncio.create_task(it.client.get("/"))
        await until(lambda: it.connections() == "0 idle, 1 active, 1 waited for")
        await it.transport.aclose()
        with pytest.raises(RuntimeError, match="the transport was closed"):
            await waiting
        with pytest.raises(httpx.ReadError):
            await task
        assert (it.in_flight(), it.outcomes()[1]) == (0, 0)


async def test_a_request_that_would_be_tried_again_after_closing_is_told() -> None:
    async with (
        echo_backend() as a,
        echo_backend() as b,
        over(a.address, b.address, retries=Retries(idempotent=True)) as it,
    ):
        task = asyncio.create_task(it.client.get("/slow"))
        await until(lambda: a.running + b.running == 1)
        await it.transport.aclose()
        with pytest.raises(RuntimeError, match="the transport was closed"):
            await task
        assert (it.in_flight(), it.outcomes()[1]) == (0, 0)
        assert it.connections() == "0 idle, 0 active"


async def test_it_may_be_used_again_after_it_was_closed() -> None:
    async with echo_backend() as a, over(a.address) as it:
        await it.transport.aclose()
        await it.client.get("/")
        await it.transport.aclose()
        await it.transport.aclose()
        await until(lambda: not a.open)
        await it.client.get("/")
        assert it.connections() == "1 idle, 0 active"


def test_one_transport_serves_under_one_event_loop_after_another() -> None:
    pool = BackendPool.static(["127.0.0.1:1"])
    transport = BackendTransport(Balancer(pool), verify=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://api")

    async def lifespan() -> None:
        async with echo_backend() as a:
            pool.update([a.address])
            for _ in range(3):
                assert (await client.get("/")).status_code == 200
            assert a.accepted == 1
            assert repr(transport).endswith("connections: 1 idle, 0 active>")

    for _ in range(3):
        # The client is not closed: the end of the loop closes the connection.
        asyncio.run(lifespan())
    assert repr(transport).endswith("connections: 0 idle, 0 active>")


def test_event_loops_at_the_same_time_have_connections_of_their_own() -> None:
    pool = BackendPool.static(["127.0.0.1:1"])
    transport = BackendTransport(Balancer(pool), verify=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://api")
    both_are_there = threading.Barrier(2)

    def elsewhere() -> None:
        async def main() -> None:
            async with echo_backend() as a:
                await asyncio.to_thread(both_are_there.wait, 10)
                pool.update([a.address])
                await client.get("/")
                await asyncio.to_thread(both_are_there.wait, 10)
                await asyncio.to_thread(both_are_there.wait, 10)
                await client.get("/")

        asyncio.run(main())

    async def here() -> None:
        await asyncio.to_thread(both_are_there.wait, 10)
        await asyncio.to_thread(both_are_there.wait, 10)
        # Over there one is idle; it is none of this loop's.
        await client.get("/")
        assert repr(transport).endswith("connections: 2 idle, 0 active>")
        await transport.aclose()
        assert repr(transport).endswith("connections: 1 idle, 0 active>")
        await asyncio.to_thread(both_are_there.wait, 10)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    asyncio.run(here())
    thread.join()


def test_connections_of_a_loop_that_was_closed_under_them_are_dropped() -> None:
    pool = BackendPool.static(["127.0.0.1:1"])
    transport = BackendTransport(Balancer(pool), verify=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://api")

    async def used() -> None:
        async with echo_backend() as a:
            pool.update([a.address])
            assert (await client.get("/")).status_code == 200

    loop = asyncio.new_event_loop()
    loop.run_until_complete(used())
    loop.close()
    pool.update([])
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        # asyncio's word on sockets that outlive their loop.
        asyncio.run(used())
        gc.collect()
    assert repr(transport).endswith("connections: 0 idle, 0 active>")


def test_the_state_is_in_its_repr() -> None:
    transport = BackendTransport(Balancer(BackendPool.static(["10.0.0.1:1"])), verify=False)
    assert repr(transport) == "<BackendTransport static: 1 backend, connections: 0 idle, 0 active>"


async def _slowly(seconds: float) -> AsyncIterator[bytes]:
    yield b"x"
    await asyncio.sleep(seconds)
    yield b"y"


async def test_a_request_that_waited_for_a_connection_goes_where_the_list_leads_then() -> None:
    limits = httpx.Limits(max_connections=1)
    async with echo_backend() as a, echo_backend() as b, over(a.address, limits=limits) as it:
        (task,) = await held(it, a, 1)
        waiting = asyncio.create_task(it.client.post("/sink"))
        await until(lambda: it.connections() == "0 idle, 1 active, 1 waited for")
        it.pool.update([b.address])
        a.release.set()
        await task
        assert (await waiting).extensions["backend"] == b.address
        assert len(a.requests) == 1


async def test_waiting_for_a_connection_is_no_use_of_a_backend() -> None:
    limits = httpx.Limits(max_connections=1)
    async with echo_backend() as a, over(a.address, limits=limits) as it:
        (task,) = await held(it, a, 1)
        waiting = asyncio.create_task(it.client.get("/", timeout=httpx.Timeout(10, pool=0.05)))
        await until(lambda: it.connections() == "0 idle, 1 active, 1 waited for")
        assert it.in_flight() == 1
        await asyncio.wait({waiting})
        assert isinstance(waiting.exception(), httpx.PoolTimeout)
        (state,) = it.balancer.explain().backends
        assert (state.requests, state.latency) == (0, None)
        a.release.set()
        await task


async def test_without_a_backend_after_the_wait_the_slot_is_given_back() -> None:
    limits = httpx.Limits(max_connections=1)
    async with echo_backend() as a, over(a.address, limits=limits) as it:
        (task,) = await held(it, a, 1)
        waiting = asyncio.create_task(it.client.get("/"))
        await until(lambda: it.connections() == "0 idle, 1 active, 1 waited for")
        it.pool.update([])
        a.release.set()
        await task
        with pytest.raises(httpx.ConnectError, match="no backend"):
            await waiting
        it.pool.update([a.address])
        assert (await it.client.get("/")).status_code == 200
