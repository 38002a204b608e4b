"""What the documentation shows is what happens: docstrings, README, metadata."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import backendpool_async

ROOT = Path(__file__).parent.parent
PACKAGE = Path(backendpool_async.__file__).parent
README = (ROOT / "README.md").read_text()
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__main__.py"
]
# Names that an example may use without importing them each time.
GLOBALS = {"asyncio": asyncio, "BackendPool": backendpool_async.BackendPool}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def examples_of(module: ModuleType) -> list[doctest.DocTest]:
    globs = GLOBALS | vars(module)
    found = doctest.DocTestFinder(exclude_empty=True).find(module, globs=globs)
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_do_what_they_show(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in examples_of(module):
        runner.run(test)
    assert runner.summarize().failed == 0


def test_the_main_class_is_documented_by_examples_that_run() -> None:
    tests = examples_of(importlib.import_module("backendpool_async.pool"))
    assert any(test.name.endswith("BackendPool") for test in tests)


def test_the_code_of_the_readme_runs_from_top_to_bottom(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_BACKEND_0", "API_BACKEND_1"):
        monkeypatch.delenv(name, raising=False)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 8
    # As a module's: `web.AppKey` asks for it.
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert capsys.readouterr().out.startswith("127.0.0.1 8080\n")


def test_a_command_of_the_readme_prints_what_it_shows() -> None:
    shown = re.search(r"\$ (backendpool resolve .*)\n((?:(?!\$|```).*\n)+)", README)
    assert shown is not None
    command = [sys.executable, "-m", *shlex.split(shown[1].replace("pool ", "pool_async ", 1))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == shown[2]


def test_every_extra_that_the_readme_names_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"'\.\[(\w+)\]'|extra `(\w+)`", README)
    assert named
    assert {first or second for first, second in named} <= set(project["optional-dependencies"])


def test_the_core_requires_aiodns_and_anyio_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=~! ]", requirement)[0] for requirement in project["dependencies"]}
    assert names == {"aiodns", "anyio"}


def test_the_readme_says_where_every_figure_comes_from() -> None:
    section = README.split("## How fast")[1].split("\n## ")[0]
    for name in re.findall(r"benchmarks[./](\w+)", section):
        assert (ROOT / "benchmarks" / f"{name}.py").exists()
    assert "benchmarks" in section
