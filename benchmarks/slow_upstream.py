"""A nameserver that is far away: a relay on the loopback interface that holds every answer back."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Final

Address = tuple[str, int]

# Most resolvers ask from a new socket every time; what they leave behind is closed after this.
_FORGOTTEN_AFTER: Final = 1.0


@contextlib.contextmanager
def slow_upstream(port: int, delay: float) -> Iterator[str]:
    """Relay to `port` from a process of its own, answers `delay` seconds late; yield where."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, port, delay), daemon=True)
    process.start()
    try:
        if not ours.poll(20):
            raise RuntimeError("the relay did not start")
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join(10)


def _serve(parent: Connection, port: int, delay: float) -> None:
    asyncio.run(_relay(parent, port, delay))


async def _relay(parent: Connection, port: int, delay: float) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Near(port, delay), local_addr=("127.0.0.1", 0)
    )
    parent.send(transport.get_extra_info("sockname")[1])
    await loop.create_future()


class _Near(asyncio.DatagramProtocol):
    """Faces the resolvers: each of their sockets gets one of its own towards the server."""

    def __init__(self, port: int, delay: float) -> None:
        self._port = port
        self._delay = delay
        self._far: dict[Address, asyncio.Task[_Far]] = {}

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # it is one
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if addr not in self._far:
            self._far[addr] = asyncio.ensure_future(self._connect(addr))
        self._far[addr].add_done_callback(lambda far: far.result().transport.sendto(data))

    async def _connect(self, addr: Address) -> _Far:
        loop = asyncio.get_running_loop()
        _, far = await loop.create_datagram_endpoint(
            lambda: _Far(lambda data: self._answer_later(data, addr)),
            remote_addr=("127.0.0.1", self._port),
        )
        loop.call_later(_FORGOTTEN_AFTER, self._far.pop, addr, None)
        # Later than that: its last answers may still be on their way.
        loop.call_later(2 * _FORGOTTEN_AFTER, far.transport.close)
        return far

    def _answer_later(self, data: bytes, addr: Address) -> None:
        asyncio.get_running_loop().call_later(self._delay, self._transport.sendto, data, addr)


class _Far(asyncio.DatagramProtocol):
    def __init__(self, answer: Callable[[bytes], None]) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # it is one
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:  # noqa: ARG002 - there is only one
        self._answer(data)
