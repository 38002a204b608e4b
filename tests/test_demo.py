"""The demo: that it ends well, says so only when it did, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from commands import INTERRUPTED, NOBODY_READS, complaints, no_blocking_call_but, started
from servers import until

import backendpool_async.demo
from backendpool_async import BackendPool
from backendpool_async.cli import main
from backendpool_async.demo import Pace, play
from backendpool_async.demo.backend import Backend
from backendpool_async.demo.director import Deed, Director
from backendpool_async.demo.fleet import Fleet
from backendpool_async.demo.follower import Follower
from backendpool_async.demo.load import Load
from backendpool_async.demo.places import ListFile, ServedName
from backendpool_async.demo.screen import Screen

HURRIED = Pace(
    rate=100.0,
    answers_after=0.002,
    reading=0.0,
    draining=0.02,
    outage=0.05,
    patience=10.0,
    dns_interval=0.1,
    dns_timeout=0.2,
    dns_min_ttl=0.05,
    dns_ttl=0,
)
IMPATIENT = replace(HURRIED, patience=0.5)


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[None]:
    with no_blocking_call_but("rich/console.py", "_write_buffer"):
        yield


def started_in(
    tmp_path: Path, stdout: int = subprocess.PIPE
) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start the demo, its files in `tmp_path`."""
    environment = os.environ | {"TMPDIR": str(tmp_path), "COLUMNS": "80"}
    return started("demo", stdout=stdout, env=environment)


def row(stdout: str, title: str) -> list[int]:
    found = re.search(rf"^ *{title} +(\S+) +(\S+)$", stdout, re.MULTILINE)
    assert found is not None, stdout
    return [int(number.replace(",", "")) for number in found.groups()]


def count(stdout: str, title: str) -> int:
    found = re.search(rf"^ *{title} +([\d,]+)$", stdout, re.MULTILINE)
    assert found is not None, stdout
    return int(found[1].replace(",", ""))


# --- the whole of it ---------------------------------------------------------------------------


