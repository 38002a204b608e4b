"""A room whose library is missing says what to install."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXTRAS = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text())[
    "project"
]["optional-dependencies"]
PROGRAM = """\
import importlib, sys
room, library = sys.argv[1:]
sys.modules[library] = None
try:
    importlib.import_module(room)
except ModuleNotFoundError as error:
    assert error.name.partition(".")[0] == library, error.name
    print(error)
"""


def told(room: str, library: str) -> str:
    """What is said when the room is imported without the library."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, room, library], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("room", "library", "extra"),
    [
        ("fastapi", "starlette", "fastapi"),
        ("aiohttp", "aiohttp", "aiohttp"),
        ("proxy", "aiohttp", "proxy"),
        ("proxy", "websockets", "proxy"),
        ("status.aiohttp", "aiohttp", "aiohttp"),
        ("demo", "aiohttp", "demo"),
        ("demo", "rich", "demo"),
    ],
)
def test_a_room_without_its_library_names_both_and_the_extra(
    room: str, library: str, extra: str
) -> None:
    said = told(f"backendpool_async.{room}", library)
    assert said == f"backendpool_async.{room} needs {library}: {install(extra)}"
    # FastAPI brings Starlette.
    assert any(each.startswith((library, "fastapi")) for each in EXTRAS[extra])


@pytest.mark.parametrize(
    ("room", "library", "said"),
    [
        ("demo", "dns", "backendpool_async.demo needs dnspython: {demo}"),
        ("testing.dns_server", "dns", "FakeDnsServer needs dnspython: {testing}"),
        ("metrics.opentelemetry", "opentelemetry", "instrument needs opentelemetry-api: {otel}"),
        (
            "testing.pytest_plugin",
            "pytest",
            "{plugin} needs pytest: pip install pytest 'pytest-asyncio>=1.5'",
        ),
    ],
)
def test_what_is_called_otherwise_is_named_as_it_is_installed(
    room: str, library: str, said: str
) -> None:
    assert told(f"backendpool_async.{room}", library) == said.format(
        demo=install("demo"),
        testing=install("testing"),
        otel=install("opentelemetry"),
        plugin="backendpool_async.testing.pytest_plugin",
    )


def install(extra: str) -> str:
    assert extra in EXTRAS
    return f"pip install 'backendpool-async[{extra}]'"
