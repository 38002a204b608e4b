"""httpx and httpx2: two libraries of one shape, of which one or both may be installed."""

from __future__ import annotations

import contextlib
import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from backendpool_async.errors import NoBackends

if TYPE_CHECKING:
    import ssl

    import httpcore
    import httpx
    import httpx2

_NEITHER: Final = (
    "backendpool_async.httpx needs httpx or httpx2, and neither is installed:"
    " pip install 'backendpool-async[httpx]' or 'backendpool-async[httpx2]'"
)


class Flavour:
    """One of the two libraries with its network library; written down with the types of httpx."""

    __slots__ = (
        "byte_stream",
        "connect_error",
        "connect_timeout",
        "connection",
        "connection_not_available",
        "create_ssl_context",
        "errors",
        "library",
        "name",
        "network_backend",
        "no_backends",
        "origin",
        "outgoing",
        "pool_timeout",
        "request",
        "response",
        "stream_broken",
        "unsupported_protocol",
        "url",
    )

    def __init__(self, library: ModuleType, core: ModuleType) -> None:
        self.name: str = library.__name__
        self.library: Any = library
        self.request: type[httpx.Request] = library.Request
        self.response: type[httpx.Response] = library.Response
        self.byte_stream: type[httpx.ByteStream] = library.ByteStream
        self.connection: type[httpcore.AsyncHTTPConnection] = core.AsyncHTTPConnection
        self.connection_not_available: type[Exception] = core.ConnectionNotAvailable
        self.connect_error: type[Exception] = core.ConnectError
        self.connect_timeout: type[Exception] = core.ConnectTimeout
        self.stream_broken: type[Exception] = core.RemoteProtocolError
        self.unsupported_protocol: type[Exception] = core.UnsupportedProtocol
        self.pool_timeout: type[Exception] = core.PoolTimeout
        self.network_backend: httpcore.AsyncNetworkBackend = core.AnyIOBackend()
        self.origin: type[httpcore.Origin] = core.Origin
        self.outgoing: type[httpcore.Request] = core.Request
        self.url: type[httpcore.URL] = core.URL
        self.errors: dict[type[BaseException], type[httpx.TransportError]] = {
            getattr(core, name): error
            for name, error in vars(library).items()
            if isinstance(error, type)
            and issubclass(error, library.TransportError)
            and hasattr(core, name)
        }
        self.no_backends: type[NoBackends] = type(
            "NoBackends", (NoBackends, library.ConnectError), {"__doc__": NoBackends.__doc__}
        )

    def ssl_context(self, verify: bool, trust_env: bool) -> ssl.SSLContext:
        """Return what the library itself would verify servers with."""
        context: ssl.SSLContext = self.library.create_ssl_context(
            verify=verify, trust_env=trust_env
        )
        return context

    def translated(self, error: BaseException, request: httpx.Request) -> BaseException:
        """Return the library's own exception for one of its network library, others as they are."""
        if isinstance(error, NoBackends):
            refused: Any = self.no_backends(str(error))
            refused.request = request
            return refused  # type: ignore[no-any-return]  # both NoBackends and ConnectError
        for cls in type(error).__mro__:
            if cls in self.errors:
                return self.errors[cls](str(error), request=request)
        return error


def installed() -> tuple[Flavour, ...]:
    """Return a flavour for each library that is installed. Raises ImportError without any."""
    flavours = []
    for library, core in (("httpx", "httpcore"), ("httpx2", "httpcore2")):
        with contextlib.suppress(ModuleNotFoundError):
            flavours.append(
                Flavour(importlib.import_module(library), importlib.import_module(core))
            )
    if not flavours:
        raise ImportError(_NEITHER)
    # `httpx2.alias_httpx()` makes them one and the same.
    return tuple({each.request: each for each in flavours}.values())


FLAVOURS: Final = installed()

if TYPE_CHECKING:
    # For the type checker both are installed.
    class AsyncBaseTransport(  # type: ignore[misc]  # their methods take requests of their own
        httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport
    ):
        """What each library takes for a transport."""

    class AsyncByteStream(httpx.AsyncByteStream, httpx2.AsyncByteStream):
        """What each library takes for a body."""

else:
    AsyncBaseTransport = type(
        "AsyncBaseTransport", tuple(each.library.AsyncBaseTransport for each in FLAVOURS), {}
    )
    AsyncByteStream = type(
        "AsyncByteStream", tuple(each.library.AsyncByteStream for each in FLAVOURS), {}
    )
