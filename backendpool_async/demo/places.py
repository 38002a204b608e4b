"""Where the demo lists its backends: a file and a DNS name, both its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from backendpool_async.testing.dns_server import FakeDnsServer, silence

_HALF_A_LINE: Final = "127.0."


class ListFile:
    """A file with one backend a line."""

    def __init__(self, directory: str) -> None:
        self.path: Path = Path(directory, "backends.txt")

    async def publish(self, backends: Sequence[str]) -> None:
        """Replace the file by a complete one, as deployment tools do."""
        await asyncio.to_thread(self._replace, backends)

    async def publish_half(self, backends: Sequence[str]) -> None:
        """Write into the file, and die within the line after these."""
        await asyncio.to_thread(self.path.write_text, _lines(backends) + _HALF_A_LINE)

    def _replace(self, backends: Sequence[str]) -> None:
        complete = self.path.with_suffix(".new")
        complete.write_text(_lines(backends))
        complete.replace(self.path)


class ServedName:
    """A DNS name, served on loopback."""

    name: Final = "proxy.demo.test"

    def __init__(self, server: FakeDnsServer, ttl: int) -> None:
        self.address: str = server.address
        self.ttl = ttl
        self._server = server

    async def publish(self, address: str) -> None:
        """Answer with this from now on; ends a silence."""
        self._server.outage = None
        self._server.answer(self.name, address, ttl=self.ttl)

    async def fall_silent(self) -> None:
        """Answer nothing at all."""
        self._server.outage = silence()


def _lines(backends: Sequence[str]) -> str:
    return "".join(f"{backend}\n" for backend in backends)
