"""A steady load: requests at fixed times, whether those before are answered or not."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import quantiles


class Load:
    """Asks so many times a second who answers, and counts what comes of it.

    An open loop: one that waits for an answer before it asks again asks least when all is slow,
    and measures that nothing was. A request is counted as late as it comes after its time.
    """

    def __init__(self, ask: Callable[[], Awaitable[str]], rate: float) -> None:
        self._ask = ask
        self._interval = 1 / rate
        self._running: set[asyncio.Task[None]] = set()
        self.answers: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.seconds: list[float] = []

    @property
    def requests(self) -> int:
        """How many have been answered or have failed."""
        return self.answers.total() + self.failures.total()

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Ask all the time inside of it; at its end the last answers are waited for."""
        asking = asyncio.create_task(self._ask_on_time())
        try:
            yield
        finally:
            asking.cancel()
            await asyncio.wait({asking})
            if self._running:
                await asyncio.wait(self._running)

    def percentile(self, percent: int) -> float | None:
        """Return the seconds within which so many per cent were answered; None for no answers."""
        if len(self.seconds) < 2:
            return None
        return quantiles(self.seconds, n=100, method="inclusive")[percent - 1]

    async def _ask_on_time(self) -> None:
        due = time.perf_counter()
        while True:
            task = asyncio.create_task(self._ask_once(due))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            due += self._interval
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def _ask_once(self, due: float) -> None:
        try:
            answer = await self._ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted and told
            self.failures[f"{type(error).__name__}: {error}"] += 1
        else:
            self.answers[answer] += 1
            self.seconds.append(time.perf_counter() - due)
