"""WebSockets through the middleware."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp_sessions import balancer_of, in_flight, session_of, state_of
from backends import MISBEHAVIOURS, echo_backend, raw_backend, read_head
from servers import nobody, until

from backendpool_async.aiohttp import backend_middleware
from backendpool_async.retries import Retries


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_a_websocket_leads_to_a_backend_and_is_leased_while_it_is_open(scheme: str) -> None:
    async with echo_backend() as a:
        a.subprotocols = ("chat",)
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            async with s.ws_connect(f"{scheme}://api/ws", protocols=["chat"]) as socket:
                assert socket.protocol == "chat"
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
                assert in_flight(balancer) == 1
            await until(lambda: in_flight(balancer) == 0)
        assert a.requests[0].value("Host") == "api"
        state = state_of(balancer)
        assert (state.requests, state.failures) == (1, 0)


async def test_how_long_a_websocket_was_open_is_no_latency() -> None:
    times = [0.0]
    async with echo_backend() as a:
        balancer = balancer_of(a, clock=lambda: times[0])
        async with session_of(balancer) as s:
            async with s.ws_connect("http://api/ws"):
                times[0] = 3600.0
            await until(lambda: in_flight(balancer) == 0)
    assert state_of(balancer).latency == 0.0


async def test_a_websocket_that_is_refused_ends_its_lease() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await s.ws_connect("http://api/ws/refused")
            await until(lambda: in_flight(balancer) == 0)


async def test_a_websocket_goes_elsewhere_when_a_connection_is_refused() -> None:
    async with echo_backend() as a, session_of(balancer_of(nobody(), a)) as s:
        for _ in range(3):
            async with s.ws_connect("http://api/ws") as socket:
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"


async def test_a_websocket_that_the_backend_closes_ends_its_lease() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s, s.ws_connect("http://api/ws") as socket:
            await socket.send_str("close 4000 bye")
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            await until(lambda: in_flight(balancer) == 0)
        assert state_of(balancer).failures == 0


async def test_a_websocket_whose_connection_is_lost_ends_its_lease_at_once() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            socket = await s.ws_connect("http://api/ws")
            await socket.send_str("abort")
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSED
            # aiohttp itself waits until the socket is collected.
            await until(lambda: in_flight(balancer) == 0)
            socket._response.close()


async def test_a_reset_websocket_is_a_failure_of_the_backend() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s, s.ws_connect("http://api/ws") as socket:
            connection = socket._response.connection
            assert connection is not None
            assert connection.protocol is not None
            connection.protocol.connection_lost(ConnectionResetError("by the backend"))
            await until(lambda: in_flight(balancer) == 0)
            socket._response.close()
        assert state_of(balancer).failures == 1


async def test_a_cancelled_websocket_ends_its_lease() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)

        async def use(session: aiohttp.ClientSession) -> None:
            async with session.ws_connect("http://api/ws") as socket:
                await socket.receive()

        for steps in range(40):
            async with session_of(balancer) as s:
                task = asyncio.create_task(use(s))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait({task})
                await until(lambda: in_flight(balancer) == 0)
        assert state_of(balancer).failures == 0


async def test_a_websocket_stays_open_when_its_backend_is_removed() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s, s.ws_connect("http://api/ws") as socket:
            balancer._pool.update([])
            for text in ("one", "two"):
                await socket.send_str(text)
                assert await socket.receive_str() == text


async def test_an_upgrade_that_nobody_asked_for_is_leased_until_it_is_closed() -> None:
    async with raw_backend(MISBEHAVIOURS["switches_unasked"]) as raw:
        balancer = balancer_of(raw)
        async with session_of(balancer, retries=Retries(attempts=1)) as s:
            response = await s.get("http://api/")
            assert (response.status, in_flight(balancer)) == (101, 1)
            response.close()
            await until(lambda: in_flight(balancer) == 0)


async def test_a_socket_that_is_gone_when_the_answer_is_taken_ends_its_lease() -> None:
    async def switch_and_leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
        )

    async def late(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        response = await handler(request)
        connection = response.connection
        assert connection is not None
        await until(lambda: connection.closed)
        return response

    async with raw_backend(switch_and_leave) as raw:
        balancer = balancer_of(raw)
        middlewares = [backend_middleware(balancer), late]
        async with aiohttp.ClientSession(middlewares=middlewares) as s:
            response = await s.get("http://api/")
            assert in_flight(balancer) == 0
            response.close()
