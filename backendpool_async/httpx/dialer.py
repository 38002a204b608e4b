"""Opens the socket of one connection and keeps hold of it."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from backendpool_async.httpx.leftovers import received_by
from backendpool_async.httpx.settings import SocketOption

if TYPE_CHECKING:
    import httpcore
    from httpcore import AsyncNetworkBackend
else:
    # What httpcore and httpcore2 ask of it is the same, and neither looks at its class.
    AsyncNetworkBackend = object

# Whether the peer has closed, even behind bytes that nobody has read; Linux only.
_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)


class Dialer(AsyncNetworkBackend):
    """Opens one TCP connection through another network backend, and can close it at any time.

    The network libraries lose the socket when they are cancelled during the TLS handshake.
    """

    __slots__ = ("_backend", "_is_closed", "_poll", "_received", "_socket", "_stream")

    def __init__(self, backend: AsyncNetworkBackend) -> None:
        self._backend = backend
        self._stream: httpcore.AsyncNetworkStream | None = None
        self._poll: select.poll | None = None
        self._is_closed = False

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect, as the backend beneath does. Raises RuntimeError if it is closed meanwhile."""
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        self._stream = stream
        self._socket = stream.get_extra_info("socket")
        self._received = received_by(stream)
        if self._is_closed:
            await self.aclose()
            raise RuntimeError("the connection was closed before it was open")
        return stream

    def may_be_used(self, *, multiplexed: bool) -> bool:
        """Return whether the server has not closed an idle connection, nor said anything on it.

        On a multiplexed one it may say something at any time: there only closing counts, where the
        system tells it apart.
        """
        number: int = self._socket.fileno()
        if number < 0 or (self._received and not multiplexed):
            return False
        if sys.platform == "win32":  # pragma: no cover - there is no poll
            return not select.select([number], [], [], 0)[0]
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(number, (_HUNG_UP if multiplexed else 0) or select.POLLIN)
        return not self._poll.poll(0)

    async def aclose(self) -> None:
        """Close the socket, whatever has become of what was built upon it."""
        self._is_closed = True
        if self._stream is not None:
            await self._stream.aclose()
