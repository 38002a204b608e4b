"""The house: arrows one way, short files, and a face that imports no extra."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import backendpool_async

PACKAGE = Path(backendpool_async.__file__).parent
# From the ground up: a room imports only from lines above its own.
FLOORS = [
    {"errors", "extras", "untracked"},
    {"attributes"},
    {"backend", "copies", "keywords", "logs", "threads", "schedule"},
    {"bulk", "snapshot", "alarm"},
    {"source"},
    {"sources", "flight"},
    {"url", "run", "live"},
    {"constructors", "verdict"},
    {"pool"},
    {"portal"},
    {"sync"},
    {"balance"},
    {"retries", "running"},
    {"aiohttp", "fastapi", "httpx", "metrics"},
    {"status"},
    {"proxy"},
    {"__init__", "testing"},
    {"demo"},
    {"cli_ends", "cli_health", "cli_serve"},
    {"cli"},
    {"__main__"},
]
EXTRAS = {"aiohttp", "asyncinotify", "dns", "rich", "pytest", "pytest_asyncio", "hypothesis"}
EXTRAS |= {"fastapi", "httpx", "httpx2", "opentelemetry", "starlette", "uvicorn"}


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports(path: Path) -> set[str]:
    """The package's own modules that one of them imports, wherever in the file."""
    known = modules()
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            inner = name.removeprefix("backendpool_async").lstrip(".")
            if name.startswith("backendpool_async") and inner in known:
                found.add(inner)
    return found


def floor_of(module: str) -> int:
    room = module.split(".")[0]
    (floor,) = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    return floor


@pytest.mark.parametrize("module", modules())
def test_a_room_imports_only_rooms_above_it(module: str) -> None:
    for imported in imports(modules()[module]) - {module}:
        same_room = imported.split(".")[0] == module.split(".")[0]
        assert same_room or floor_of(imported) < floor_of(module), f"{module} imports {imported}"


def test_there_is_no_cycle() -> None:
    graph = {module: imports(path) - {module} for module, path in modules().items()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", modules())
def test_a_file_has_one_purpose_and_no_function_is_long(module: str) -> None:
    path = modules()[module]
    assert len(path.read_text().splitlines()) <= 400
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno <= 60, f"{module}.{node.name}"


def test_importing_the_package_imports_no_extra() -> None:
    program = (
        "import sys, backendpool_async, backendpool_async.sync, backendpool_async.testing\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not EXTRAS & set(done.stdout.split())


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_every_public_name_is_documented() -> None:
    for name in backendpool_async.__all__:
        assert getattr(backendpool_async, name).__doc__, name
