"""Bytes behind the end of an answer are never taken for the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from types import ModuleType

import pytest
from backends import certificates, echo_backend, raw_backend, read_request
from httpx_clients import Over, both, over

from backendpool_async.httpx.connection import Connection

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


def idle_connection(it: Over) -> Connection:
    (connections,) = it.transport._connections.values()
    (connection,) = connections._idle
    return connection


@both
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
async def test_a_second_answer_is_not_that_of_the_next_request(
    library: ModuleType, tls: bool, at_once: bool
) -> None:
    async def answers_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            if at_once:
                writer.write(OK + EVIL)
            else:
                # In a record of its own, where there are records.
                writer.writelines([OK])
                writer.writelines([EVIL])

    server = certificates().server("api") if tls else None
    async with (
        raw_backend(answers_twice, tls=server) as a,
        over(
            a.address,
            library=library,
            verify=certificates().client(),
            base_url=f"http{'s' * tls}://api",
        ) as it,
    ):
        for number in range(1, 4):
            assert (await it.client.get("/")).text == "ok"
            assert a.accepted == number


@both
async def test_the_body_of_an_answer_to_head_is_not_the_next_answer(library: ModuleType) -> None:
    async def answers_head_in_full(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            head, _ = await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(EVIL))
            writer.write(EVIL if head.startswith(b"HEAD") else b"x" * len(EVIL))

    async with (
        raw_backend(answers_head_in_full) as a,
        over(a.address, library=library) as it,
    ):
        assert (await it.client.head("/")).content == b""
        assert (await it.client.get("/")).content == b"x" * len(EVIL)
        assert a.accepted == 2


@both
async def test_what_the_stream_holds_back_is_not_the_next_answer(library: ModuleType) -> None:
    async with echo_backend() as a, over(a.address, library=library) as it:
        await it.client.get("/")
        held_back = idle_connection(it).dialer._received
        assert isinstance(held_back, deque)
        held_back.append(EVIL)
        assert (await it.client.get("/")).text != "evil"
        assert a.accepted == 2


@both
async def test_what_is_looked_at_in_the_network_library_is_there(library: ModuleType) -> None:
    async with echo_backend() as a, over(a.address, library=library) as it:
        await it.client.get("/")
        connection = idle_connection(it).http._connection
        assert connection is not None
        assert connection._h11_state.trailing_data == (b"", False)  # type: ignore[attr-defined]  # of HTTP/1.1
        assert connection._network_stream.get_extra_info("ssl_object") is None  # type: ignore[attr-defined]  # of HTTP/1.1
