"""What passes through the proxy, unchanged, whichever server it runs under."""

from __future__ import annotations

import asyncio
import json

import pytest
from backends import (
    MISBEHAVIOURS,
    connected,
    echo_backend,
    exchange,
    raw_backend,
    read_answer,
    read_head,
)
from backends_echo import octets
from proxy_fronts import FRONTS, proxied

each_front = pytest.mark.parametrize("front", FRONTS)

# uvicorn and hypercorn say no more of a target than ASGI has room for.
TARGETS = [
    b"/",
    b"/a%2Fb",
    b"/%2e%2e/x",
    b"/a/../b",
    b"//double//slashes",
    b"/%FF%FE",
    b"/caf%C3%A9;v=1;w",
    b"/a?x=1&y=%20&z=a+b",
    b"/a?next=http://b/c?d",
    b"/~!$&'()*+,;=:@",
]


@each_front
async def test_path_and_query_arrive_byte_by_byte(front: str) -> None:
    async with (
        echo_backend() as echo,
        proxied(front, echo.address) as place,
        connected(place.address) as (reader, writer),
    ):
        for target in TARGETS:
            writer.write(b"GET %b HTTP/1.1\r\nHost: api\r\n\r\n" % target)
            assert (await read_answer(reader)).status == 200
    assert [request.target.encode() for request in echo.requests] == TARGETS


async def test_an_empty_query_passes_where_the_server_tells_of_it() -> None:
    async with echo_backend() as echo, proxied("aiohttp", echo.address) as place:
        request = b"GET /path? HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
        assert b" 200 " in await exchange(place.address, request)
    assert echo.requests[0].target == "/path?"


# httptools, uvicorn's default, keeps no more of such a target than its path.
@pytest.mark.parametrize("front", ["hypercorn", "aiohttp", "uvicorn-h11"])
async def test_of_a_target_with_a_host_that_is_the_host(front: str) -> None:
    async with echo_backend() as echo, proxied(front, echo.address) as place:
        request = b"GET http://other:81/a?b HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
        assert b" 200 " in await exchange(place.address, request)
    (received,) = echo.requests
    assert (received.target, received.value("host")) == ("/a?b", "other:81")
    assert received.value("x-forwarded-host") == "other:81"


@each_front
async def test_options_go_no_further_than_they_may(front: str) -> None:
    request = b"OPTIONS / HTTP/1.1\r\nHost: api\r\nMax-Forwards: %d\r\nConnection: close\r\n\r\n"
    async with echo_backend() as echo, proxied(front, echo.address) as place:
        answer = await exchange(place.address, request % 0)
        assert b" 200 " in answer
        assert b"\r\nallow: " in answer.lower()
        assert not echo.requests
        await exchange(place.address, request % 3)
    assert echo.requests[0].value("max-forwards") == "2"


@each_front
async def test_a_method_and_a_body_arrive(front: str) -> None:
    cases = [
        (method, body)
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        for body in (b"hello", b"")
    ]
    async with echo_backend() as echo, proxied(front, echo.address) as place:
        async with connected(place.address) as (reader, writer):
            for method, body in cases:
                head = f"{method} /x HTTP/1.1\r\nHost: api\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                answer = await read_answer(reader, method)
                assert json.loads(answer.body)["body"] == body.decode()
                assert json.loads(answer.body)["method"] == method
        lengths = [request.value("content-length") for request in echo.requests]
        assert lengths == ["5", "0"] * 6
        # All came over one connection to the backend.
        assert echo.accepted == 1


