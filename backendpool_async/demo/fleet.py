"""The backends of the demo: real processes, started, drained and killed."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_PROGRAM: Final = Path(__file__).with_name("backend.py")


class Instance:
    """One running backend."""

    def __init__(self, name: str, address: str, process: Process) -> None:
        self.name: str = name
        self.address: str = address
        self._process = process

    async def stop(self) -> None:
        """Ask it to drain, and wait until it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.wait()

    async def kill(self) -> None:
        """End it in the middle of whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class Fleet:
    """All backends that were started; whatever still runs at the end is killed."""

    def __init__(self, answers_after: float) -> None:
        self._answers_after = answers_after
        self._started: list[Instance] = []

    async def start(self, name: str) -> Instance:
        """Return a new backend that is ready for requests."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(_PROGRAM),
            name,
            str(self._answers_after),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            # Ctrl-C goes to all processes of a terminal's group: it is for the demo, which ends
            # them. One that dies by itself at that moment may be reaped before asyncio looks.
            start_new_session=True,
        )
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        instance = Instance(name, "", process)
        self._started.append(instance)
        instance.address = (await process.stdout.readline()).decode().strip()
        if not instance.address:
            raise OSError(f"the backend {name} did not start")
        return instance

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(instance.kill() for instance in self._started))
