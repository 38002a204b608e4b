"""Long preparations that let the other threads run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from itertools import islice
from typing import Final, TypeVar

T = TypeVar("T")

# So many simple steps hold the interpreter for less than a millisecond.
CHUNK: Final = 1024


def pause() -> None:
    """Let other threads run; nothing on the thread of an event loop, where it would help nobody."""
    if not is_on_loop():
        time.sleep(0)


def is_on_loop() -> bool:
    """Whether this is the thread of a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def collected(items: Iterable[T]) -> list[T]:
    """Return all of them in a list, pausing now and then on the way.

    >>> collected(range(3))
    [0, 1, 2]
    """
    iterator = iter(items)
    gathered: list[T] = []
    while chunk := list(islice(iterator, CHUNK)):
        gathered += chunk
        if len(chunk) == CHUNK:
            pause()
    return gathered
