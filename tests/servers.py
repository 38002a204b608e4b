"""Real servers for tests, and what a test needs to look at them and at its own process."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

PATIENCE = 20.0


async def until(condition: Callable[[], object], *, within: float = PATIENCE) -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.002)


class Use(NamedTuple):
    """What this process holds of the system's."""

    threads: int
    descriptors: int
    inotify: int

    @classmethod
    def now(cls) -> Use:
        """Count: all threads, also those that Python knows nothing of."""
        links = []
        for descriptor in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        inotify = sum("inotify" in link for link in links)
        return cls(len(os.listdir("/proc/self/task")), len(links), inotify)


class Run(NamedTuple):
    """How a script ended."""

    code: int
    out: str
    err: str


def run_script(script: str, *arguments: str) -> Run:
    """Run a script in an interpreter of its own, every warning an error."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


@contextmanager
def silent_nameserver() -> Iterator[str]:
    """A name server that takes every question and answers none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def nameserver_of_its_own(names: int) -> Iterator[str]:
    """A `FakeDnsServer` that no test slows down: "api0.test" and so on, with a TTL of 1."""
    script = """
        import asyncio, sys
        from backendpool_async.testing.dns_server import FakeDnsServer

        async def main():
            async with FakeDnsServer() as server:
                for index in range(int(sys.argv[1])):
                    server.answer(f"api{index}.test", "10.0.0.1", ttl=1)
                print(server.address, flush=True)
                await asyncio.to_thread(sys.stdin.read)

        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(names)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(PATIENCE)


def nobody() -> str:
    """Return an address of this machine where nothing listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{server.getsockname()[1]}"


def missing(server: str) -> NoReturn:
    """Skip the test that needs a server which is not installed; fail it where it has to be."""
    reason = f"{server} is not installed"
    if os.environ.get("BACKENDPOOL_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{reason}, and BACKENDPOOL_REQUIRE_SERVERS=1")
    pytest.skip(reason)


class Knot:
    """A running knotd with the zone ``knot.test``; records are changed while it runs."""

    ZONE = "knot.test"
    _ZONE_FILE = """\
$ORIGIN knot.test.
@   30 SOA ns hostmaster 1 3600 600 86400 30
@   30 NS  ns
ns  30 A   127.0.0.1
"""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def start(self) -> None:
        """Return when it answers; another port is tried when one was taken meanwhile."""
        (self._directory / f"{self.ZONE}.zone").write_text(self._ZONE_FILE)
        for _ in range(5):
            if self._started(_free_port()):
                return
        log = (self._directory / "log").read_text()
        raise AssertionError(f"knotd did not start: {log}")

    def start_again(self) -> None:
        """Return when it answers on the port that it had, with an empty zone."""
        assert self._started(int(self.address.rpartition(":")[2]))

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def records(self, name: str, rdtype: str, *values: str, ttl: int = 30) -> None:
        """Let these be all the records of a name and a type."""
        with self._transaction():
            known = self._control("zone-get", self.ZONE, name, rdtype, check=False)
            if known.returncode == 0 and known.stdout:
                self._control("zone-unset", self.ZONE, name, rdtype)
            for value in values:
                self._control("zone-set", self.ZONE, name, str(ttl), rdtype, value)

    def remove(self, name: str) -> None:
        """Let the name not exist."""
        with self._transaction():
            self._control("zone-unset", self.ZONE, name)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._control("zone-begin", self.ZONE)
        try:
            yield
        except BaseException:
            self._control("zone-abort", self.ZONE, check=False)
            raise
        self._control("zone-commit", self.ZONE)

    def _started(self, port: int) -> bool:
        self.address = f"127.0.0.1:{port}"
        configuration = self._directory / "knot.conf"
        configuration.write_text(_knot_configuration(self._directory, port))
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["knotd", "-c", str(configuration)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._control("zone-status", self.ZONE, check=False).returncode == 0:
                return True
            time.sleep(0.02)
        self.stop()
        return False

    def _control(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["knotc", "-b", "-s", str(self._directory / "sock"), *command],
            capture_output=True,
            timeout=PATIENCE,
            check=check,
        )


@contextmanager
def running_knot(directory: Path) -> Iterator[Knot]:
    """Run a knotd, or skip the test where there is none."""
    if shutil.which("knotd") is None or shutil.which("knotc") is None:
        missing("knotd")
    knot = Knot(directory)
    try:
        knot.start()
        yield knot
    finally:
        knot.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _knot_configuration(directory: Path, port: int) -> str:
    return f"""\
server:
    listen: 127.0.0.1@{port}
    rundir: {directory}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: warning
database:
    storage: {directory}
control:
    listen: {directory}/sock
template:
  - id: default
    storage: {directory}
    zonefile-load: whole
    zonefile-sync: -1
    journal-content: none
zone:
  - domain: {Knot.ZONE}
"""
