"""Many addresses at once: the same rules as `Backend`, at a fraction of the cost."""

from __future__ import annotations

import ctypes
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final

from backendpool_async.backend import CANONICAL, Backend
from backendpool_async.errors import InvalidBackend

DEFAULT_MAX_BACKENDS: Final = 100_000

# Small enough that parsing one holds the interpreter for well under a millisecond.
CHUNK: Final = 1024

_are_canonical_lines = re.compile(rf"(?:{CANONICAL}\n)++").fullmatch
_from_canonical: Callable[[str], Backend] = partial(str.__new__, Backend)

# CPython tracks every instance of a class written in Python for its garbage collector, also one
# that refers to nothing. One full collection over 100,000 backends stops all threads for 10 to
# 17 ms; taken out of its sight, as the C API allows for any object, they cost it nothing.
_untrack = ctypes.pythonapi.PyObject_GC_UnTrack
_untrack.argtypes = [ctypes.py_object]
_untrack.restype = None


class Collector:
    """Gathers a list chunk by chunk: in order, without duplicates, up to a limit of entries.

    Raises `InvalidBackend` for the entry with which the limit is passed. Whoever must not hold
    the interpreter for long pauses between two calls of `add`.
    """

    __slots__ = ("_entries", "_found", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries = 0
        self._found: dict[Backend, None] = {}

    def add(self, backends: Sequence[Backend]) -> None:
        """Take these too, the first of each address."""
        self._entries += len(backends)
        if self._entries > self._limit:
            beyond = backends[len(backends) - (self._entries - self._limit)]
            raise InvalidBackend(beyond, f"more than max_backends={self._limit} entries")
        found = self._found
        if found:
            # `update` keeps the key that was there, so the first of two duplicates stays.
            found.update(dict.fromkeys(backends))
        else:
            self._found = dict.fromkeys(backends)

    def backends(self) -> tuple[Backend, ...]:
        """All that were added."""
        return tuple(self._found)


def parse_backends(entries: Iterable[str], limit: int) -> tuple[Backend, ...]:
    """Parse a whole list at once; raise `InvalidBackend` for the first entry that is none."""
    collector = Collector(limit)
    for chunk in parsed_chunks(entries):
        collector.add(chunk)
    return collector.backends()


def parsed_chunks(entries: Iterable[str]) -> Iterator[list[Backend]]:
    """Parse a list in chunks, so that a caller can pause between two.

    Raises `InvalidBackend` naming the entry and its number in the list; also for what cannot be
    a list of addresses at all: None, one string, a mapping.
    """
    if isinstance(entries, (str, bytes, bytearray, Mapping)) or not isinstance(entries, Iterable):
        raise InvalidBackend(
            entries, f"a list of 'host:port' is expected, not {type(entries).__name__}"
        )
    # A set has no order of its own; sorted, the same set is the same list every time.
    ordered = sorted(entries, key=str) if isinstance(entries, (set, frozenset)) else entries
    iterator = iter(ordered)
    number = 1
    while chunk := list(islice(iterator, CHUNK)):
        yield parse_chunk(chunk, partial(_entry, number))
        number += len(chunk)


def parse_chunk(entries: Sequence[str], place: Callable[[int], str]) -> list[Backend]:
    """Parse a few entries; `place` turns the index of a bad one into words for the error."""
    backends = parse_canonical(entries)
    if backends is not None:
        return backends
    backends = []
    for index, entry in enumerate(entries):
        try:
            backends.append(Backend.parse(entry))
        except InvalidBackend as error:
            raise InvalidBackend(error.entry, error.reason, place(index)) from None
    return backends


def _entry(first: int, index: int) -> str:
    return f"entry {first + index}"


def parse_canonical(entries: Sequence[str]) -> list[Backend] | None:
    """Parse a few entries if every one is plain text in canonical form already, else None."""
    if set(map(type, entries)) != {str}:
        return None
    lines = "\n".join(entries) + "\n"
    # An entry with a newline inside would pass for two lines.
    if lines.count("\n") != len(entries) or _are_canonical_lines(lines) is None:
        return None
    backends = list(map(_from_canonical, entries))
    deque(map(_untrack, backends), maxlen=0)
    return backends
