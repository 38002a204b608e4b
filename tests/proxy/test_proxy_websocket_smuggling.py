"""Handshakes that two readers may read differently, against each server.

Bytes of one request never reach a backend as another one, and no tunnel opens without its 101.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from backends import connected, raw_backend, read_head
from test_proxy_smuggling import is_refusal
from test_proxy_websocket_details import switching
from websocket_fronts import SERVERS, fronted

each_server = pytest.mark.parametrize("server", SERVERS)

INNER = b"GET /smuggled-00 HTTP/1.1\r\nHost: api\r\n\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
VERSION = b"Sec-WebSocket-Version: 13"
UPGRADE = b"Upgrade: websocket"
CONNECTION = b"Connection: Upgrade"
CHUNK = b"5\r\nhello\r\n0\r\n\r\n"
# What a client says in a tunnel: a text that is nobody's request.
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100
FRAME = b"\x81\x84\0\0\0\0tell"


def asking(
    *lines: bytes, method: bytes = b"GET", version: bytes = b"1.1", body: bytes = b""
) -> bytes:
    head = b"%b /outer-00 HTTP/%b\r\nHost: api\r\n" % (method, version)
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


HANDSHAKE = (UPGRADE, CONNECTION, VERSION, KEY)
REQUESTS: dict[str, bytes] = {
    "a length": asking(*HANDSHAKE, b"Content-Length: %d" % len(INNER), body=INNER),
    "a length that is too short": asking(*HANDSHAKE, b"Content-Length: 5", body=b"hello" + INNER),
    "a length of 0": asking(*HANDSHAKE, b"Content-Length: 0", body=INNER),
    "two lengths": asking(
        *HANDSHAKE, b"Content-Length: 0", b"Content-Length: %d" % len(INNER), body=INNER
    ),
    "chunks": asking(*HANDSHAKE, b"Transfer-Encoding: chunked", body=CHUNK + INNER),
    "chunks and a length": asking(
        *HANDSHAKE, b"Transfer-Encoding: chunked", b"Content-Length: 5", body=CHUNK + INNER
    ),
    "another coding": asking(*HANDSHAKE, b"Transfer-Encoding: identity", body=CHUNK + INNER),
    "a request behind it": asking(*HANDSHAKE, body=INNER),
    "two handshakes": asking(*HANDSHAKE) * 2,
    "POST": asking(*HANDSHAKE, b"Content-Length: 5", method=b"POST", body=b"hello" + INNER),
    "POST without a body": asking(*HANDSHAKE, method=b"POST", body=INNER),
    "HTTP/1.0": asking(*HANDSHAKE, version=b"1.0", body=INNER),
    "h2c": asking(b"Upgrade: h2c", CONNECTION, VERSION, KEY, body=INNER),
    "h2c and websocket": asking(b"Upgrade: h2c, websocket", CONNECTION, VERSION, KEY, body=INNER),
    "two upgrades": asking(b"Upgrade: h2c", *HANDSHAKE, body=INNER),
    "two upgrades, otherwise": asking(*HANDSHAKE, b"Upgrade: h2c", body=INNER),
    "the same upgrade twice": asking(UPGRADE, *HANDSHAKE, body=INNER),
    "no upgrade": asking(CONNECTION, VERSION, KEY, body=INNER),
    "Connection without it": asking(UPGRADE, b"Connection: close", VERSION, KEY, body=INNER),
    "two Connections": asking(*HANDSHAKE, b"Connection: close", body=INNER),
    "Connection that names the key": asking(
        UPGRADE, b"Connection: Upgrade, Sec-WebSocket-Key", VERSION, KEY, body=INNER
    ),
    "no Connection": asking(UPGRADE, VERSION, KEY, body=INNER),
    "no key": asking(UPGRADE, CONNECTION, VERSION, body=INNER),
    "two keys": asking(*HANDSHAKE, KEY, body=INNER),
    "a key with an end of a line": asking(
        UPGRADE, CONNECTION, VERSION, KEY + b"\rX-Smuggled: 1", body=INNER
    ),
    "another version": asking(UPGRADE, CONNECTION, b"Sec-WebSocket-Version: 12", KEY, body=INNER),
    "two versions": asking(*HANDSHAKE, b"Sec-WebSocket-Version: 8", body=INNER),
    "an expectation": asking(*HANDSHAKE, b"Expect: 100-continue", body=INNER),
    "a subprotocol that is none": asking(*HANDSHAKE, b"Sec-WebSocket-Protocol: a b", body=INNER),
    "two hosts": asking(*HANDSHAKE, b"Host: other", body=INNER),
    "a name with a space": asking(*HANDSHAKE, b"Content-Length : 5", body=b"hello" + INNER),
    "in capitals": asking(b"UPGRADE: WebSocket", b"CONNECTION: UPGRADE", VERSION, KEY, body=INNER),
}

Answering = Callable[[bytes], bytes]


def accepted(head: bytes) -> bytes:
    return switching(head)


# What a backend may answer that opens no tunnel.
NO_TUNNELS: dict[str, Answering] = {
    "200": lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "200 with the proof": lambda head: (
        switching(head)
        .replace(b"101 Switching Protocols", b"200 OK")
        .replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n")
    ),
    "200 and another answer": lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" * 2,
    "a wrong proof": lambda head: switching(head).replace(b"Accept: ", b"Accept: x"),
    "no proof": lambda head: switching(head).replace(b"Sec-WebSocket-Accept", b"X-Accept"),
    "two proofs": lambda head: switching(head, "Sec-WebSocket-Accept: x\r\n"),
    "another protocol": lambda head: switching(head).replace(b": websocket", b": h2c"),
    "no upgrade": lambda head: switching(head).replace(b"Upgrade: websocket\r\n", b""),
    "no connection": lambda head: switching(head).replace(b"Connection: Upgrade", b"X: y"),
    "an extension": lambda head: switching(head, "Sec-WebSocket-Extensions: x\r\n"),
    "a subprotocol": lambda head: switching(head, "Sec-WebSocket-Protocol: x\r\n"),
    "HTTP/1.0": lambda head: switching(head).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "103": lambda head: switching(head).replace(b" 101 ", b" 103 "),
}


class Bench:
    """A server, the proxy, and a backend that keeps the heads and all bytes that it receives."""

    def __init__(self) -> None:
        self.answering: Answering = accepted
        self.heads: list[bytes] = []
        self.rest = bytearray()
        self.address = ""

    async def outcome(self, request: bytes, *more: bytes) -> bytes:
        """Send the request, the rest when it is answered, and return all that came back."""
        self.heads.clear()
        self.rest.clear()
        answer = b""
        async with connected(self.address) as (reader, writer):
            for part in (request, *more):
                with contextlib.suppress(TimeoutError, ConnectionError):
                    writer.write(part)
                    async with asyncio.timeout(0.15):
                        while data := await reader.read(65_536):
                            answer += data
        return answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            head = await read_head(reader)
            self.heads.append(head)
            if b"Sec-WebSocket-Key" in head:
                writer.write(self.answering(head))
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                await asyncio.sleep(0.01)
            while data := await reader.read(65_536):
                self.rest += data


@asynccontextmanager
async def bench(server: str) -> AsyncIterator[Bench]:
    made = Bench()
    async with raw_backend(made.serve) as backend, fronted(server, backend.address) as front:
        made.address = front.address
        yield made


@each_server
async def test_a_handshake_that_is_odd_smuggles_nothing(server: str) -> None:
    wrong = {}
    async with bench(server) as made:
        for number, (name, request) in enumerate(REQUESTS.items(), 10):
            if name == "HTTP/1.0" and server.startswith("uvicorn"):
                # Which makes HTTP/1.1 of it.
                continue
            # What comes late belongs to another.
            mark = b"-%d" % number
            answer = await made.outcome(request.replace(b"-00", mark))
            heads = [head for head in made.heads if mark + b" HTTP/1.1\r\n" in head]
            complaint = what_is_wrong(request, answer, heads, bytes(made.rest))
            if complaint:
                wrong[name] = (complaint, answer, heads, bytes(made.rest))
    assert not wrong


def what_is_wrong(request: bytes, answer: bytes, heads: list[bytes], rest: bytes) -> str:
    outer = [head for head in heads if b" /outer" in head]
    inner = [head for head in heads if b" /smuggled" in head]
    asked = [head for head in outer if b"Upgrade: websocket\r\n" in head]
    # hypercorn speaks h2c itself.
    opened = b"HTTP/1.1 101 " in answer and b"upgrade: h2c" not in answer.lower()
    is_body = b"Content-Length: %d\r\n" % len(INNER) in request
    if inner and (is_body or asked):
        return "what was in a body or a tunnel was a request"
    if b"/smuggled" in rest and (not is_body or asked):
        return "a request was in a tunnel"
    if opened and not asked:
        return "the tunnel leads to nobody"
    if opened and (b"-Length: 5" in request or is_body or b"Transfer-Encoding" in request):
        return "a body was a message"
    if opened and b"HTTP/1.0" in request:
        return "a tunnel in HTTP/1.0"
    if not opened and len(asked) > 1:
        return "several handshakes"
    if b"X-Smuggled" in b"".join(heads):
        return "a line was smuggled"
    if len(outer) > 1 or len(inner) > 1:
        return "a request came twice"
    return "" if answer.startswith(b"HTTP/1.1 1") or outer or is_refusal(answer) else "no answer"


@each_server
async def test_no_tunnel_opens_without_the_backend_s_101(server: str) -> None:
    wrong = {}
    async with bench(server) as made:
        for name, answering in NO_TUNNELS.items():
            made.answering = answering
            answer = await made.outcome(asking(*HANDSHAKE), FRAME + INNER)
            refused = not answer.startswith(b"HTTP/1.1 101 ")
            # To clients the proof is their own hop's.
            clean = b"sec-websocket-accept" not in answer.lower()
            one = answer.count(b"HTTP/1.") <= 1
            if not (refused and clean and one) or made.rest or len(made.heads) != 1:
                wrong[name] = (answer, list(made.heads), bytes(made.rest))
    assert not wrong


@each_server
async def test_what_comes_with_the_101_is_the_tunnel_s(server: str) -> None:
    async with bench(server) as made:
        made.answering = lambda head: switching(head) + b"\x81\x02hi" + ANSWER
        answer = await made.outcome(asking(*HANDSHAKE))
        assert answer.startswith(b"HTTP/1.1 101 ")
        # A frame; then what is none ends it.
        assert answer.partition(b"\r\n\r\n")[2].startswith(b"\x81\x02hi\x88")
        assert answer.count(b"HTTP/1.") == 1
