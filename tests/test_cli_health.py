from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest
from commands import INTERRUPTED, driven, interrupt, line_of, no_blocking_call_but, publish

from backendpool_async import Backend, BackendPool, HttpCheck, TcpCheck
from backendpool_async.cli import main
from backendpool_async.cli_health import check_of, watch_health


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[None]:
    with no_blocking_call_but("backendpool_async/cli.py", "_print_lines"):
        yield


@pytest.fixture
def listening() -> Iterator[str]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing() -> Iterator[str]:
    # Bound and not listening: nobody else gets the port meanwhile.
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def test_health_is_printed_when_the_state_of_a_backend_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listening: str, refusing: str
) -> None:
    path = tmp_path / "backends.txt"
    publish(path, f"{listening} zone=near", refusing)

    def drive(lines: IO[str]) -> None:
        while "1 of 2 backends available" not in line_of(lines):
            pass
        rows = [line_of(lines), line_of(lines)]
        assert [row.split()[:2] for row in rows] == [
            [listening, "available"],
            [refusing, "unhealthy"],
        ]
        assert "ConnectionRefusedError" in rows[1]
        publish(path, listening)
        while "1 of 1 backend available" not in line_of(lines):
            pass
        interrupt()

    url = f"file:{path}?poll_interval=0.1"
    assert driven(monkeypatch, drive, "watch", "--health", url) == INTERRUPTED


def test_health_as_json_is_an_object_a_line(monkeypatch: pytest.MonkeyPatch, refusing: str) -> None:
    def drive(lines: IO[str]) -> None:
        states = []
        while "unhealthy" not in states:
            explanation = json.loads(line_of(lines))
            (backend,) = explanation["backends"]
            assert backend["backend"] == refusing
            states.append(backend["state"])
        assert explanation["is_panic"]
        interrupt()

    assert (
        driven(monkeypatch, drive, "watch", "--json", "--health", f"static:{refusing}")
        == INTERRUPTED
    )


def test_a_check_is_tcp_or_a_path() -> None:
    assert isinstance(check_of("tcp"), TcpCheck)
    assert isinstance(check_of("http:/health"), HttpCheck)


@pytest.mark.parametrize("wrong", ["udp", "http", "http:health", ""])
def test_another_check_is_wrong_usage(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["watch", "--health", "--check", wrong, "static:10.0.0.1:80"])
    assert ended.value.code == 2
    assert f"{wrong!r} is neither 'tcp' nor 'http:/path'" in capsys.readouterr().err


def test_a_check_without_health_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--check", "http:/health", "static:10.0.0.1:80"]) == 2
    assert capsys.readouterr() == ("", "backendpool watch: --check is only for --health\n")


async def test_on_a_terminal_what_is_known_is_drawn_over_the_same_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Well:
        async def check(self, backend: Backend) -> None:
            assert backend == "10.0.0.1:80"

    screens: list[str] = []
    enough = asyncio.Event()

    def draw(lines: Sequence[str]) -> None:
        screens.extend(lines)
        if len(screens) == 2:
            enough.set()

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    pool = BackendPool.static(["10.0.0.1:80"])
    watching = asyncio.create_task(watch_health(pool, Well(), draw, as_json=False))
    async with asyncio.timeout(10):
        await enough.wait()
    watching.cancel()
    await asyncio.wait({watching})
    assert all(screen.startswith("\x1b[H\x1b[Jstatic, RoundRobin: 1 of 1") for screen in screens)


async def test_elsewhere_nothing_is_printed_while_no_state_changes() -> None:
    class Well:
        async def check(self, backend: Backend) -> None:
            checked.append(backend)

    checked: list[Backend] = []
    printed: list[str] = []
    pool = BackendPool.static(["10.0.0.1:80"])
    watching = asyncio.create_task(watch_health(pool, Well(), printed.extend, as_json=False))
    async with asyncio.timeout(10):
        while len(checked) < 2:  # noqa: ASYNC110 - real time decides when
            await asyncio.sleep(0.05)
    watching.cancel()
    await asyncio.wait({watching})
    assert len(printed) == 1
