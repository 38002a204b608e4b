"""Messages, headers and handshakes of WebSockets, through the proxy under each server."""

from __future__ import annotations

import asyncio

import pytest
import websockets
from backends import connected, echo_backend, raw_backend, read_answer, read_head
from servers import nobody, until
from websocket_fronts import SERVERS, backend, client_of, fronted
from websockets.asyncio.server import ServerConnection

from backendpool_async.proxy import ProxyLimits

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: api.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)

pytestmark = pytest.mark.parametrize("server", SERVERS)


async def test_text_and_bytes_pass_both_ways(server: str) -> None:
    async with (
        backend() as echo,
        fronted(server, echo.address) as front,
        client_of(front) as client,
    ):
        for message in ("hällo", "", b"\0\xff", b"", "x" * 100_000):
            await client.send(message)
            assert await client.recv() == message


async def test_a_message_in_fragments_arrives_whole(server: str) -> None:
    async def in_fragments(connection: ServerConnection) -> None:
        await connection.send(["hä", "l", "lo"])
        await connection.send([b"1", b"2"])
        assert await connection.recv() == "whole"
        await connection.send("yes")

    async with (
        backend(in_fragments) as talks,
        fronted(server, talks.address) as front,
        client_of(front) as client,
    ):
        assert await client.recv() == "hällo"
        assert await client.recv() == b"12"
        await client.send(["who", "le"])
        assert await client.recv() == "yes"


async def test_the_backend_chooses_the_subprotocol(server: str) -> None:
    async with backend(subprotocols=["chat"]) as echo, fronted(server, echo.address) as front:
        offered = [websockets.Subprotocol(each) for each in ("superchat", "chat")]
        async with client_of(front, subprotocols=offered) as client:
            assert client.subprotocol == "chat"
            assert echo.connections[0].subprotocol == "chat"


async def test_a_backend_that_chooses_no_subprotocol_has_the_client_get_none(server: str) -> None:
    async with (
        backend() as echo,
        fronted(server, echo.address) as front,
        client_of(front, subprotocols=[websockets.Subprotocol("chat")]) as client,
    ):
        assert client.subprotocol is None


async def test_path_and_query_arrive_as_they_were_sent(server: str) -> None:
    async with (
        backend() as echo,
        fronted(server, echo.address) as front,
        client_of(front, "/a%2Fb//c;d/../e?x=%zz&y=/"),
    ):
        request = echo.connections[0].request
        assert request is not None
        assert request.path == "/a%2Fb//c;d/../e?x=%zz&y=/"


async def test_headers_pass_as_those_of_any_request(server: str) -> None:
    sent = {
        "Origin": "https://app.test",
        "Cookie": "a=1; b=2",
        "Connection": "Upgrade, X-Hop",
        "X-Hop": "1",
        "X-Forwarded-For": "203.0.113.7",
    }
    async with (
        backend() as echo,
        fronted(server, echo.address) as front,
        client_of(front, additional_headers=sent, compression="deflate") as client,
    ):
        request = echo.connections[0].request
        assert request is not None
        got = request.headers
        assert got["Origin"] == "https://app.test"
        assert got["Cookie"] == "a=1; b=2"
        assert got["Host"] == front.address
        assert got["X-Forwarded-For"] == "127.0.0.1"
        assert got["X-Forwarded-Proto"] == "http"
        assert got["Via"] == "1.1 backendpool"
        assert "X-Hop" not in got
        # Each hop has its own.
        assert "Sec-WebSocket-Extensions" not in got
        assert len(got.get_all("Sec-WebSocket-Key")) == 1
        assert client.request is not None
        assert got["Sec-WebSocket-Key"] != client.request.headers["Sec-WebSocket-Key"]


async def test_headers_of_the_101_come_back(server: str) -> None:
    def with_cookies(
        connection: ServerConnection, request: websockets.Request, response: websockets.Response
    ) -> None:
        response.headers["Set-Cookie"] = "a=1"
        response.headers["Set-Cookie"] = "b=2"

    async with (
        backend(process_response=with_cookies) as echo,
        fronted(server, echo.address) as front,
        client_of(front) as client,
    ):
        assert client.response is not None
        assert client.response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
        assert len(client.response.headers.get_all("Server")) <= 1


async def test_compression_is_agreed_on_with_the_client_alone(server: str) -> None:
    async with (
        backend() as echo,
        fronted(server, echo.address) as front,
        client_of(front, compression="deflate") as client,
    ):
        assert client.response is not None
        assert "permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"]
        for message in ("a" * 100_000, b"b" * 100_000):
            await client.send(message)
            assert await client.recv() == message


