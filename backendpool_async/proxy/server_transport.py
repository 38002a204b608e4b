"""A connection to a client that ends once it was told to, even if nobody reads."""

from __future__ import annotations

import asyncio
from typing import Any, Final

# In which a client has to take something of what is left for it.
_PATIENCE: Final = 15.0


class EndingTransport:
    """A transport whose `close` waits for what is still to be sent only while that gets less.

    All else is the transport's own.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport: Final = transport
        # Called for every part of every answer, so without a detour.
        self.write: Final = transport.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        """Close it when all is sent, or when the client has taken nothing for a while."""
        if not self._transport.is_closing():
            self._transport.close()
            self._wait()

    def _wait(self) -> None:
        left = self._transport.get_write_buffer_size()
        if left:
            asyncio.get_running_loop().call_later(_PATIENCE, self._look_again, left)

    def _look_again(self, left: int) -> None:
        if self._transport.get_write_buffer_size() < left:
            self._wait()
        else:
            self._transport.abort()
