"""What the command line takes, and what it says of anything else."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from commands import no_blocking_call_but, publish

import backendpool_async
from backendpool_async import cli
from backendpool_async.cli import main


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[None]:
    with no_blocking_call_but("backendpool_async/cli.py", "_print_lines"):
        yield


@pytest.fixture
def url(tmp_path: Path) -> str:
    publish(tmp_path / "backends.txt", "a:1", "b:2")
    return f"file:{tmp_path}/backends.txt?watch=true"


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


@pytest.mark.parametrize("kind", [ValueError, TypeError, ImportError])
def test_whatever_a_url_is_refused_for_is_told_on_one_line(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(url: str) -> NoReturn:
        raise kind(f"{url!r}: that is wrong with it")

    monkeypatch.setattr(backendpool_async.BackendPool, "from_url", refuse)
    with pytest.raises(SystemExit) as exit_:
        main(["resolve", "static:a:1"])
    assert exit_.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("error: argument URL: 'static:a:1': that is wrong with it")


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
    assert "dnspython and rich" in stderr
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
