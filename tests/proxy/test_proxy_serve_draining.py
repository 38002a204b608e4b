"""``backendpool serve``: what is under way when it is told to stop comes to its end."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import pytest
import websockets.sync.client
import websockets.sync.server
from commands import (
    INTERRUPTED,
    PROMPT,
    TERMINATED,
    complaints,
    driven,
    interrupt,
    line_of,
    no_blocking_call_but,
    started,
)
from threaded_backend import ThreadedBackend, asked, asking, threaded_backend
from websockets.exceptions import ConnectionClosed

LISTEN = ("--listen", "127.0.0.1:0")


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[None]:
    with no_blocking_call_but("backendpool_async/cli_serve.py", "ready"):
        yield


@pytest.fixture
def slow() -> Iterator[ThreadedBackend]:
    with threaded_backend() as backend:
        yield backend


def listening(lines: IO[str]) -> str:
    """Where a proxy listens, once it does."""
    said = line_of(lines)
    assert said.startswith("listening on http://")
    return said.removeprefix("listening on http://").rstrip()


def refuses(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port))).close()
    except (ConnectionRefusedError, ConnectionResetError):
        # Reset: it was waiting to be accepted when the listening socket was closed.
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_slow_request_ends_before_the_proxy_does(number: signal.Signals) -> None:
    with (
        threaded_backend() as slow,
        started("serve", f"static:{slow.address}", *LISTEN) as process,
        ThreadPoolExecutor() as threads,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        address = listening(process.stdout)
        answer = threads.submit(asked, address, "/slow")
        assert slow.asked.wait(PROMPT)
        process.send_signal(number)
        while not refuses(address):
            pass
        assert process.poll() is None
        slow.release.set()
        assert answer.result(PROMPT)[0] == 200
        assert process.wait(PROMPT) == 0
        assert complaints(process.stderr.read()) == []


def test_a_stream_ends_before_the_proxy_does(
    slow: ThreadedBackend,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def drive(lines: IO[str]) -> None:
        address = listening(lines)
        with asking(address, "/stream") as response:
            assert response.read(5) == b"first"
            interrupt(signal.SIGTERM)
            while not refuses(address):
                pass
            slow.release.set()
            assert response.read() == b"second"

    assert driven(monkeypatch, drive, "serve", f"static:{slow.address}", *LISTEN) == 0
    assert capsys.readouterr().err == ""


def test_what_takes_too_long_is_cut_off(
    slow: ThreadedBackend,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def drive(lines: IO[str]) -> None:
        with asking(listening(lines), "/stream") as response:
            assert response.read(5) == b"first"
            interrupt(signal.SIGTERM)
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                response.read()

    arguments = ("serve", f"static:{slow.address}", *LISTEN, "--drain-timeout", "0.2")
    assert driven(monkeypatch, drive, *arguments) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, TERMINATED), (signal.SIGINT, INTERRUPTED)]
)
def test_a_second_signal_ends_it_at_once(
    number: signal.Signals,
    status: int,
    slow: ThreadedBackend,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def drive(lines: IO[str]) -> None:
        address = listening(lines)
        with asking(address, "/stream") as response:
            assert response.read(5) == b"first"
            interrupt(number)
            while not refuses(address):
                pass
            interrupt(number)
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                response.read()

    assert driven(monkeypatch, drive, "serve", f"static:{slow.address}", *LISTEN) == status
    assert capsys.readouterr().err == ""


def test_websockets_are_closed_with_1012(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[int | None] = []
    gone = threading.Event()

    def echo(connection: websockets.sync.server.ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for message in connection:
                connection.send(message)
        ended.append(connection.close_code)
        gone.set()

    def drive(lines: IO[str]) -> None:
        with websockets.sync.client.connect(
            f"ws://{listening(lines)}", proxy=None, compression=None, ping_interval=None
        ) as client:
            client.send("hello")
            assert client.recv(PROMPT) == "hello"
            interrupt(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as raised:
                client.recv(PROMPT)
            assert raised.value.rcvd is not None
            assert raised.value.rcvd.code == 1012
        assert gone.wait(PROMPT)

    with websockets.sync.server.serve(echo, "127.0.0.1", 0, ping_interval=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = "static:{}:{}".format(*server.socket.getsockname())
            assert driven(monkeypatch, drive, "serve", url, *LISTEN) == 0
        finally:
            server.shutdown()
            thread.join()
    assert ended == [1012]
    assert capsys.readouterr().err == ""
