"""Module-level balancers under servers that make processes: workers, preloading, reloading."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import servers
from commands import publish

A, B = "10.0.0.1:80", "10.0.0.2:80"
_PATIENCE = 30.0

# Started, chosen from, failed and closed before the fork: a worker inherits what was in use.
COMMON = """
    import asyncio, os
    from backendpool_async import BackendPool, Balancer

    pool = BackendPool.file("backends.txt", poll_interval=0.1)
    api = Balancer(pool)

    async def use():
        async with api, api.lease() as lease:
            lease.failed("before the fork")

    if os.environ.get("PRELOADED"):
        asyncio.run(use())

    def report():
        return {"process": os.getpid(), "running": pool.is_running, "picked": api.pick()}
"""
FASTAPI = """
    from typing import Annotated
    from fastapi import Depends, FastAPI
    from backendpool_async.fastapi import balancer_from_state, balancer_lifespan

    app = FastAPI(lifespan=balancer_lifespan({"api": api}))

    @app.get("/")
    async def home(chosen: Annotated[Balancer, Depends(balancer_from_state("api"))]) -> dict:
        assert chosen is api
        return report()
"""
AIOHTTP = """
    from aiohttp import web
    from backendpool_async.aiohttp import balancer_context

    API = web.AppKey("API", Balancer)

    async def home(request):
        assert request.app[API] is api
        return web.json_response(report())

    app = web.Application()
    app.cleanup_ctx.append(balancer_context(API, api))
    app.router.add_get("/", home)
"""


class Report(NamedTuple):
    process: int
    running: bool
    picked: str


class Server:
    def __init__(self, address: str, process: subprocess.Popen[str]) -> None:
        self._address = address
        self.process = process

    def ask(self) -> Report:
        # A connection of its own each time: any of the workers may take it.
        with urllib.request.urlopen(f"http://{self._address}/", timeout=_PATIENCE) as answer:
            return Report(**json.load(answer))

    def reports(self, picked: str, workers: int) -> set[int]:
        """Return the processes when so many choose this backend, each between start and close."""
        seen: dict[int, str] = {}
        deadline = time.monotonic() + _PATIENCE
        while list(seen.values()).count(picked) < workers:
            assert time.monotonic() < deadline, f"it did not happen in time: {seen}"
            report = self.ask()
            assert report.running
            seen[report.process] = report.picked
        return {process for process, pick in seen.items() if pick == picked}

    def stop(self) -> str:
        """End it as a deployment does; return what it said."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=_PATIENCE)[1]


@contextmanager
def serving(
    directory: Path, program: str, *command: str, preloaded: bool = False
) -> Iterator[Server]:
    (directory / "wired.py").write_text(textwrap.dedent(COMMON) + textwrap.dedent(program))
    publish(directory / "backends.txt", A)
    # Listening already: a request waits until the server takes it.
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        listening.set_inheritable(True)
        descriptor = listening.fileno()
        with subprocess.Popen(
            [sys.executable, "-m", *(part.replace("FD", str(descriptor)) for part in command)],
            cwd=directory,
            pass_fds=[descriptor],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | ({"PRELOADED": "1"} if preloaded else {}),
        ) as process:
            try:
                yield Server(f"127.0.0.1:{listening.getsockname()[1]}", process)
            finally:
                process.kill()


def each_of_two_workers_follows_the_list(server: Server, directory: Path) -> None:
    workers = server.reports(A, 2)
    publish(directory / "backends.txt", B)
    assert server.reports(B, 2) == workers
    assert server.process.pid not in workers
    said = server.stop()
    assert server.process.returncode == 0, said
    assert "Traceback" not in said
    assert "never" not in said


def test_each_worker_of_uvicorn_follows_the_list(tmp_path: Path) -> None:
    with serving(tmp_path, FASTAPI, "uvicorn", "wired:app", "--fd=FD", "--workers=2") as server:
        each_of_two_workers_follows_the_list(server, tmp_path)


@pytest.mark.parametrize(
    ("program", "worker"),
    [
        (FASTAPI, "uvicorn.workers.UvicornWorker"),
        (FASTAPI, "asgi"),
        (AIOHTTP, "aiohttp.GunicornWebWorker"),
    ],
)
def test_each_worker_of_gunicorn_follows_the_list_that_was_preloaded(
    tmp_path: Path, program: str, worker: str
) -> None:
    if importlib.util.find_spec("gunicorn") is None:
        servers.missing("gunicorn")
    options = ("--bind=fd://FD", "--workers=2", "--preload", "--no-control-socket", "-k", worker)
    with serving(tmp_path, program, "gunicorn", "wired:app", *options, preloaded=True) as server:
        each_of_two_workers_follows_the_list(server, tmp_path)


def test_a_reloaded_application_follows_the_list_again(tmp_path: Path) -> None:
    with serving(tmp_path, FASTAPI, "uvicorn", "wired:app", "--fd=FD", "--reload") as server:
        first = server.reports(A, 1)
        with (tmp_path / "wired.py").open("a") as program:
            program.write("\n# another\n")
        publish(tmp_path / "backends.txt", B)
        deadline = time.monotonic() + _PATIENCE
        followed = first
        while followed & first:
            assert time.monotonic() < deadline, "it was not reloaded in time"
            # A reload may end the old worker in the middle of an answer.
            with suppress(OSError):
                followed = server.reports(B, 1)
        assert "Traceback" not in server.stop()
