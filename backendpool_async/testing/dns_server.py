"""A DNS server for tests: UDP and TCP on loopback, answering by a script.

Needs dnspython, which the extra ``testing`` brings.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple, Self

from backendpool_async.testing._tally import Tally
from backendpool_async.testing.dns_steps import (
    TCP_SIZE,
    Step,
    cname,
    encoded,
    fill,
    formerr,
    garbage,
    key_of,
    nodata,
    notimp,
    nxdomain,
    records,
    refused,
    servfail,
    silence,
    slow,
    truncated,
    wrong_id,
)

# Below, because the import above says what to install when dnspython is missing.
# isort: split
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

_HOST: Final = "127.0.0.1"
_PLAIN_UDP_SIZE: Final = 512
_EDNS_UDP_SIZE: Final = 1232
_TRIES_FOR_A_PORT: Final = 32

Transport = Literal["udp", "tcp"]


class Query(NamedTuple):
    """One question that the server was asked: the name in lower case, "A", "udp"."""

    name: str
    qtype: str
    transport: Transport


__all__ = [
    "FakeDnsServer",
    "Query",
    "Step",
    "cname",
    "formerr",
    "garbage",
    "nodata",
    "notimp",
    "nxdomain",
    "records",
    "refused",
    "servfail",
    "silence",
    "slow",
    "truncated",
    "wrong_id",
]


class FakeDnsServer:
    """A DNS server on a free port of 127.0.0.1, UDP and TCP, that answers by a script.

    An async context manager on the running event loop (any that has `add_reader`): no thread, and
    no socket, timer or task left when it ends. A name without a script does not exist: NXDOMAIN
    with a SOA. `queries` lists what was asked, in order. Set `outage` to a step and every query
    gets that one, without moving any script; set it to None and the scripts go on.

    Answers larger than 512 bytes, or what the query allows by EDNS up to 1232, are truncated
    over UDP. Raises OSError when no port is free.

    >>> import asyncio
    >>> from backendpool_async import BackendPool
    >>> async def main():
    ...     async with FakeDnsServer() as server:
    ...         server.answer("api.test", "10.0.0.1", "10.0.0.2", ttl=30)
    ...         pool = BackendPool.dns("api.test", 8080, nameservers=[server.address])
    ...         print(*(await pool.refresh()).backends)
    ...         server.outage = silence()
    >>> asyncio.run(main())
    10.0.0.1:8080 10.0.0.2:8080
    """

    def __init__(self) -> None:
        self.queries: list[Query] = []
        self.outage: Step | None = None
        self._tally = Tally()
        self._scripts: dict[tuple[str, str | None], deque[Step]] = {}
        self._random = random.Random(53)
        self._listening: tuple[_Udp, socket.socket] | None = None
        self._accepting: set[asyncio.Future[Any]] = set()
        self._connections: set[_Tcp] = set()
        self._timers: set[asyncio.TimerHandle] = set()

    @property
    def port(self) -> int:
        """The port of both transports; RuntimeError before the server runs."""
        if self._listening is None:
            raise RuntimeError("the server has no port outside 'async with FakeDnsServer()'")
        return self._listening[0].port

    @property
    def address(self) -> str:
        """Where it listens, as a name server is written: "127.0.0.1:5301"."""
        return f"{_HOST}:{self.port}"

    def answer(self, name: str, *values: str, ttl: int = 30) -> None:
        """Answer `name` with these addresses from now on, whatever its script was.

        Takes what `records` takes, and raises as it does. None at all: NODATA.

        >>> server = FakeDnsServer()
        >>> server.answer("api.test", "10.0.0.1", "::1", ttl=5)
        """
        self.script(name, records(*values, ttl=ttl))

    def script(self, name: str, *steps: Step, qtype: str | None = None) -> None:
        """Answer `name` with one step a query, the last for ever, whatever its script was.

        With a `qtype` ("A", "AAAA", "SRV") only queries of that type play it, and those of other
        types what is scripted without one. Retries and each type asked for are queries too.
        Raises ValueError without a step.

        >>> server = FakeDnsServer()
        >>> server.script("api.test", records("10.0.0.1"), servfail(), records("10.0.0.2"))
        >>> server.script("api.test", slow(0.5, records("::1")), qtype="AAAA")
        """
        if not steps:
            raise ValueError("a script has at least one step")
        key = key_of(name)
        if qtype is None:
            for known in [known for known in self._scripts if known[0] == key]:
                del self._scripts[known]
        self._scripts[key, qtype and qtype.upper()] = deque(steps)

    async def queried(self, times: int = 1) -> None:
        """Return when it was asked `times` times in all; at once when it was.

        >>> import asyncio
        >>> from backendpool_async import BackendPool
        >>> async def main():
        ...     async with FakeDnsServer() as server, asyncio.timeout(5):
        ...         server.script("api.test", silence())
        ...         pool = BackendPool.dns("api.test", 8080, nameservers=[server.address])
        ...         refresh = asyncio.create_task(pool.refresh())
        ...         await server.queried()
        ...         refresh.cancel()
        ...         return server.queries
        >>> asyncio.run(main())
        [Query(name='api.test', qtype='A', transport='udp')]
        """
        await self._tally.reached(times)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        tries_left = _TRIES_FOR_A_PORT
        while self._listening is None:
            tries_left -= 1
            _, udp = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=(_HOST, 0))
            try:
                listener = socket.create_server((_HOST, udp.port))
            except OSError as error:
                udp.transport.close()
                await udp.closed
                if error.errno != errno.EADDRINUSE or not tries_left:
                    raise
            else:
                listener.setblocking(False)
                loop.add_reader(listener, self._accept, listener)
                self._listening = (udp, listener)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._listening is not None  # noqa: S101 - it was entered
        udp, listener = self._listening
        self._listening = None
        asyncio.get_running_loop().remove_reader(listener)
        listener.close()
        udp.transport.close()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for connection in self._connections:
            connection.transport.abort()
        # Not cancelled: a connection that is halfway in would be left open.
        await asyncio.wait([udp.closed, *self._accepting])
        await asyncio.wait([udp.closed, *(connection.closed for connection in self._connections)])

    def _accept(self, listener: socket.socket) -> None:
        # Not an asyncio.Server: one that is closed leaks the connection it was about to accept.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            connection, _ = listener.accept()
            loop = asyncio.get_running_loop()
            accepting = loop.create_task(
                loop.connect_accepted_socket(lambda: _Tcp(self), connection)
            )
            self._accepting.add(accepting)
            accepting.add_done_callback(self._accepting.discard)

    def _asked(self, wire: bytes, channel: _Udp | _Tcp, send: Callable[[bytes], None]) -> None:
        try:
            query = dns.message.from_wire(wire)
            response = dns.message.make_response(
                query, recursion_available=True, our_payload=_EDNS_UDP_SIZE
            )
            question = query.question[0]
        except (dns.exception.DNSException, IndexError):
            # Not a query: nobody waits for an answer to it.
            return
        qtype = dns.rdatatype.to_text(question.rdtype)
        self.queries.append(Query(key_of(question.name.to_text()), qtype, channel.name))
        self._tally.add()
        step = self._play(response, question.name, qtype)
        if step.sends == "nothing":
            return
        if step.sends == "garbage":
            reply = struct.pack("!H", query.id) + self._random.randbytes(40)
        else:
            reply = encoded(response, step, channel.limit(query.payload))
        if step.delay:
            self._later(step.delay, lambda: send(reply))
        else:
            send(reply)

    def _play(self, response: dns.message.Message, name: dns.name.Name, qtype: str) -> Step:
        # Returns the step that ended the chain of aliases, with what the ones before it add.
        step = self.outage or self._next(name, qtype) or nxdomain()
        met = {name}
        while (target := fill(response, name, qtype, step)) and target not in met:
            following = self._next(target, qtype)
            if following is None:
                break
            met.add(target)
            name = target
            step = replace(
                following,
                delay=step.delay + following.delay,
                is_truncated=step.is_truncated or following.is_truncated,
                has_wrong_id=step.has_wrong_id or following.has_wrong_id,
            )
        return step

    def _next(self, name: dns.name.Name, qtype: str) -> Step | None:
        key = key_of(name.to_text())
        script = self._scripts.get((key, qtype)) or self._scripts.get((key, None))
        if script is None:
            return None
        return script.popleft() if len(script) > 1 else script[0]

    def _later(self, delay: float, send: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            send()

        timer = asyncio.get_running_loop().call_later(delay, fire)
        self._timers.add(timer)


class _Udp(asyncio.DatagramProtocol):
    name: Final = "udp"
    transport: asyncio.DatagramTransport

    def __init__(self, server: FakeDnsServer) -> None:
        self._server = server
        self.closed = asyncio.get_running_loop().create_future()

    @property
    def port(self) -> int:
        port: int = self.transport.get_extra_info("sockname")[1]
        return port

    def limit(self, payload: int) -> int:
        return max(_PLAIN_UDP_SIZE, min(payload, _EDNS_UDP_SIZE))

    # typeshed says BaseTransport, which cannot send.
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[object, ...]) -> None:
        self._server._asked(data, self, lambda reply: self.transport.sendto(reply, addr))

    def connection_lost(self, _: Exception | None) -> None:
        self.closed.set_result(None)


class _Tcp(asyncio.Protocol):
    name: Final = "tcp"
    transport: asyncio.Transport

    def __init__(self, server: FakeDnsServer) -> None:
        self._server = server
        self._unread = b""
        self.closed = asyncio.get_running_loop().create_future()

    def limit(self, _: int) -> int:
        return TCP_SIZE

    # typeshed says BaseTransport, which cannot send.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._server._connections.add(self)
        if self._server._listening is None:
            # It was accepted while the server stopped.
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while len(self._unread) >= 2:
            end = 2 + int.from_bytes(self._unread[:2])
            if len(self._unread) < end:
                return
            message, self._unread = self._unread[2:end], self._unread[end:]
            self._server._asked(message, self, self._send)

    def connection_lost(self, _: Exception | None) -> None:
        self._server._connections.discard(self)
        self.closed.set_result(None)

    def _send(self, reply: bytes) -> None:
        self.transport.write(struct.pack("!H", len(reply)) + reply)