@each_front
async def test_a_request_without_a_body_gets_no_framing(front: str) -> None:
    async with echo_backend() as echo, proxied(front, echo.address) as place:
        await exchange(place.address, b"GET /x HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
    names = [name.lower() for name, _ in echo.requests[0].headers]
    assert "content-length" not in names
    assert "transfer-encoding" not in names


@each_front
async def test_a_chunked_body_arrives_in_chunks(front: str) -> None:
    async with (
        echo_backend() as echo,
        proxied(front, echo.address) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"POST /x HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        answer = await read_answer(reader)
    assert json.loads(answer.body)["body"] == "hello world"
    assert echo.requests[0].value("transfer-encoding") == "chunked"
    assert echo.requests[0].value("content-length") is None


@each_front
async def test_the_answer_keeps_its_status_length_and_cookies(front: str) -> None:
    async with (
        echo_backend() as echo,
        proxied(front, echo.address) as place,
        connected(place.address) as (reader, writer),
    ):
        for path in (b"/cookie", b"/status/404", b"/redirect", b"/gzip"):
            writer.write(b"GET %b HTTP/1.1\r\nHost: api\r\n\r\n" % path)
        cookies, missing, redirect, packed = [await read_answer(reader) for _ in range(4)]
    assert cookies.values("set-cookie") == ["session=1; HttpOnly; Path=/", "theme=dark; Path=/"]
    assert missing.status == 404
    assert (redirect.status, redirect.value("location")) == (302, "/landed")
    assert packed.value("content-encoding") == "gzip"
    assert packed.body[:2] == b"\x1f\x8b"
    assert packed.value("via") == "1.1 backendpool"


@each_front
async def test_the_answer_to_head_keeps_its_length_and_has_no_body(front: str) -> None:
    async with echo_backend() as echo, proxied(front, echo.address) as place:
        async with connected(place.address) as (reader, writer):
            for _ in range(2):
                writer.write(b"HEAD /bytes/1000 HTTP/1.1\r\nHost: api\r\n\r\n")
                answer = await read_answer(reader, "HEAD")
                assert answer.value("content-length") == "1000"
        assert echo.accepted == 1


@each_front
async def test_an_answer_without_a_body_has_none(front: str) -> None:
    async def bodiless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for status in (204, 304, 204):
            await read_head(reader)
            length = b"Content-Length: 1000\r\n" if status == 304 else b""
            writer.write(b"HTTP/1.1 %d X\r\nETag: x\r\n%b\r\n" % (status, length))

    async with raw_backend(bodiless) as backend, proxied(front, backend.address) as place:
        async with connected(place.address) as (reader, writer):
            for status in (204, 304, 204):
                writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
                answer = await read_answer(reader)
                assert answer.status == status
                assert answer.value("etag") == "x"
                assert answer.value("content-length") is None
        assert backend.accepted == 1


@each_front
async def test_a_large_answer_arrives_whole(front: str) -> None:
    async with echo_backend() as echo, proxied(front, echo.address) as place:
        async with connected(place.address) as (reader, writer):
            for kind in ("bytes", "chunked", "bytes"):
                writer.write(f"GET /{kind}/3000000 HTTP/1.1\r\nHost: api\r\n\r\n".encode())
                answer = await read_answer(reader)
                # Its pieces of 64 KiB begin anew.
                assert len(answer.body) == 3_000_000
                assert answer.body[:65536] == octets(65536)
        assert echo.accepted == 1


@each_front
async def test_events_arrive_one_by_one(front: str) -> None:
    async with (
        echo_backend() as echo,
        proxied(front, echo.address) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"GET /sse HTTP/1.1\r\nHost: api\r\n\r\n")
        head = await read_head(reader)
        assert b"text/event-stream" in head
        for number in range(3):
            event = b"data: %d\n\n" % number
            await echo.chunks.put(event)
            # In time: the next one is not sent before this one has come.
            assert event in await asyncio.wait_for(reader.readuntil(event), 10)
        await echo.chunks.put(None)
        assert b"0\r\n\r\n" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)


@each_front
async def test_a_body_and_its_answer_pass_at_the_same_time(front: str) -> None:
    async with (
        echo_backend() as echo,
        proxied(front, echo.address) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"POST /upload HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n")
        await read_head(reader)
        for word in (b"one!!", b"two!!"):
            writer.write(b"5\r\n%b\r\n" % word)
            await asyncio.wait_for(reader.readuntil(word), 10)
        writer.write(b"0\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)


@each_front
async def test_a_large_body_arrives_whole(front: str) -> None:
    size = 3_000_000
    async with (
        echo_backend() as echo,
        proxied(front, echo.address) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"PUT /sink HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % size)
        writer.write(b"x" * size)
        answer = await read_answer(reader)
        assert answer.body == b"%d" % size


async def test_a_client_that_waits_for_100_gets_it_from_the_backend() -> None:
    wanted = asyncio.Event()

    async def careful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        assert b"expect: 100-continue" in head
        await wanted.wait()
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)
        await reader.read()

    async with (
        raw_backend(careful) as backend,
        proxied("uvicorn", backend.address) as place,
        connected(place.address) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n")
        writer.write(b"Expect: 100-continue\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        wanted.set()
        assert (await read_head(reader)).startswith(b"HTTP/1.1 100 ")
        writer.write(b"hello")
        assert (await read_answer(reader)).body == b"hello"


async def test_a_body_that_the_backend_does_not_want_is_not_asked_for() -> None:
    async def careful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
        assert await reader.read() == b""

    async with raw_backend(careful) as backend, proxied("uvicorn", backend.address) as place:
        request = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n"
        answer = await exchange(place.address, request + b"Expect: 100-continue\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 401 ")
        # Where the client's next request begins is not known.
        assert b"connection: close" in answer


async def test_a_backend_that_never_says_100_gets_the_body_after_a_second() -> None:
    async def careless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        body = await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)
        await reader.read()

    async with raw_backend(careless) as backend, proxied("uvicorn", backend.address) as place:
        request = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\nConnection: close\r\n"
        answer = await exchange(place.address, request + b"Expect: 100-continue\r\n\r\nhello")
        assert answer.startswith(b"HTTP/1.1 100 ")
        assert answer.endswith(b"hello")


@each_front
async def test_interim_answers_are_not_the_answer(front: str) -> None:
    async with (
        raw_backend(MISBEHAVIOURS["informs_first"]) as backend,
        proxied(front, backend.address) as place,
        connected(place.address) as (reader, writer),
    ):
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
            assert (await read_answer(reader)).body == b"ok"


@each_front
async def test_an_answer_without_a_length_ends_with_its_connection(front: str) -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nall of it")

    async with raw_backend(old) as backend, proxied(front, backend.address) as place:
        async with connected(place.address) as (reader, writer):
            for _ in range(2):
                writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
                assert (await read_answer(reader)).body == b"all of it"
        assert place.failures() == 0


@pytest.mark.parametrize("front", ["hypercorn", "aiohttp"])
async def test_a_client_of_http_1_0_is_answered(front: str) -> None:
    async with echo_backend() as echo, proxied(front, echo.address) as place:
        answer = await exchange(place.address, b"GET /chunked/10 HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n0123456789")
    assert echo.requests[0].value("host") == echo.address
    assert echo.requests[0].value("via") == "1.0 backendpool"
