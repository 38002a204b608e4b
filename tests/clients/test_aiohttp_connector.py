"""What becomes of connections."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import weakref
from types import SimpleNamespace
from typing import Any
from unittest import mock

import aiohttp
import pytest
from aiohttp_sessions import balancer_of, in_flight, session_of
from backends import MISBEHAVIOURS, certificates, echo_backend, raw_backend, read_head
from servers import nobody, until
from yarl import URL

from backendpool_async import Backend, BackendPool, Balancer, Maglev
from backendpool_async.aiohttp import BackendConnector, backend_middleware, backend_protocol
from backendpool_async.aiohttp import connector as connector_module
from backendpool_async.aiohttp.backend_protocol import BackendProtocol
from backendpool_async.retries import Retries

# Long before aiohttp itself closes what is idle.
SOON = 5.0


async def test_connections_are_used_again() -> None:
    async with echo_backend() as a, session_of(balancer_of(a)) as s:
        for _ in range(5):
            await (await s.get("http://api/")).read()
        assert a.accepted == 1


async def test_idle_connections_of_a_removed_backend_are_closed_though_no_request_comes() -> None:
    async with echo_backend() as a, echo_backend() as b:
        balancer = balancer_of(a, b)
        async with session_of(balancer) as s:
            for _ in range(2):
                await (await s.get("http://api/")).read()
            assert (a.open, b.open) == (1, 1)
            balancer._pool.update([b.address])
            await until(lambda: a.open == 0, within=SOON)
            assert b.open == 1
            await (await s.get("http://api/")).read()
            assert b.accepted == 1


async def test_a_list_that_is_changed_in_a_thread_is_followed() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            await (await s.get("http://api/")).read()
            thread = threading.Thread(target=balancer._pool.update, args=[[]])
            thread.start()
            await until(lambda: a.open == 0, within=SOON)
            thread.join()


async def test_connections_in_use_are_closed_after_their_response() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            async with s.get("http://api/stream") as response:
                balancer._pool.update([])
                for piece in (b"one", b"two"):
                    a.chunks.put_nowait(piece)
                    assert await response.content.readany() == piece
                assert a.open == 1
                a.chunks.put_nowait(None)
                assert await response.read() == b""
            await until(lambda: a.open == 0, within=SOON)
        assert [state for state in balancer.explain().backends if state.failures] == []


async def test_a_request_that_waits_for_a_connection_goes_to_who_is_listed_then() -> None:
    async with echo_backend() as a, echo_backend() as b:
        balancer = balancer_of(a)
        async with session_of(balancer, limit=1) as s:
            async with s.get("http://api/stream"):
                waiting = [asyncio.create_task(s.post("http://api/")) for _ in range(3)]
                await until(lambda: in_flight(balancer) == 4)
                balancer.pool.update([b.address])
                await asyncio.sleep(0)
            for task in waiting:
                async with await task as response:
                    assert response.status == 200
            assert [request.method for request in b.requests] == ["POST"] * 3
            assert len(a.requests) == 1
        assert [state.failures for state in balancer.explain().backends] == [0]
        assert balancer.explain().retries == 0


async def test_a_balancer_that_has_not_followed_yet_does_not_keep_the_loop() -> None:
    async with (
        echo_backend() as a,
        echo_backend() as b,
        Balancer(BackendPool.static([a.address, b.address]), Maglev()) as balancer,
    ):
        key = next(key for key in map(str, range(9999)) if balancer.pick(key) == a.address)
        async with aiohttp.ClientSession(
            connector=BackendConnector(balancer, limit=1),
            middlewares=[backend_middleware(balancer, key=lambda _: key)],
        ) as s:
            async with s.get("http://api/stream"):
                waiting = asyncio.create_task(s.get("http://api/"))
                await until(lambda: in_flight(balancer) == 2)
                # Its table is built in a thread, and has the first one until then.
                balancer.pool.update([b.address])
                await asyncio.sleep(0)
            async with await waiting as response:
                assert response.status == 200
        assert (len(a.requests), len(b.requests)) == (1, 1)


async def test_a_backend_that_is_no_longer_in_another_pool_is_asked_all_the_same() -> None:
    async with echo_backend() as a, echo_backend() as b:
        balancer, other = balancer_of(a), BackendPool.static([a.address, b.address])
        async with aiohttp.ClientSession(
            connector=BackendConnector(other, limit=1), middlewares=[backend_middleware(balancer)]
        ) as s:
            async with s.get("http://api/stream"):
                waiting = asyncio.create_task(s.get("http://api/"))
                await until(lambda: in_flight(balancer) == 2)
                other.update([b.address])
                await asyncio.sleep(0)
            async with await waiting as response:
                assert response.status == 200
        assert len(a.requests) == 2


async def test_a_burst_of_changes_is_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = BackendPool.static([nobody()])
    async with BackendConnector(pool) as connector:
        assert isinstance(connector, BackendConnector)
        listed = mock.Mock(side_effect=connector._list_now)
        monkeypatch.setattr(connector, "_list_now", listed)
        for _ in range(10):
            pool.update([nobody()])
        await asyncio.sleep(0)
        assert listed.call_count == 1
        assert connector._listed == set(pool.backends())
        pool.update([])
        await asyncio.sleep(0)
        assert listed.call_count == 2


async def test_a_connection_that_is_made_after_the_removal_is_used_once() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer, limit=1) as s:
            async with s.get("http://api/stream"):
                # It has chosen, and waits for the only connection.
                waiting = asyncio.create_task(s.get("http://api/"))
                await until(lambda: in_flight(balancer) == 2)
                balancer._pool.update([])
                await asyncio.sleep(0)
            async with await waiting as response:
                assert response.status == 200
            await until(lambda: a.open == 0, within=SOON)


async def test_a_backend_that_returns_keeps_its_connections_again() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            for entries in ([], [a.address]):
                await (await s.get("http://api/")).read() if entries == [] else None
                balancer._pool.update(entries)
                await asyncio.sleep(0)
            await until(lambda: a.open == 0, within=SOON)
            for _ in range(3):
                await (await s.get("http://api/")).read()
            assert (a.accepted, a.open) == (2, 1)


async def test_what_left_the_list_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector_module, "_REMEMBERED", 0.0)
    pool = BackendPool.static([nobody(), nobody()])
    async with BackendConnector(pool) as connector:
        for count in (1, 0):
            pool.update([nobody() for _ in range(count)])
            await asyncio.sleep(0.001)
            assert isinstance(connector, BackendConnector)
            assert len(connector._removed) == 2 - (count == 0)


async def test_connections_to_other_hosts_are_left_alone() -> None:
    async with echo_backend() as a, echo_backend() as other:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            for url in ("http://api/", f"http://{other.address}/"):
                await (await s.get(url)).read()
            balancer._pool.update([])
            await until(lambda: a.open == 0, within=SOON)
            await (await s.get(f"http://{other.address}/")).read()
            assert (other.accepted, other.open) == (1, 1)


async def test_a_connector_follows_several_pools() -> None:
    async with echo_backend() as a, echo_backend() as b:
        one, two = BackendPool.static([a.address]), BackendPool.static([a.address, b.address])
        async with aiohttp.ClientSession(connector=BackendConnector(one, two)) as s:
            for backend in (a, b):
                await (await s.get(f"http://{backend.address}/")).read()
            one.update([])
            await asyncio.sleep(0)
            # The other one lists it still.
            await (await s.get(f"http://{a.address}/")).read()
            assert a.accepted == 1
            two.update([])
            await until(lambda: a.open == b.open == 0, within=SOON)


async def test_an_idle_connection_is_closed_at_its_maximal_age() -> None:
    async with echo_backend() as a, session_of(balancer_of(a), max_age=0.1) as s:
        await (await s.get("http://api/")).read()
        assert a.open == 1
        await until(lambda: a.open == 0, within=SOON)


async def test_a_connection_that_is_too_old_is_closed_after_its_response() -> None:
    async with echo_backend() as a, session_of(balancer_of(a), max_age=0.05) as s:
        async with s.get("http://api/stream") as response:
            connection = response.connection
            assert connection is not None
            protocol = connection.protocol
            assert protocol is not None
            await until(lambda: protocol.should_close)
            a.chunks.put_nowait(b"last")
            a.chunks.put_nowait(None)
            assert await response.read() == b"last"
        await until(lambda: a.open == 0, within=SOON)


async def test_every_connection_has_an_age_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.2, 1.0])
    monkeypatch.setattr("random.uniform", lambda *_: next(shares))
    async with echo_backend() as a, session_of(balancer_of(a), max_age=0.5) as s:
        first, second = (asyncio.create_task(s.get("http://api/slow")) for _ in range(2))
        await until(lambda: a.open == 2)
        a.release.set()
        responses = [await first, await second]
        assert [response.status for response in responses] == [200, 200]
        for open_still in (1, 0):
            await until(lambda left=open_still: a.open == left)  # type: ignore[misc]  # a default binds it


async def test_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    async with raw_backend(MISBEHAVIOURS["closes_idle"]) as raw:
        async with session_of(balancer_of(raw), retries=Retries(attempts=1)) as s:
            for _ in range(5):
                assert await (await s.post("http://api/")).text() == "ok"
                await until(lambda: raw.open == 0)
                await asyncio.sleep(0.01)
        assert raw.accepted == 5


async def test_a_connection_that_was_closed_in_this_very_moment_is_not_used() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)

        async def answered() -> socket.socket:
            connection, _ = await loop.sock_accept(listening)
            assert await loop.sock_recv(connection, 1000)
            await loop.sock_sendall(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return connection

        address = "{}:{}".format(*listening.getsockname())
        async with session_of(Balancer(BackendPool.static([address]))) as s:
            for _ in range(3):
                answering = asyncio.create_task(answered())
                assert (await s.post("http://api/")).status == 200
                # The loop cannot tell of it before the next request looks for a connection.
                (await answering).close()


async def test_nor_is_it_behind_one_that_has_been_idle_for_too_long() -> None:
    async with echo_backend() as a, session_of(balancer_of(a)) as s:
        both = await asyncio.gather(*(s.get("http://api/stream") for _ in range(2)))
        for response in both:
            a.chunks.put_nowait(None)
            await response.read()
        assert isinstance(s.connector, BackendConnector)
        (idle,) = s.connector._conns.values()
        (first, since), (second, _) = idle
        idle[0] = (first, since - 1000)
        second._poll = lambda _: [(0, 0)]  # type: ignore[attr-defined]  # something came
        await (await s.get("http://api/")).read()
        assert a.accepted == 3


async def test_a_connection_that_is_not_open_is_not_quiet() -> None:
    assert not BackendProtocol(asyncio.get_running_loop()).is_quiet()


async def test_where_sockets_cannot_be_polled_the_loop_is_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend_protocol, "_new_poll", None)
    async with echo_backend() as a, session_of(balancer_of(a)) as s:
        for _ in range(3):
            await (await s.get("http://api/")).read()
        assert a.accepted == 1


async def test_an_answer_that_nobody_asked_for_is_given_to_nobody() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n%b"
    spoke = asyncio.Event()

    async def speaks_again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(answer % b"ok")
        await spoke.wait()
        writer.write(answer % b"no")
        await reader.read()

    async with raw_backend(speaks_again) as raw, session_of(balancer_of(raw)) as s:
        assert await (await s.get("http://api/")).text() == "ok"
        spoke.set()
        assert isinstance(s.connector, BackendConnector)
        (connection,) = s.connector._known
        await until(lambda: connection.received > 0)
        assert await (await s.get("http://api/")).text() == "ok"
        assert raw.accepted == 2


async def test_half_an_answer_that_nobody_asked_for_is_not_the_beginning_of_the_next() -> None:
    spoke = asyncio.Event()

    async def speaks_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await spoke.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nX-Half: ")
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")

    async with raw_backend(speaks_up) as raw, session_of(balancer_of(raw)) as s:
        assert await (await s.get("http://api/")).text() == "ok"
        spoke.set()
        assert isinstance(s.connector, BackendConnector)
        (connection,) = s.connector._known
        await until(lambda: connection.received > 0)
        assert await (await s.get("http://api/")).text() == "ok"
        assert raw.accepted == 2


async def test_an_address_is_never_looked_up() -> None:
    class Resolver(aiohttp.abc.AbstractResolver):
        async def resolve(self, *arguments: Any, **options: Any) -> Any:
            raise AssertionError("a lookup")

        async def close(self) -> None:
            pass

    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with aiohttp.ClientSession(
            connector=BackendConnector(balancer, resolver=Resolver()),
            middlewares=[backend_middleware(balancer)],
        ) as s:
            assert (await s.get("http://api/")).status == 200


async def test_tls_connections_of_a_removed_backend_are_closed() -> None:
    certificate = certificates()
    async with echo_backend(tls=certificate.server("api")) as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            await (await s.get("https://api/", ssl=certificate.client())).read()
            balancer._pool.update([])
            await until(lambda: a.open == 0, within=SOON)


async def test_a_connector_that_is_closed_follows_no_more() -> None:
    pool = BackendPool.static([nobody()])
    before = len(pool._wakers)
    connector = BackendConnector(pool)
    assert len(pool._wakers) == before + 1
    await connector.close()
    assert len(pool._wakers) == before
    await connector.close()
    pool.update([])


async def test_a_pool_does_not_keep_a_connector() -> None:
    pool = BackendPool.static([nobody()])
    before = len(pool._wakers)
    connector = BackendConnector(pool, resolver=aiohttp.ThreadedResolver())
    reference = weakref.ref(connector)
    del connector
    gc.collect()
    assert reference() is None
    assert len(pool._wakers) == before


async def test_its_timer_does_not_keep_a_connector() -> None:
    async with echo_backend() as a:
        connector = BackendConnector(
            BackendPool.static([a.address]), max_age=0.02, resolver=aiohttp.ThreadedResolver()
        )
        session = aiohttp.ClientSession(connector=connector)
        await (await session.get(f"http://{a.address}/", headers={"Connection": "close"})).read()
        reference = weakref.ref(connector)
        session.detach()
        del connector, session
        gc.collect()
        assert reference() is None
        await asyncio.sleep(0.05)


def test_a_pool_lives_on_after_the_loop_of_its_connector() -> None:
    pool = BackendPool.static([nobody()])

    async def use() -> BackendConnector:
        return BackendConnector(pool, resolver=aiohttp.ThreadedResolver())

    for _ in range(2):
        connector = asyncio.run(use())
        # It was not closed, and its loop was.
        pool.update([])
        pool.update([nobody()])
        connector._close()


def test_a_balancer_serves_one_loop_after_another() -> None:
    balancer = balancer_of(nobody())

    async def use() -> None:
        async with session_of(balancer) as s:
            with pytest.raises(aiohttp.ClientConnectorError):
                await s.get("http://api/")

    for _ in range(3):
        asyncio.run(use())
    assert in_flight(balancer) == 0


@pytest.mark.parametrize(
    ("balancers", "options", "error", "message"),
    [
        ((), {}, TypeError, "one or more"),
        (("10.0.0.1:80",), {}, TypeError, "one or more"),
        ((BackendPool.static([]), None), {}, TypeError, "one or more"),
        ((BackendPool.static([]),), {"max_age": 0}, ValueError, "max_age=0"),
        ((BackendPool.static([]),), {"max_age": "1"}, TypeError, "max_age='1'"),
    ],
)
async def test_bad_arguments_are_named(
    balancers: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        BackendConnector(*balancers, **options)


def test_an_address_is_written_as_its_backend_is() -> None:
    for address in ("[::ffff:10.0.0.1]:80", "[2001:db8::1]:8080", "10.0.0.1:80", "api-1:443"):
        request: Any = SimpleNamespace(url=URL.build(scheme="http", authority=address))
        assert connector_module._address(request) == Backend.parse(address)
