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
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from commands import INTERRUPTED, NOBODY_READS, complaints, no_blocking_call_but, started

import backendpool_async.demo
from backendpool_async import BackendPool
from backendpool_async.cli import main
from backendpool_async.demo import Pace, play
from backendpool_async.demo.director import Deed, Director
from backendpool_async.demo.follower import Follower
from backendpool_async.demo.places import ListFile, ServedName, Variables
from backendpool_async.demo.screen import Screen
from backendpool_async.testing.dns_server import FakeDnsServer

HURRIED = Pace(
    reading=0.0,
    outage=0.05,
    patience=10.0,
    env_interval=0.05,
    dns_interval=0.1,
    dns_timeout=0.2,
    dns_min_ttl=0.05,
    dns_ttl=0,
)


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
    found = re.search(rf"^ *{title} +(\S+) +(\S+) +(\S+)$", stdout, re.MULTILINE)
    assert found is not None, stdout
    return [int(number.replace(",", "")) for number in found.groups()]


# --- the whole of it ---------------------------------------------------------------------------


async def test_every_change_is_seen_and_every_failure_survived(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await play(str(tmp_path), HURRIED) == 0
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    assert row(stdout, "changes made") == row(stdout, "changes seen") == [3, 2, 2]
    assert row(stdout, "failures made") == row(stdout, "failures survived") == [1, 2, 1]
    assert row(stdout, "backends served meanwhile") == [2, 3, 2]
    assert min(row(stdout, "reads while broken")) > 0
    assert row(stdout, "of them empty") == [0, 0, 0]
    assert "Every change was seen" in stdout


async def test_it_tells_what_was_done_and_what_the_pools_made_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await play(str(tmp_path), HURRIED)
    told = iter(capsys.readouterr().out.splitlines())
    for expected in (
        "the file gets the line 10.1.0.3:80",
        "file    10.1.0.1:80  10.1.0.2:80 +10.1.0.3:80",
        "the file loses the line 10.1.0.1:80",
        "file    10.1.0.2:80  10.1.0.3:80 -10.1.0.1:80",
        "a writer dies",
        "file    failing",
        "invalid backend '10.1.0.'",
        "One wrong answer",
        "dns     failing",
        "NXDOMAIN",
        "dns     10.2.0.2:80  10.2.0.3:80  10.2.0.4:80",
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
    assert len(stdout.partition("What was counted")[2].splitlines()) <= 20


async def test_it_gives_the_environment_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{Variables.prefix}_7", "mine")
    before = dict(os.environ)
    await play(str(tmp_path), HURRIED)
    assert dict(os.environ) == before


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
    async def nothing(self: Variables, backends: Sequence[str]) -> None:
        pass

    async def deaf(self: ServedName, backends: Sequence[str]) -> None:
        await self.fall_silent()

    first = Variables.publish

    async def only_first(self: Variables, backends: Sequence[str]) -> None:
        await first(self, backends)
        monkeypatch.setattr(Variables, "publish", nothing)

    monkeypatch.setattr(Variables, "publish", only_first)
    monkeypatch.setattr(ServedName, "vanish_once", deaf)
    impatient = Pace(
        reading=0.0,
        outage=0.05,
        patience=1.0,
        env_interval=0.05,
        dns_interval=0.1,
        dns_timeout=0.2,
        dns_min_ttl=0.05,
        dns_ttl=0,
    )
    assert await play(str(tmp_path), impatient) == 1
    stdout = capsys.readouterr().out
    assert row(stdout, "changes seen") == [3, 2, 0]
    assert row(stdout, "failures survived") == [1, 1, 0]
    assert "NOT SEEN: failing, with the list kept" in stdout
    _, _, end = stdout.partition("Not as it should be")
    for unmet in (
        "env: not seen in 1.00 s: the list 10.3.0.1:80 10.3.0.3:80",
        "env: not seen in 1.00 s: failing, with the list kept",
        "dns: not seen in 1.00 s: recovered, with the list kept",
    ):
        assert unmet in end
    assert "Every change was seen" not in stdout


async def test_an_empty_read_fails_it(capsys: pytest.CaptureFixture[str]) -> None:
    director, follower = Director(Screen(), 1.0), Follower("none", BackendPool.static([]))
    following = asyncio.create_task(follower.follow())
    await asyncio.sleep(0.01)
    following.cancel()
    await asyncio.wait({following})
    director.judge([follower])
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
        assert any("The lists change" in line for line in process.stdout)
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert complaints(stderr) == []
    assert process.returncode == INTERRUPTED
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
            while b"pools start" not in shown:
                shown += os.read(ours, 4096)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate()
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"\x1b[36mfile" in shown
    assert complaints(stderr) == []
    assert process.returncode == INTERRUPTED


async def test_a_dns_name_that_vanishes_once_is_there_again(tmp_path: Path) -> None:
    async with FakeDnsServer() as server:
        name = ServedName(server, ttl=0)
        await name.publish(["10.2.0.1:80"])
        pool = BackendPool.dns(name.name, name.port, nameservers=[name.address], empty_after=1)
        await name.vanish_once(["10.2.0.2:80"])
        assert (await pool.refresh()).backends == ()
        assert (await pool.refresh()).backends == ("10.2.0.2:80",)
