"""A fixed list."""

from __future__ import annotations

from collections.abc import Iterable


class StaticSource:
    """A list that only `update()` changes: there is nothing to ask, to poll or to start."""

    __slots__ = ("entries",)

    def __init__(self, entries: Iterable[str]) -> None:
        self.entries: Iterable[str] = entries

    async def fetch(self) -> Iterable[str]:
        """Return the list; a pool never asks for it."""
        return self.entries

    def __str__(self) -> str:
        return "static"
