"""A real DNS server on the loopback interface, with a zone that can be changed while it runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

ZONE: Final = "bench.test"

_CONFIG: Final = """
server:
    rundir: "{directory}"
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: "{directory}"
control:
    listen: "{directory}/knot.sock"
log:
  - target: "{directory}/knot.log"
    any: warning
zone:
  - domain: {zone}
    file: "{directory}/zone"
    zonefile-sync: -1
    journal-content: none
"""

Records = Mapping[str, Sequence[str]]


class Knot:
    """One running knotd; `port` is where it answers, `name` makes a full name of a label."""

    def __init__(self, directory: str, port: int) -> None:
        self._directory = directory
        self.port = port
        self.nameserver = f"127.0.0.1:{port}"

    @staticmethod
    def name(label: str) -> str:
        return f"{label}.{ZONE}"

    def set(self, records: Records, *, ttl: int) -> None:
        """Replace the addresses of these labels, all of them in one transaction."""
        self._control("zone-begin", ZONE)
        for label, addresses in records.items():
            self._control("zone-unset", ZONE, label, "A")
            for address in addresses:
                self._control("zone-set", ZONE, label, str(ttl), "A", address)
        self._control("zone-commit", ZONE)

    def _control(self, *command: str) -> None:
        done = subprocess.run(
            ["knotc", "-s", f"{self._directory}/knot.sock", *command],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"knotc {' '.join(command)}: {done.stdout}{done.stderr}")


@contextlib.contextmanager
def knot(records: Records, *, ttl: int) -> Iterator[Knot]:
    """Run knotd with these A records until the block is left."""
    if shutil.which("knotd") is None:
        raise SystemExit("knotd is not installed (apt install knot): there is nothing to measure")
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        with open(os.path.join(directory, "zone"), "w", encoding="ascii") as file:
            file.writelines(_zone(records, ttl))
        config = os.path.join(directory, "knot.conf")
        with open(config, "w", encoding="ascii") as file:
            file.write(_CONFIG.format(directory=directory, port=port, zone=ZONE))
        server = subprocess.Popen(
            ["knotd", "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_until_it_answers(server, port)
            yield Knot(directory, port)
        finally:
            server.terminate()
            server.wait(10)


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _zone(records: Records, ttl: int) -> Iterable[str]:
    yield f"$ORIGIN {ZONE}.\n$TTL {ttl}\n@ SOA ns.{ZONE}. hostmaster.{ZONE}. 1 60 60 60 {ttl}\n"
    yield "@ NS ns\nns A 127.0.0.1\n"
    for label, addresses in records.items():
        for address in addresses:
            yield f"{label} A {address}\n"


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int) -> None:
    # A question of its own, for the SOA of the zone, so that a half-started server does not pass.
    labels = b"".join(bytes([len(part)]) + part.encode() for part in ZONE.split("."))
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\6\0\1"
    give_up = time.monotonic() + 10
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.1)
        probe.connect(("127.0.0.1", port))
        while time.monotonic() < give_up and server.poll() is None:
            with contextlib.suppress(OSError):
                probe.send(query)
                # The lowest four bits of the fourth byte are the code, 0 for an answer.
                if probe.recv(512)[3] & 15 == 0:
                    return
            time.sleep(0.02)
    raise RuntimeError("knotd did not begin to answer")
