"""Carrying messages between a client and a backend until one of them ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final, NamedTuple, Protocol

from backendpool_async.proxy.forwarded import Pair
from backendpool_async.proxy.taking import Taken
from backendpool_async.proxy.upload import ClientLeft
from backendpool_async.proxy.websocket_backend import (
    BROKEN_OFF,
    GOING_AWAY,
    NO_CODE,
    TOO_BIG,
    BackendSocket,
    Closing,
    Message,
)

_INTERNAL_ERROR: Final = 1011
_NORMAL: Final = 1000


class Traffic(Protocol):
    """What moves on one connection, less than a whole message, too."""

    @property
    def heard_at(self) -> float:
        """When the other side sent something, by the loop's clock; -inf where nobody shows it."""

    @property
    def taken(self) -> Taken:
        """How much the other side has taken; `NOTHING` where nobody shows it."""


class ClientSocket(Traffic, Protocol):
    """The side of a WebSocket that leads to a client; its coroutines raise `ClientLeft`."""

    @property
    def subprotocols(self) -> Sequence[str]:
        """What the client offers, in its order."""

    async def receive(self) -> Message | Closing:
        """Return the next message, or how the client ended it; also before `accept`."""

    async def accept(self, subprotocol: str | None, headers: Sequence[Pair]) -> None:
        """Answer the handshake with 101."""

    async def refuse(self, status: int, headers: Sequence[Pair], body: bytes) -> None:
        """Answer the handshake with something else."""

    async def send(self, message: Message) -> None:
        """Send a message, as fast as the client takes it."""

    async def close(self, closing: Closing) -> None:
        """End it in this way."""


class Ending(NamedTuple):
    """How each side is told of the end, None where it knows; `failure`: the backend's, if it is."""

    to_client: Closing | None
    to_backend: Closing
    failure: str | None = None


async def relay(
    client: ClientSocket,
    backend: BackendSocket,
    first: Awaitable[Message | Closing],
    *,
    idle_timeout: float,
    message_size: int,
) -> Ending:
    """Carry messages both ways until one side ends it, and return what the other is to be told.

    `first` is what the client said first. Nobody is closed yet when this returns or is cancelled.
    """
    relaying = _Relay(client, backend, message_size)
    ways = {
        asyncio.create_task(relaying.to_backend(first)),
        asyncio.create_task(relaying.to_client()),
    }
    clock = asyncio.get_running_loop().time
    try:
        while (left := relaying.moved_at() + idle_timeout - clock()) > 0:
            # Between two looks it shows what was taken.
            left = min(left, idle_timeout / 2)
            done, _ = await asyncio.wait(ways, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return done.pop().result()
        idle = Closing(GOING_AWAY, f"nothing moved for {idle_timeout:g} s")
        return Ending(idle, idle)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)


class _Relay:
    def __init__(self, client: ClientSocket, backend: BackendSocket, message_size: int) -> None:
        self._client = client
        self._backend = backend
        self._message_size = message_size
        self._clock = asyncio.get_running_loop().time
        self._moved_at = self._clock()
        self._taken = (client.taken, backend.taken)

    def moved_at(self) -> float:
        """When one of the two said or took something, a part of a message or a ping, too."""
        before, self._taken = self._taken, (self._client.taken, self._backend.taken)
        if any(then.is_less_than(now) for then, now in zip(before, self._taken, strict=True)):
            self._moved_at = self._clock()
        return max(self._moved_at, self._client.heard_at, self._backend.heard_at)

    async def to_backend(self, first: Awaitable[Message | Closing]) -> Ending:
        said = first
        while True:
            try:
                message = await said
            except ClientLeft:
                return _client_left()
            if isinstance(message, Closing):
                return Ending(None, message)
            self._moved_at = self._clock()
            if _size(message) > self._message_size:
                return Ending(
                    Closing(TOO_BIG, "message too big"), Closing(GOING_AWAY, "message too big")
                )
            await self._backend.send(message)
            said = self._client.receive()

    async def to_client(self) -> Ending:
        while True:
            message = await self._backend.receive()
            if isinstance(message, Closing):
                return _backend_ended(message)
            try:
                await self._client.send(message)
            except ClientLeft:
                return _client_left()


def _size(message: Message) -> int:
    if isinstance(message, bytes) or message.isascii():
        return len(message)
    return len(message.encode())


def _client_left() -> Ending:
    return Ending(None, Closing(BROKEN_OFF, ""))


def _backend_ended(closing: Closing) -> Ending:
    if closing.code == BROKEN_OFF:
        # Nobody can send 1006: this is the code for what must not pass for a clean end.
        told = Closing(_INTERNAL_ERROR, "the backend broke off")
        return Ending(told, closing, f"the WebSocket broke off: {closing.reason}")
    if closing.code == NO_CODE:
        return Ending(Closing(_NORMAL, ""), closing)
    return Ending(closing, closing)
