"""Which exceptions are failures of a backend."""

from __future__ import annotations

import asyncio
import enum
import errno
import socket
import ssl
import urllib.error
from collections.abc import Collection
from typing import Final


class Failure(enum.Enum):
    """What a backend did: it could not be reached at all, or what was begun broke off."""

    CONNECT = "connect"
    TRANSPORT = "transport"


_CANNOT_CONNECT: Final = {
    errno.EADDRNOTAVAIL,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
}
# What asyncio and anyio say when no address of a name could be connected to.
_NOWHERE: Final = ("Multiple exceptions: ", "All connection attempts failed")
# By name, so that none of the libraries is imported for it: the first class in the order of
# resolution that is listed here decides. None: the caller's own mistake, or the caller's limit.
_OF_LIBRARIES: Final[dict[str, dict[str, Failure | None]]] = {
    "aiohttp": {
        "ClientProxyConnectionError": None,
        "ClientConnectorError": Failure.CONNECT,
        "ClientConnectorDNSError": Failure.CONNECT,
        "ConnectionTimeoutError": Failure.CONNECT,
        "ClientConnectionError": Failure.TRANSPORT,
        "ClientPayloadError": Failure.TRANSPORT,
        "ClientResponseError": None,
        "InvalidURL": None,
        "HttpProcessingError": Failure.TRANSPORT,
    },
    "httpx": {
        "ConnectError": Failure.CONNECT,
        "ConnectTimeout": Failure.CONNECT,
        "PoolTimeout": None,
        "LocalProtocolError": None,
        "UnsupportedProtocol": None,
        "ProxyError": None,
        "TransportError": Failure.TRANSPORT,
    },
    "httpcore": {
        "ConnectError": Failure.CONNECT,
        "ConnectTimeout": Failure.CONNECT,
        "PoolTimeout": None,
        "LocalProtocolError": None,
        "UnsupportedProtocol": None,
        "ProxyError": None,
        "TimeoutException": Failure.TRANSPORT,
        "NetworkError": Failure.TRANSPORT,
        "ProtocolError": Failure.TRANSPORT,
    },
}
_ENDS: Final = (
    BrokenPipeError,
    ConnectionAbortedError,
    ConnectionResetError,
    asyncio.IncompleteReadError,
)
_DISCONNECTS: dict[str, Collection[str]] = {
    "aiohttp": ("ServerDisconnectedError", "ClientOSError"),
    "httpx": ("ReadError", "WriteError", "RemoteProtocolError"),
}
_DISCONNECTS |= dict.fromkeys(("httpx2", "httpcore", "httpcore2"), _DISCONNECTS["httpx"])
# Also where it is one of a client's errors besides.
_OF_LIBRARIES["backendpool_async"] = {"NoBackends": None}
_OF_LIBRARIES["httpx2"] = _OF_LIBRARIES["httpx"]
_OF_LIBRARIES["httpcore2"] = _OF_LIBRARIES["httpcore"]


def is_disconnect(error: BaseException) -> bool:
    """Whether a connection ended or was reset: no time limit, and no nonsense.

    >>> is_disconnect(ConnectionResetError()), is_disconnect(TimeoutError())
    (True, False)
    """
    for cls in type(error).__mro__:
        if cls.__name__ in _DISCONNECTS.get(cls.__module__.partition(".")[0], ()):
            # For this and for nonsense, httpcore has one class.
            return cls.__name__ != "RemoteProtocolError" or "disconnected" in str(error)
    return isinstance(error, _ENDS)


def transport_failure(error: BaseException) -> Failure | None:
    """Return what an exception says of the backend; None when it says nothing.

    Failures are the network's errors and timeouts: those of Python itself (connections, name
    lookups, TLS, time limits) and of httpx, httpcore and aiohttp. Cancellation, an error status
    that a library raises for, a full connection pool and all other errors are the caller's own.

    >>> transport_failure(ConnectionRefusedError())
    <Failure.CONNECT: 'connect'>
    >>> transport_failure(FileNotFoundError()) is None
    True
    """
    if isinstance(error, BaseExceptionGroup):
        kinds = {transport_failure(each) for each in error.exceptions}
        return None if None in kinds else max(kinds, key=str)
    for cls in type(error).__mro__:
        names = _OF_LIBRARIES.get(cls.__module__.partition(".")[0])
        if names is not None and cls.__name__ in names:
            return names[cls.__name__]
    if isinstance(error, (ConnectionRefusedError, socket.gaierror)):
        return Failure.CONNECT
    if type(error) is OSError and error.errno is None and str(error).startswith(_NOWHERE):
        return Failure.CONNECT
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return transport_failure(error.reason)
    if isinstance(
        error, (ConnectionError, TimeoutError, ssl.SSLError, asyncio.IncompleteReadError)
    ):
        return Failure.TRANSPORT
    if isinstance(error, OSError) and error.errno in _CANNOT_CONNECT:
        return Failure.CONNECT
    return None
