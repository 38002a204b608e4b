"""What a copy of a pool is."""

from __future__ import annotations

from typing import Self


class CopiesShare:
    """An object of which there is one: a copy is the object itself, and a pickle is refused."""

    __slots__ = ()

    def __copy__(self) -> Self:
        """Copies share the live list."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """Copies share the live list."""
        return self

    def __reduce__(self) -> str:
        raise TypeError(f"{self!r} cannot be pickled: a live list stays in its process")
