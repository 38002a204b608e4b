"""The command line, as its users meet it: what it prints where, and how it ends."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pytest
from blockbuster import blockbuster_ctx

import backendpool_async
from backendpool_async import Backend, Snapshot, cli
from backendpool_async.cli import main

INTERRUPTED, NOBODY_READS, TERMINATED = 130, 141, 143
STRICT = (sys.executable, "-X", "dev", "-W", "error", "-m", "backendpool_async")
_PROMPT = 30.0

Drive = Callable[[IO[str]], None]


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[None]:
    """What the house forbids, but for one thing: a command waits for whoever reads its output."""
    with blockbuster_ctx("backendpool_async") as blockbuster:
        for function in blockbuster.functions.values():
            function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
            function.can_block_in("coverage/collector.py", "lock_data")
            function.can_block_in("asyncinotify/__init__.py", "_get")  # reads when it is ready
            function.can_block_in("backendpool_async/cli.py", "_print_lines")
        yield


def publish(path: Path, *lines: str) -> None:
    new = path.with_suffix(".new")
    new.write_text("".join(f"{line}\n" for line in lines))
    new.replace(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "backends.txt"
    publish(path, "a:1", "b:2")
    return path


@pytest.fixture
def url(file: Path) -> str:
    return f"file:{file}?watch=true"


def line_of(lines: IO[str]) -> str:
    line = lines.readline()
    assert line, "the command ended early"
    return line


def interrupt(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def driven(monkeypatch: pytest.MonkeyPatch, drive: Drive, *arguments: str) -> int:
    """Run `main` with a pipe for its output; `drive` reads the other end in a thread."""
    reading, writing = os.pipe()
    # Whatever goes wrong, the command ends.
    watchdog = threading.Timer(_PROMPT, interrupt)

    ended = threading.Event()

    def drive_to_the_end(lines: IO[str]) -> None:
        try:
            drive(lines)
        except BaseException:
            if not ended.is_set():
                interrupt()
            raise

    with (
        open(reading) as lines,
        ThreadPoolExecutor(1) as thread,
        open(writing, "w") as stdout,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", stdout)
        watchdog.start()
        try:
            driver = thread.submit(drive_to_the_end, lines)
            status = main(arguments)
        finally:
            ended.set()
            watchdog.cancel()
            watchdog.join()
    driver.result()
    return status


@contextlib.contextmanager
def started(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start the command under every check that Python has."""
    with subprocess.Popen(
        [*STRICT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    ) as process:
        watchdog = threading.Timer(_PROMPT, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            process.kill()
            watchdog.cancel()
            watchdog.join()


def complaints(stderr: str) -> list[str]:
    # In debug mode asyncio times every callback; that a machine is busy is no complaint.
    return [line for line in stderr.splitlines() if not line.startswith("Executing <")]


# --- resolve ---------------------------------------------------------------------------------


def test_resolve_prints_one_backend_a_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resolve", url]) == 0
    assert capsys.readouterr() == ("a:1\nb:2\n", "")


def test_resolve_prints_why_it_failed_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resolve", f"file:{tmp_path}/none.txt"]) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("backendpool: file:")
    assert "No such file" in stderr
    assert stderr.count("\n") == 1


def test_resolve_takes_a_negative_answer_for_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["resolve", "env:BACKENDPOOL_TEST_NOT_SET"]) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert "no variable BACKENDPOOL_TEST_NOT_SET_0" in stderr


def test_resolve_with_json_prints_one_object(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resolve", "--json", url]) == 0
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    line = json.loads(stdout)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "generation": 1,
        "backends": ["a:1", "b:2"],
        "added": ["a:1", "b:2"],
        "removed": [],
        "error": None,
    }


def test_resolve_with_json_says_the_error_in_both_places(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["resolve", "--json", "env:BACKENDPOOL_TEST_NOT_SET"]) == 1
    stdout, stderr = capsys.readouterr()
    line = json.loads(stdout)
    assert line["backends"] == []
    assert stderr == f"backendpool: {line['error']}\n"


# --- watch -----------------------------------------------------------------------------------


def test_watch_prints_the_list_and_then_every_change(
    file: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def drive(lines: IO[str]) -> None:
        def read(count: int) -> None:
            seen.extend(line_of(lines) for _ in range(count))

        read(3)
        publish(file, "b:2", "c:3")
        read(3)
        publish(file, "c:3", "b:2")
        read(2)
        interrupt()

    assert driven(monkeypatch, drive, "watch", url) == INTERRUPTED
    # The time in front is 23 characters wide, and so is the space under it.
    assert [line[23:] for line in seen] == [
        "  generation 1: 2 backends\n",
        "  + a:1\n",
        "  + b:2\n",
        "  generation 2: 2 backends\n",
        "  - a:1\n",
        "  + c:3\n",
        "  generation 3: 2 backends\n",
        "  ~ another order\n",
    ]
    assert [bool(line[:23].strip()) for line in seen] == [True, False, False] * 2 + [True, False]
    assert datetime.fromisoformat(seen[0][:23])
    assert capsys.readouterr().err == ""


def test_watch_tells_of_failing_and_recovery_on_stderr(
    file: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: dict[int, threading.Event] = {
        logging.WARNING: threading.Event(),
        logging.INFO: threading.Event(),
    }

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard[record.levelno].set()

    def drive(lines: IO[str]) -> None:
        for _ in range(3):
            line_of(lines)
        publish(file, "a:1", "oops")
        assert heard[logging.WARNING].wait(_PROMPT)
        publish(file, "a:1", "b:2")
        assert heard[logging.INFO].wait(_PROMPT)
        interrupt(signal.SIGTERM)
        assert lines.read() == ""

    logger = logging.getLogger("backendpool_async")
    ear = Ear()
    level = logger.level
    logger.addHandler(ear)
    try:
        assert driven(monkeypatch, drive, "watch", url) == TERMINATED
    finally:
        logger.removeHandler(ear)
    assert logger.level == level
    failing, recovery = capsys.readouterr().err.splitlines()
    assert "WARNING: file:" in failing
    assert "oops" in failing
    assert "INFO: file:" in recovery
    assert "recovered with 2 backends" in recovery


def test_watch_with_json_prints_a_line_when_the_source_begins_to_fail_and_when_it_recovers(
    file: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def drive(lines: IO[str]) -> None:
        def read() -> None:
            seen.append(json.loads(line_of(lines)))

        read()
        publish(file, "a:1", "oops")
        read()
        publish(file, "a:1", "b:2")
        read()
        publish(file, "a:1", "oops")
        read()
        publish(file, "b:2")
        read()
        publish(file, "c:3")
        read()
        interrupt()

    assert driven(monkeypatch, drive, "watch", "--json", url) == INTERRUPTED
    assert [(line["generation"], line["added"], line["removed"]) for line in seen] == [
        (1, ["a:1", "b:2"], []),
        (1, [], []),
        (1, [], []),
        (1, [], []),
        (2, [], ["a:1"]),
        (3, ["c:3"], ["b:2"]),
    ]
    failing = [line["error"] for line in seen]
    assert [failing[place] for place in (0, 2, 4, 5)] == [None] * 4
    assert all("oops" in error for error in (failing[1], failing[3]))
    assert seen[3]["backends"] == ["a:1", "b:2"]


def test_watch_goes_on_when_the_first_refresh_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "later.txt"
    seen: list[dict[str, Any]] = []

    def drive(lines: IO[str]) -> None:
        seen.append(json.loads(line_of(lines)))
        publish(path, "a:1")
        seen.append(json.loads(line_of(lines)))
        interrupt()

    url = f"file:{path}?watch=true"
    assert driven(monkeypatch, drive, "watch", "--json", url) == INTERRUPTED
    assert [(line["backends"], line["error"] is None) for line in seen] == [
        ([], False),
        (["a:1"], True),
    ]


def test_watch_says_when_there_is_nothing_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drive(lines: IO[str]) -> None:
        assert line_of(lines).endswith("  generation 0: 0 backends\n")
        interrupt()

    assert driven(monkeypatch, drive, "watch", f"file:{tmp_path}/none") == INTERRUPTED


def test_a_new_weight_is_a_change_too() -> None:
    before = Snapshot((Backend("a:1"), Backend("b:2")))
    after = Snapshot((Backend("a:1", weight=3), Backend("b:2")), generation=1)
    assert list(cli._changes(before, after)) == ["~ a:1 has the weight 3"]


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


# --- output that nobody takes ------------------------------------------------------------------


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


def test_without_a_stdout_it_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["resolve", "static:a:1"]) == 0


# --- usage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "COMMAND"),
        (["resolve"], "URL"),
        (["jump"], "'jump'"),
        (["resolve", "http://a"], "'http://a': it begins with none of static:"),
        (["watch", "static:a"], "invalid backend 'a' (entry 1): no port"),
        (["watch", "dns://a:1?ttl=3"], "no keyword 'ttl'"),
        (["watch", "dns://a:1?poll_interval=0"], "poll_interval=0.0"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_what_is_wrong(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert named in stderr


def test_a_url_that_needs_an_extra_exits_with_2_and_names_it(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "backendpool_async.sources.watched_file", None)
    with pytest.raises(SystemExit) as exit_:
        main(["resolve", url])
    assert exit_.value.code == 2
    assert "pip install 'backendpool-async[watch]'" in capsys.readouterr().err


def test_demo_without_its_extra_exits_with_2_and_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["demo"]) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert "rich and dnspython" in stderr
    assert "pip install 'backendpool-async[demo]'" in stderr


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"backendpool {backendpool_async.__version__}\n"


def test_help_fits_80_columns_and_shows_a_url_of_every_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in (["--help"], ["watch", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        assert all(scheme in text for scheme in ("static:", "env:", "file:", "dns://"))


def test_the_urls_in_the_help_are_good_ones() -> None:
    urls = [line.split()[0] for line in cli._URLS.splitlines() if line.startswith("  ")]
    assert len(urls) == 4
    for url in urls:
        backendpool_async.BackendPool.from_url(url)


def test_it_runs_as_a_module_and_as_a_script() -> None:
    for command in (
        [sys.executable, "-m", "backendpool_async"],
        [str(Path(sys.executable).with_name("backendpool"))],
    ):
        process = subprocess.run(
            [*command, "resolve", "static:a:1"], capture_output=True, text=True, timeout=_PROMPT
        )
        assert (process.returncode, process.stdout, process.stderr) == (0, "a:1\n", "")


def test_the_module_does_nothing_until_it_is_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["backendpool", "resolve", "static:a:1"])
    runpy.run_module("backendpool_async.__main__")
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("backendpool_async", run_name="__main__")
    assert exit_.value.code == 0
    assert capsys.readouterr().out == "a:1\n"


def test_where_the_loop_takes_no_signals_it_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("asyncio.SelectorEventLoop.add_signal_handler", refuse)
    assert main(["resolve", "static:a:1"]) == 0
    assert capsys.readouterr().out == "a:1\n"