async def test_no_request_fails_and_every_change_is_seen_and_every_failure_survived(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await play(str(tmp_path), HURRIED) == 0
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    assert count(stdout, "requests") > 50
    assert count(stdout, "failed") == 0
    assert count(stdout, "tried again elsewhere") > 0
    assert row(stdout, "changes made") == row(stdout, "changes seen") == [8, 1]
    assert row(stdout, "failures made") == row(stdout, "failures survived") == [1, 1]
    assert row(stdout, "backends served meanwhile") == [3, 1]
    assert min(row(stdout, "reads while broken")) > 0
    assert row(stdout, "of them empty") == [0, 0]
    assert "No request failed" in stdout


async def test_it_tells_what_was_done_and_what_came_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await play(str(tmp_path), HURRIED)
    told = iter(capsys.readouterr().out.splitlines())
    for expected in (
        "proxy.demo.test, served on 127.0.0.1:",
        "api-1.v2 has started, and is listed",
        "file ",
        "api-1.v1 is no longer listed",
        "api-1.v1 is drained, and has ended",
        "api-3.v1 is drained, and has ended",
        "api-1.v2 is killed; the file still lists it",
        "proxy   ejects 127.0.0.1:",
        "api-1.v3 has started, and is listed instead",
        "a writer dies",
        "file    failing",
        "invalid backend '127.0.'",
        "dns     failing",
        "the DNS server answers",
        "(p50)",
        "api-1.v3",
        "file  kept 3 for",
        "dns   kept 1 for",
    ):
        assert any(expected in line for line in told), expected


async def test_piped_it_is_plain_and_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with tempfile.TemporaryDirectory() as short:
        await play(short, HURRIED)
    stdout = capsys.readouterr().out
    assert stdout.isascii()
    assert "\x1b" not in stdout
    assert all(len(line) <= 80 and line == line.rstrip() for line in stdout.splitlines())
    assert len(stdout.partition("What was counted")[2].splitlines()) <= 30


def test_the_command_runs_it_in_a_directory_that_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directories: list[str] = []

    async def hurriedly(directory: str) -> int:
        directories.append(directory)
        return await play(directory, HURRIED)

    monkeypatch.setattr(backendpool_async.demo, "play", hurriedly)
    assert main(["demo"]) == 0
    assert len(directories) == 1
    assert not os.path.exists(directories[0])


# --- when it does not go well ------------------------------------------------------------------


async def test_it_says_what_was_not_seen_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def talkative(self: ServedName) -> None:
        pass

    monkeypatch.setattr(ServedName, "fall_silent", talkative)
    assert await play(str(tmp_path), IMPATIENT) == 1
    stdout = capsys.readouterr().out
    assert row(stdout, "failures made") == [1, 1]
    assert "NOT SEEN: failing, with the list kept" in stdout
    _, _, end = stdout.partition("Not as it should be")
    assert "dns: not seen in 500 ms: failing, with the list kept" in end
    assert "No request failed" not in stdout


async def test_what_it_waits_for_in_vain_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    director, follower = Director(Screen(), 0.05), Follower("file", BackendPool.static(["a:1"]))
    following = asyncio.create_task(follower.follow())
    assert await director.expect(follower, "an ejection", lambda: False) == "NOT SEEN"
    following.cancel()
    await asyncio.wait({following})
    assert director.unmet == ["file: not seen in 50 ms: an ejection"]


async def test_a_change_that_is_not_seen_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    async def nothing() -> None:
        pass

    director, follower = Director(Screen(), 0.05), Follower("file", BackendPool.static(["a:1"]))
    following = asyncio.create_task(follower.follow())
    await director.change(Deed(follower, "nothing is done", nothing, ["b:2"]))
    following.cancel()
    await asyncio.wait({following})
    assert director.unmet == ["file: not seen in 50 ms: the list b:2"]
    assert follower.tally.times_to_see == []


async def test_a_request_that_fails_fails_it(capsys: pytest.CaptureFixture[str]) -> None:
    async def refused() -> str:
        raise ConnectionRefusedError(111, "refused")

    load = Load(refused, rate=1000.0)
    async with load.going_on():
        await until(lambda: load.requests)
    director = Director(Screen(), 1.0)
    director.judge([], load)
    failed, unanswered = director.unmet
    assert re.fullmatch(r"\d+ requests failed: ConnectionRefusedError: .*refused", failed)
    assert unanswered == "no request was answered"
    assert load.percentile(99) is None


async def test_an_empty_read_fails_it(capsys: pytest.CaptureFixture[str]) -> None:
    async def answered() -> str:
        return "api-1"

    load = Load(answered, rate=1000.0)
    director, follower = Director(Screen(), 1.0), Follower("none", BackendPool.static([]))
    following = asyncio.create_task(follower.follow())
    async with load.going_on():
        await asyncio.sleep(0.01)
    following.cancel()
    await asyncio.wait({following})
    director.judge([follower], load)
    empty, unread = director.unmet
    assert re.fullmatch(r"none: \d+ reads were empty", empty)
    assert unread == "none: nobody read it while it was broken"


async def test_what_is_not_broken_does_not_recover(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ListFile(str(tmp_path))
    director, follower = Director(Screen(), 1.0), Follower("same", BackendPool.static(["a:1"]))

    async def publish() -> None:
        await file.publish(["a:1"])

    await director.change(Deed(follower, "nothing new", publish, ["a:1"]))
    assert follower.tally.failures_survived == 0
    assert len(follower.tally.times_to_see) == 1


# --- how it ends early -------------------------------------------------------------------------


def test_ctrl_c_ends_it_without_a_word_and_nothing_stays(tmp_path: Path) -> None:
    with started_in(tmp_path) as process:
        assert process.stdout is not None
        assert any("deployed anew" in line for line in process.stdout)
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert complaints(stderr) == []
    assert process.returncode == INTERRUPTED
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", ["have started", "is listed", "is killed", "listed instead"])
def test_ctrl_c_on_a_terminal_again_and_again_ends_it_without_a_word(
    line: str, tmp_path: Path
) -> None:
    with started_in(tmp_path) as process:
        assert process.stdout is not None
        assert any(line in each for each in process.stdout)
        while list(tmp_path.iterdir()):
            # A terminal sends it to all of the group.
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.001)
        _, stderr = process.communicate()
    assert complaints(stderr) == []
    assert process.returncode == INTERRUPTED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_a_closed_terminal_end_it_and_nothing_stays(
    number: signal.Signals, tmp_path: Path
) -> None:
    with started_in(tmp_path) as process:
        assert process.stdout is not None
        assert any("have started" in line for line in process.stdout)
        process.send_signal(number)
        _, stderr = process.communicate()
    assert complaints(stderr) == []
    assert process.returncode == 128 + number
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_away_ends_it_without_a_word_and_nothing_stays(
    tmp_path: Path,
) -> None:
    with started_in(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        stderr = process.stderr.read()
    assert complaints(stderr) == []
    assert process.returncode == NOBODY_READS
    assert not list(tmp_path.iterdir())


def test_the_screen_bears_a_reader_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stdout = open(writing, "w")  # noqa: SIM115 - what it cannot write fails again when it closes
    monkeypatch.setattr(sys, "stdout", stdout)
    screen = Screen()
    screen.chapter("to nobody")
    screen.chapter("nor this")
    with pytest.raises(BrokenPipeError):
        stdout.close()


def test_on_a_terminal_it_is_coloured(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        with started_in(tmp_path, theirs) as process:
            shown = b""
            while b"have started" not in shown:
                shown += os.read(ours, 4096)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate()
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"\x1b[36mdns" in shown
    assert complaints(stderr) == []
    assert process.returncode == INTERRUPTED


# --- its backends ------------------------------------------------------------------------------


@pytest.fixture
def end_of_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """What ends the standard input of this process."""
    reading, writing = os.pipe()
    with open(reading) as stdin, open(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield stdout.close


@pytest.fixture
async def backend(
    end_of_input: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[str]:
    """The address of a backend in this process."""
    running = asyncio.create_task(Backend("api", 0.05).run())
    told = ""

    def has_told() -> str:
        nonlocal told
        told += capsys.readouterr().out
        return told

    await until(has_told)
    yield told.strip()
    end_of_input()
    await asyncio.wait_for(running, 10)


async def test_a_backend_answers_with_its_name_again_and_again(
    backend: str,
) -> None:
    host, _, port = backend.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
        assert (await reader.readuntil(b"api\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    await writer.wait_closed()


async def test_a_backend_that_drains_answers_what_was_on_its_way_and_ends(
    backend: str, end_of_input: Callable[[], None]
) -> None:
    host, _, port = backend.rpartition(":")
    idle, busy = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
    busy[1].write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
    await busy[1].drain()
    end_of_input()
    assert b"Connection: close" in (answer := await busy[0].read())
    assert answer.endswith(b"\r\n\r\napi\n")
    assert await idle[0].read() == b""
    for _, writer in (idle, busy):
        writer.close()
        await writer.wait_closed()


async def test_a_backend_that_is_stopped_answers_what_it_has_begun() -> None:
    async with Fleet(0.2) as fleet:
        backend = await fleet.start("api")
        host, _, port = backend.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
        await writer.drain()
        await backend.stop()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"\r\n\r\napi\n")


async def test_ctrl_c_on_a_terminal_does_not_reach_the_backends() -> None:
    async with Fleet(0.0) as fleet:
        backend = await fleet.start("api")
        assert os.getsid(backend._process.pid) != os.getsid(0)


async def test_a_backend_that_cannot_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    async with Fleet(0.0) as fleet:
        with pytest.raises(OSError, match="the backend api did not start"):
            await fleet.start("api")