async def test_pings_are_answered_on_both_sides(server: str) -> None:
    async with (
        backend() as echo,
        fronted(server, echo.address) as front,
        client_of(front) as client,
    ):
        await client.send("open")
        assert await client.recv() == "open"
        async with asyncio.timeout(20):
            await (await client.ping())
            await (await echo.connections[0].ping(b"payload"))


async def test_the_client_is_accepted_only_after_the_backend_s_101(server: str) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def waits(connection: ServerConnection, request: websockets.Request) -> None:
        asked.set()
        await release.wait()

    async with (
        backend(process_request=waits) as slow,
        fronted(server, slow.address) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        await asked.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        release.set()
        assert (await read_answer(reader)).status == 101


async def test_a_client_that_does_not_wait_leaves_no_trace(server: str) -> None:
    left = asyncio.Event()

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        assert await reader.read() == b""
        left.set()

    async with raw_backend(waits) as slow, fronted(server, slow.address) as front:
        async with connected(front.address) as (_, writer):
            writer.write(HANDSHAKE % b"/")
            await until(lambda: front.state().in_flight == 1)
            await until(lambda: slow.open == 1)
        await asyncio.wait_for(left.wait(), 20)
        await until(lambda: front.state().in_flight == 0)
        assert front.state().failures == 0
        # Neither a success.
        assert front.state().requests == 0


async def test_the_backend_s_refusal_is_the_client_s(server: str) -> None:
    def refuses(connection: ServerConnection, request: websockets.Request) -> websockets.Response:
        response = connection.respond(401, "who are you?\n")
        response.headers["WWW-Authenticate"] = 'Basic realm="api"'
        return response

    async with backend(process_request=refuses) as strict, fronted(server, strict.address) as front:
        with pytest.raises(websockets.InvalidStatus) as raised:
            async with client_of(front):
                pass
        response = raised.value.response
        assert response.status_code == 401
        assert response.body == b"who are you?\n"
        assert response.headers["WWW-Authenticate"] == 'Basic realm="api"'
        assert front.state().failures == 0
        assert front.state().in_flight == 0


async def test_a_refusal_in_chunks_arrives_whole(server: str) -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(
            b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\nRetry-After: 7\r\n\r\n"
            b"4\r\nbusy\r\n0\r\n\r\n"
        )
        await reader.read()

    async with raw_backend(refuses) as busy, fronted(server, busy.address) as front:
        async with connected(front.address) as (reader, writer):
            writer.write(HANDSHAKE % b"/")
            answer = await read_answer(reader)
            assert (answer.status, answer.body) == (503, b"busy")
            assert answer.value("Retry-After") == "7"
        # A status that tells of a failure.
        assert front.state().last_failure == "503"


async def test_a_redirection_is_not_followed(server: str) -> None:
    async with echo_backend() as other:

        async def redirects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_head(reader)
            writer.write(
                b"HTTP/1.1 302 Found\r\nLocation: http://%b/ws\r\nContent-Length: 0\r\n\r\n"
                % other.address.encode()
            )

        async with (
            raw_backend(redirects) as there,
            fronted(server, there.address) as front,
            connected(front.address) as (reader, writer),
        ):
            writer.write(HANDSHAKE % b"/")
            answer = await read_answer(reader)
            assert answer.status == 302
            assert answer.value("Location") == f"http://{other.address}/ws"
        assert other.accepted == 0


async def test_without_a_backend_it_is_503(server: str) -> None:
    async with (
        fronted(server, retry_after=3) as front,
        connected(front.address) as (reader, writer),
    ):
        writer.write(HANDSHAKE % b"/")
        answer = await read_answer(reader)
        assert answer.status == 503
        assert answer.value("Retry-After") == "3"


async def test_a_backend_that_refuses_connections_is_passed_over(server: str) -> None:
    async with backend() as echo, fronted(server, nobody(), echo.address) as front:
        for _ in range(2):
            async with client_of(front) as client:
                await client.send("here")
                assert await client.recv() == "here"
        assert front.state(0).failures >= 1


async def test_if_all_refuse_connections_it_is_502(server: str) -> None:
    async with fronted(server, nobody()) as front, connected(front.address) as (reader, writer):
        writer.write(HANDSHAKE % b"/")
        assert (await read_answer(reader)).status == 502


async def test_too_many_at_once_are_refused(server: str) -> None:
    limits = ProxyLimits(concurrent_requests=1)
    async with backend() as echo, fronted(server, echo.address, limits=limits) as front:
        async with client_of(front), connected(front.address) as (reader, writer):
            writer.write(HANDSHAKE % b"/")
            assert (await read_answer(reader)).status == 503
        await until(lambda: front.proxy.in_flight == 0)
        async with client_of(front) as client:
            await client.send("again")
            assert await client.recv() == "again"
