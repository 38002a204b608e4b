"""The command line, run as a user runs it: in this process, or in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from blockbuster import blockbuster_ctx

from backendpool_async.cli import main

INTERRUPTED, NOBODY_READS, TERMINATED = 130, 141, 143
PROMPT = 30.0

Drive = Callable[[IO[str]], None]


@contextmanager
def no_blocking_call_but(file: str, function: str) -> Iterator[None]:
    """What the house forbids, but for one thing: a command waits for whoever reads its output."""
    with blockbuster_ctx("backendpool_async") as blockbuster:
        for blocking in blockbuster.functions.values():
            blocking.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
            blocking.can_block_in("coverage/collector.py", "lock_data")
            blocking.can_block_in("asyncinotify/__init__.py", "_get")  # reads when it is ready
            blocking.can_block_in(file, function)
        yield


def publish(path: Path, *lines: str) -> None:
    """Let these be the lines of a file, at once."""
    new = path.with_suffix(".new")
    new.write_text("".join(f"{line}\n" for line in lines))
    new.replace(path)


def line_of(lines: IO[str]) -> str:
    """The next line that a command prints."""
    line = lines.readline()
    assert line, "the command ended early"
    return line


def interrupt(number: signal.Signals = signal.SIGINT) -> None:
    """Send this process a signal, as Ctrl-C does."""
    os.kill(os.getpid(), number)


def driven(monkeypatch: pytest.MonkeyPatch, drive: Drive, *arguments: str) -> int:
    """Run `main` with a pipe for its output; `drive` reads the other end in a thread."""
    reading, writing = os.pipe()
    # Whatever goes wrong, the command ends.
    watchdog = threading.Timer(PROMPT, interrupt)

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


@contextmanager
def started(
    *arguments: str, stdout: int = subprocess.PIPE, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start the command under every check that Python has, in a process group of its own."""
    command = (sys.executable, "-X", "dev", "-W", "error", "-m", "backendpool_async")
    with subprocess.Popen(
        [*command, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        process_group=0,
    ) as process:
        watchdog = threading.Timer(PROMPT, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            process.kill()
            watchdog.cancel()
            watchdog.join()


def complaints(stderr: str) -> list[str]:
    """What a command says on stderr."""
    # In debug mode asyncio times every callback; that a machine is busy is no complaint.
    return [line for line in stderr.splitlines() if not line.startswith("Executing <")]
