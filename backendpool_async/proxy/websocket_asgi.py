"""The client of a WebSocket, as an ASGI server presents it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

from backendpool_async.proxy.forwarded import Pair
from backendpool_async.proxy.taking import NOTHING, Taken
from backendpool_async.proxy.upload import ClientLeft
from backendpool_async.proxy.websocket_backend import (
    BROKEN_OFF,
    NO_CODE,
    Closing,
    Message,
    sendable,
)
from backendpool_async.proxy.websocket_relay import Traffic

_Event = MutableMapping[str, Any]  # what is in it depends on its type

# In which a server shows a `Traffic`.
TRAFFIC: Final = "backendpool.traffic"

_REFUSAL: Final = "websocket.http.response"
_UNEXPECTED: Final = 1011


class AsgiClientSocket:
    """A `ClientSocket` of a scope of the type "websocket".

    A server without the extension ``websocket.http.response`` refuses with a status of its own.
    """

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[_Event]],
        send: Callable[[_Event], Awaitable[None]],
    ) -> None:
        self.subprotocols: Final[Sequence[str]] = scope.get("subprotocols") or ()
        extensions = scope.get("extensions") or {}
        self._can_refuse = _REFUSAL in extensions
        self._traffic: Traffic | None = extensions.get(TRAFFIC)
        self._receive = receive
        self._send = send

    @property
    def heard_at(self) -> float:
        """When the client sent something, if the server shows it."""
        return -math.inf if self._traffic is None else self._traffic.heard_at

    @property
    def taken(self) -> Taken:
        """How much the client has taken, if the server shows it."""
        return NOTHING if self._traffic is None else self._traffic.taken

    async def receive(self) -> Message | Closing:
        """Return the next message, or how the client ended it."""
        while True:
            try:
                event = await self._receive()
            except OSError as error:
                raise ClientLeft from error
            if event["type"] == "websocket.receive":
                # Either may be there as None.
                text: str | None = event.get("text")
                return event["bytes"] if text is None else text
            if event["type"] == "websocket.disconnect":
                return _closing(event)

    async def accept(self, subprotocol: str | None, headers: Sequence[Pair]) -> None:
        """Answer the handshake with 101."""
        await self._say(
            {"type": "websocket.accept", "subprotocol": subprotocol, "headers": list(headers)}
        )

    async def refuse(self, status: int, headers: Sequence[Pair], body: bytes) -> None:
        """Answer the handshake with something else."""
        if not self._can_refuse:
            await self._say({"type": "websocket.close", "code": _UNEXPECTED, "reason": ""})
            return
        await self._say({"type": f"{_REFUSAL}.start", "status": status, "headers": list(headers)})
        await self._say({"type": f"{_REFUSAL}.body", "body": body})

    async def send(self, message: Message) -> None:
        """Send a message, as fast as the client takes it."""
        kind = "text" if isinstance(message, str) else "bytes"
        await self._say({"type": "websocket.send", kind: message})

    async def close(self, closing: Closing) -> None:
        """End it in this way."""
        await self._say({"type": "websocket.close", "code": closing.code, "reason": closing.reason})

    async def _say(self, event: _Event) -> None:
        try:
            await self._send(event)
        except OSError as error:
            raise ClientLeft from error


def _closing(event: _Event) -> Closing:
    code = event.get("code", NO_CODE)
    if code == NO_CODE:
        # uvicorn says 1005 of a connection that was lost, too, and only then gives no reason.
        return Closing(NO_CODE if "reason" in event else BROKEN_OFF, "")
    return sendable(code, event.get("reason") or "")
