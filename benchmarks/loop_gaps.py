"""How long an event loop keeps a task waiting that wants to run every millisecond."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Final, Self

TICK: Final = 0.001


class LoopGaps:
    """Ticks beside what is measured; a gap is the time from one tick to the next, all of it.

    >>> async def main():
    ...     async with LoopGaps() as gaps:
    ...         time.sleep(0.02)
    ...     return gaps.longest > 20
    >>> asyncio.run(main())
    True
    """

    def __init__(self) -> None:
        self.longest = 0.0
        """In milliseconds."""

    async def __aenter__(self) -> Self:
        self._stop = False
        self._task = asyncio.create_task(self._tick())
        # The first tick is over before what is measured begins.
        await asyncio.sleep(5 * TICK)
        self.reset()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not cancelled: the tick that is due shows what held the loop until now.
        self._stop = True
        await self._task

    def reset(self) -> None:
        """Forget the gaps so far."""
        self.longest = 0.0

    async def _tick(self) -> None:
        before = time.perf_counter()
        while not self._stop:
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            self.longest = max(self.longest, (now - before) * 1e3)
            before = now
