"""Cancels a coroutine at any one of the places where it waits."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any


async def cancelled_at(
    step: int, coroutine: Coroutine[Any, Any, object], *, times: int = 1
) -> bool:
    """Run it in a task that is cancelled at its `step`-th suspension, and the next ones.

    Return whether it came so far: False when it ended before.
    """
    loop = asyncio.get_running_loop()
    reached = False

    def cancel() -> None:
        nonlocal reached
        reached = True
        loop.call_soon(task.cancel)

    async def run() -> None:
        await _stepping(coroutine, range(step, step + times), cancel)

    task = asyncio.create_task(run())
    await asyncio.wait({task})
    if not task.cancelled():
        # It may have ended in the very moment, and raised nothing else.
        task.result()
    return reached


async def scope_cancelled_at(
    step: int, coroutine: Coroutine[Any, Any, object], cancel: Callable[[], None]
) -> None:
    """Await it, and call `cancel` at its `step`-th suspension."""
    await _stepping(coroutine, range(step, step + 1), cancel)


@types.coroutine
def _stepping(
    coroutine: Coroutine[Any, Any, object], steps: range, at_step: Callable[[], None]
) -> Generator[Any, Any, object]:
    step = 0
    sent: Any = None
    thrown: BaseException | None = None
    while True:
        try:
            awaited = coroutine.send(sent) if thrown is None else coroutine.throw(thrown)
        except StopIteration as ended:
            return ended.value
        step += 1
        if step in steps:
            at_step()
        thrown = None
        try:
            sent = yield awaited
        except BaseException as error:  # noqa: BLE001 - it is for the coroutine
            thrown = error
