"""Where the command line runs: as a module or a script, and with less than it is used to."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import PROMPT, no_blocking_call_but

from backendpool_async.cli import main


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[None]:
    with no_blocking_call_but("backendpool_async/cli.py", "_print_lines"):
        yield


def test_it_runs_as_a_module_and_as_a_script() -> None:
    for command in (
        [sys.executable, "-m", "backendpool_async"],
        [str(Path(sys.executable).with_name("backendpool"))],
    ):
        process = subprocess.run(
            [*command, "resolve", "static:a:1"], capture_output=True, text=True, timeout=PROMPT
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


def test_without_a_stdout_it_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["resolve", "static:a:1"]) == 0
