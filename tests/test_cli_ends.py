"""How a command ends that nobody waits for: by a signal, or because nobody reads on."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from commands import (
    INTERRUPTED,
    NOBODY_READS,
    TERMINATED,
    complaints,
    driven,
    line_of,
    no_blocking_call_but,
    publish,
    started,
)

from backendpool_async.cli import main
from backendpool_async.cli_ends import until_ended


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[None]:
    with no_blocking_call_but("backendpool_async/cli.py", "_print_lines"):
        yield


@pytest.fixture
def url(tmp_path: Path) -> str:
    publish(tmp_path / "backends.txt", "a:1", "b:2")
    return f"file:{tmp_path}/backends.txt?watch=true"


def test_watch_ends_as_soon_as_nobody_reads_on(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def drive(lines: IO[str]) -> None:
        line_of(lines)
        lines.close()

    assert driven(monkeypatch, drive, "watch", url) == NOBODY_READS
    assert capsys.readouterr().err == ""


def test_ctrl_c_ends_watch_without_a_word(url: str) -> None:
    with started("watch", url) as process:
        assert process.stdout is not None
        assert "generation 1" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert complaints(stderr) == []
    assert process.returncode == INTERRUPTED


def test_sigterm_ends_watch_without_a_word(url: str) -> None:
    with started("watch", "--json", url) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["generation"] == 1
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate()
    assert complaints(stderr) == []
    assert process.returncode == TERMINATED


def test_what_is_ignored_at_the_start_stays_so() -> None:
    async def work() -> int:
        for number in ignored:
            os.kill(os.getpid(), number)
        await asyncio.sleep(0)
        return 3

    # As `nohup` and a shell's background have it; a child inherits what is ignored.
    ignored = (signal.SIGHUP, signal.SIGINT)
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    try:
        assert until_ended(work()) == 3
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)


def test_a_cancellation_that_no_signal_asked_for_is_none_of_its_ends() -> None:
    async def work() -> int:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        until_ended(work())


def test_ctrl_c_before_the_work_begins_leaves_nothing_unsaid(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(work: Coroutine[Any, Any, int]) -> int:
        work.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run", interrupted)
    assert main(["watch", url]) == INTERRUPTED
    gc.collect()
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_is_gone_ends_resolve_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert driven(monkeypatch, lambda lines: None, "resolve", "static:a:1") == 0
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        assert main(["resolve", "static:a:1"]) == NOBODY_READS
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_to_a_reader_that_is_gone_is_quiet_too(argument: str) -> None:
    with started(argument) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert complaints(process.stderr.read()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_is_an_error_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        assert main(["resolve", "static:a:1"]) == 1
    assert capsys.readouterr().err == "backendpool: [Errno 28] No space left on device\n"
