"""Where the demo lists its backends: a file, a DNS name and the environment, all its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from backendpool_async.testing.dns_server import FakeDnsServer, nxdomain, records, silence

_HALF_A_LINE: Final = "10.1.0."


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

    name: Final = "api.demo.test"
    port: Final = 80

    def __init__(self, server: FakeDnsServer, ttl: int) -> None:
        self.address: str = server.address
        self.ttl = ttl
        self._server = server

    async def publish(self, backends: Sequence[str]) -> None:
        """Answer with the addresses of these from now on; ends a silence."""
        self._server.outage = None
        self._server.answer(self.name, *_addresses(backends), ttl=self.ttl)

    async def fall_silent(self) -> None:
        """Answer nothing at all."""
        self._server.outage = silence()

    async def vanish_once(self, backends: Sequence[str]) -> None:
        """Say NXDOMAIN to the next query, and go on with these."""
        # Not to be cached: it is the server that changes its mind, the pool that has to ask.
        gone = nxdomain(negative_ttl=0)
        self._server.script(self.name, gone, records(*_addresses(backends), ttl=self.ttl))


class Variables:
    """Numbered variables in the environment of this process, which gets it back as it was."""

    prefix: Final = "BACKENDPOOL_DEMO"

    def __init__(self) -> None:
        self._before: dict[str, str] = {}

    async def publish(self, backends: Sequence[str]) -> None:
        """Set one variable a backend, and no others of the prefix."""
        self._clear()
        for number, backend in enumerate(backends):
            os.environ[f"{self.prefix}_{number}"] = backend

    def __enter__(self) -> Self:
        self._before = self._clear()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clear()
        os.environ.update(self._before)

    def _clear(self) -> dict[str, str]:
        names = [name for name in os.environ if name.startswith(f"{self.prefix}_")]
        return {name: os.environ.pop(name) for name in names}


def _lines(backends: Sequence[str]) -> str:
    return "".join(f"{backend}\n" for backend in backends)


def _addresses(backends: Sequence[str]) -> list[str]:
    return [backend.rpartition(":")[0] for backend in backends]
