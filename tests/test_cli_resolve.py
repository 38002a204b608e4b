"""``backendpool resolve``: one list, or why there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from commands import no_blocking_call_but, publish

from backendpool_async.cli import main


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[None]:
    with no_blocking_call_but("backendpool_async/cli.py", "_print_lines"):
        yield


@pytest.fixture
def url(tmp_path: Path) -> str:
    publish(tmp_path / "backends.txt", "a:1", "b:2")
    return f"file:{tmp_path}/backends.txt?watch=true"


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


@pytest.mark.parametrize("url", ["env:BACKENDPOOL_TEST_NOT_SET?empty_after=1", "static:"])
@pytest.mark.parametrize("json", [(), ("--json",)])
def test_resolve_takes_an_empty_list_for_none(
    url: str, json: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resolve", *json, url]) == 1
    stdout, stderr = capsys.readouterr()
    assert ('"backends": []' in stdout) == bool(json)
    assert stderr == f"backendpool: {url.partition('?')[0].rstrip(':')}: there is no backend\n"


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
