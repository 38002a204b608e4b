"""How connections are opened and how long they are kept."""

from __future__ import annotations

import importlib.util
import random
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from backendpool_async.httpx.flavour import FLAVOURS, Flavour
from backendpool_async.keywords import count, seconds, seconds_or_0
from backendpool_async.threads import in_thread

if TYPE_CHECKING:
    import httpx
    import httpx2

SocketOption = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)

_MAX_CONNECTIONS: Final = 100
# Less than the patience of servers, so that none hangs up on a request: uvicorn's is 5 seconds.
_KEEPALIVE_EXPIRY: Final = 4.0
_JITTER: Final = 0.1


class Settings:
    """The keywords of `BackendTransport` that its connections are made by."""

    __slots__ = (
        "_trust_env",
        "_verify",
        "contexts",
        "http1",
        "http2",
        "keepalive_expiry",
        "local_address",
        "max_age",
        "max_connections",
        "max_keepalive_connections",
        "socket_options",
    )

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | bool,
        trust_env: bool,
        http1: bool,
        http2: bool,
        limits: httpx.Limits | httpx2.Limits | None,
        max_age: float | None,
        local_address: str | None,
        socket_options: Iterable[SocketOption] | None,
    ) -> None:
        if not (http1 or http2):
            raise ValueError("http1=False, http2=False: there is no protocol left to speak")
        if http2 and importlib.util.find_spec("h2") is None:
            raise ImportError(
                "http2=True needs h2, which is not installed: pip install 'httpx[http2]'"
            )
        self.http1: bool = http1
        self.http2: bool = http2
        if not isinstance(verify, (bool, ssl.SSLContext)):
            raise TypeError(f"verify={verify!r} is neither an ssl.SSLContext nor True or False")
        self._verify = verify
        self._trust_env = trust_env
        self.contexts: dict[Flavour, ssl.SSLContext] = {}
        self.max_age: float | None = None if max_age is None else seconds("max_age", max_age)
        if local_address is not None and not isinstance(local_address, str):
            raise TypeError(f"local_address={local_address!r} is no address")
        self.local_address: str | None = local_address
        self.socket_options: list[SocketOption] | None = (
            None if socket_options is None else list(socket_options)
        )
        self.max_connections: int | None = _MAX_CONNECTIONS
        self.max_keepalive_connections: int | None = None
        self.keepalive_expiry: float | None = _KEEPALIVE_EXPIRY
        if limits is not None:
            self._take(limits)

    def retire_at(self, now: float) -> float:
        """Return when a connection that is opened now is too old for another request."""
        if self.max_age is None:
            return float("inf")
        # What was opened together, as after a deploy, is not closed together.
        return now + self.max_age * (1.0 - _JITTER * random.random())

    async def load_context(self, flavour: Flavour) -> None:
        """Have in `contexts` what a library verifies servers with."""
        verify, trust_env = self._verify, self._trust_env
        if isinstance(verify, ssl.SSLContext):
            self.contexts[flavour] = verify
        else:
            # It reads certificates from files, for tens of milliseconds.
            made = await in_thread(lambda: flavour.ssl_context(verify, trust_env))
            self.contexts.setdefault(flavour, made)

    def _take(self, limits: httpx.Limits | httpx2.Limits) -> None:
        if not any(isinstance(limits, each.library.Limits) for each in FLAVOURS):
            raise TypeError(f"limits={limits!r} is no httpx.Limits")
        if limits.max_connections is not None:
            count("max_connections", limits.max_connections)
        kept = limits.max_keepalive_connections
        if kept is not None and kept != 0:
            count("max_keepalive_connections", kept)
        expiry = limits.keepalive_expiry
        self.max_connections = limits.max_connections
        self.max_keepalive_connections = kept
        self.keepalive_expiry = None if expiry is None else seconds_or_0("keepalive_expiry", expiry)
