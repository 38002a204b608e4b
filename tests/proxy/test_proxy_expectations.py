"""Bodies that a client sends only when it is told to: nobody takes the next request for one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import servers
from backends import Answer, connected, echo_backend, raw_backend, read_answer, read_head
from proxy_fronts import ALL, Proxied, proxied

from backendpool_async.proxy import ProxyLimits

each_front = pytest.mark.parametrize("front", ALL)


def post(*lines: bytes, method: bytes = b"POST") -> bytes:
    head = b"%b /one HTTP/1.1\r\nHost: api\r\nContent-Length: 41\r\n" % method
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


EXPECTING = post(b"Expect: 100-continue")
SECOND = b"GET /two HTTP/1.1\r\nHost: api\r\n\r\n"


async def final_answer(reader: asyncio.StreamReader) -> Answer:
    answer = await read_answer(reader)
    # aiohttp.web tells every client to go on.
    return answer if answer.status != 100 else await read_answer(reader)


async def answers(place: Proxied, first: bytes) -> tuple[Answer, bytes]:
    """The answer to a request whose body is not sent, and all that follows a second one."""
    async with connected(place.address) as (reader, writer):
        writer.write(first)
        answer = await final_answer(reader)
        writer.write(SECOND)
        try:
            async with asyncio.timeout(servers.PATIENCE):
                return answer, await reader.read()
        except ConnectionError:
            return answer, b""


REFUSALS: dict[str, tuple[int, bytes, dict[str, Any]]] = {
    "nobody to ask": (503, EXPECTING, {}),
    "no connection": (502, EXPECTING, {}),
    "too many": (503, EXPECTING, {"limits": ProxyLimits(concurrent_requests=1)}),
    "too long": (413, EXPECTING, {"limits": ProxyLimits(body_size=40)}),
    "too slow": (504, EXPECTING, {"limits": ProxyLimits(total_timeout=0.2)}),
    "a method": (405, post(b"Expect: 100-continue", method=b"TRACE"), {}),
}


@each_front
@pytest.mark.parametrize("case", REFUSALS)
async def test_what_the_proxy_refuses_ends_with_its_connection(front: str, case: str) -> None:
    status, first, keywords = REFUSALS[case]
    async with echo_backend() as echo, raw_backend(silent) as mute:
        backend = mute.address if case == "too slow" else echo.address
        unasked = {"nobody to ask": [], "no connection": [servers.nobody()]}
        listed = unasked.get(case, [backend])
        async with proxied(front, *listed, lingering_time=0.1, **keywords) as place:
            if case == "too many":
                place.proxy._core.in_flight += 1
            answer, rest = await answers(place, first)
    assert answer.status == status
    assert answer.value("connection") == "close"
    assert not rest
    assert not echo.requests


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


@each_front
@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_an_answer_that_needs_no_body_ends_with_its_connection(
    front: str, interim: bytes
) -> None:
    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_head(reader))
        # One packet: nobody has the time to tell the client.
        writer.write(interim + b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    heads: list[bytes] = []
    async with (
        raw_backend(hasty) as backend,
        proxied(front, backend.address, lingering_time=0.1) as place,
    ):
        answer, rest = await answers(place, EXPECTING)
    assert (answer.status, answer.body) == (401, b"no")
    assert answer.value("connection") == "close"
    assert not rest
    assert len(heads) == 1


@each_front
async def test_a_refusal_of_a_body_that_was_asked_for_keeps_the_connection(front: str) -> None:
    async with proxied(front) as place, connected(place.address) as (reader, writer):
        for _ in range(2):
            writer.write(post() + b"x" * 41)
            answer = await read_answer(reader)
            assert (answer.status, answer.value("connection")) == (503, None)


# aiohttp.web has an answer of its own to that.
@pytest.mark.parametrize("front", [front for front in ALL if front != "aiohttp"])
async def test_an_expectation_that_is_not_met_ends_the_connection(front: str) -> None:
    async with proxied(front) as place:
        answer, rest = await answers(place, post(b"Expect: miracles"))
    assert (answer.status, answer.value("connection"), rest) == (417, "close", b"")
