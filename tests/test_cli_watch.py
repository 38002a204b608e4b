"""``backendpool watch``: the list, and then every change."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import pytest
from commands import (
    INTERRUPTED,
    PROMPT,
    TERMINATED,
    driven,
    interrupt,
    line_of,
    no_blocking_call_but,
    publish,
)

from backendpool_async import Backend, Snapshot, cli


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[None]:
    with no_blocking_call_but("backendpool_async/cli.py", "_print_lines"):
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "backends.txt"
    publish(path, "a:1", "b:2")
    return path


@pytest.fixture
def url(file: Path) -> str:
    return f"file:{file}?watch=true"


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
        assert heard[logging.WARNING].wait(PROMPT)
        publish(file, "a:1", "b:2")
        assert heard[logging.INFO].wait(PROMPT)
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


def test_other_attributes_are_a_change_too() -> None:
    lists = (
        Backend("a:1"),
        Backend("a:1", zone="near", rack="7"),
        Backend("a:1", weight=2, zone="far"),
        Backend("a:1", weight=2),
    )
    shots = [Snapshot((each,), generation=number) for number, each in enumerate(lists)]
    changes = [list(cli._changes(*pair)) for pair in pairwise(shots)]
    assert changes == [
        ["~ a:1 has zone=near rack=7"],
        ["~ a:1 has the weight 2", "~ a:1 has zone=far"],
        ["~ a:1 has no attributes"],
    ]
