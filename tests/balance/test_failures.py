from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import urllib.error

import aiohttp
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey

from backendpool_async import Failure, transport_failure

KEY = ConnectionKey("h", 80, False, True, None, None, None)
REQUEST = httpx.Request("GET", "http://h")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        socket.gaierror(socket.EAI_NONAME, "no such host"),
        OSError(errno.EHOSTUNREACH, "no route to host"),
        OSError(errno.ENETUNREACH, "network is unreachable"),
        aiohttp.ClientConnectorError(KEY, OSError()),
        aiohttp.ConnectionTimeoutError(),
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("too late"),
        OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] ..."),
        OSError("All connection attempts failed"),
        urllib.error.URLError(ConnectionRefusedError()),
        ExceptionGroup("both", [ConnectionRefusedError(), ConnectionRefusedError()]),
    ],
    ids=repr,
)
def test_a_backend_that_cannot_be_reached_is_one_to_ask_the_source_about(
    error: BaseException,
) -> None:
    assert transport_failure(error) is Failure.CONNECT


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        BrokenPipeError(),
        TimeoutError(),
        ssl.SSLError("handshake"),
        asyncio.IncompleteReadError(b"", 10),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError("cut off"),
        aiohttp.ServerTimeoutError(),
        aiohttp.http_exceptions.BadStatusLine("no HTTP"),
        httpx.ReadTimeout("too late"),
        httpx.RemoteProtocolError("disconnected"),
        httpx.ReadError("reset"),
        ExceptionGroup("both", [ConnectionResetError(), TimeoutError()]),
    ],
    ids=repr,
)
def test_what_breaks_off_is_a_failure_of_the_backend(error: BaseException) -> None:
    assert transport_failure(error) is Failure.TRANSPORT


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        GeneratorExit(),
        ValueError("mine"),
        FileNotFoundError("a file of mine"),
        PermissionError("mine, too"),
        OSError(errno.EMFILE, "too many open files"),
        EOFError(),
        OSError("of my own"),
        urllib.error.URLError("unknown url type: ftp"),
        ExceptionGroup("one is mine", [ConnectionResetError(), ValueError()]),
        httpx.PoolTimeout("my own limit"),
        httpx.UnsupportedProtocol("ftp"),
        httpx.LocalProtocolError("my header"),
        httpx.InvalidURL("mine"),
        httpx.HTTPStatusError("503", request=REQUEST, response=httpx.Response(503)),
        aiohttp.InvalidURL("mine"),
        aiohttp.ClientResponseError(None, ()),  # type: ignore[arg-type]  # only its class counts
    ],
    ids=repr,
)
def test_cancellation_and_the_callers_own_mistakes_say_nothing_of_the_backend(
    error: BaseException,
) -> None:
    assert transport_failure(error) is None


def test_a_subclass_of_ones_own_is_what_its_parent_is() -> None:
    class Mine(httpx.ConnectError):
        pass

    assert transport_failure(Mine("refused")) is Failure.CONNECT
