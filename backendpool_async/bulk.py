"""Many addresses at once: the same rules as `Backend`, at a fraction of the cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, repeat
from typing import Final

from backendpool_async.backend import IPV4, PORT, Backend
from backendpool_async.errors import InvalidBackend

DEFAULT_MAX_BACKENDS: Final = 100_000

# Small enough that parsing one holds the interpreter for well under a millisecond.
CHUNK: Final = 1024
# Below the 39,322nd entry, at which the table of a set grows to 4 MiB.
_SET_IS_FULL: Final = 37 * CHUNK

# What most lists consist of, in a form that one scan decides: names of up to 63 characters that
# end in a letter, or in up to five digits after one. The rest is parsed one by one.
_ENDS_IN_NO_NUMBER = "|".join(["(?<=[a-z_])", *(rf"(?<=[a-z_-][0-9]{{{n}}})" for n in range(1, 6))])
_SHORT_NAME = rf"(?=[^:\n]{{1,63}}:)[a-z0-9_]++(?:(?:\.|-++)[a-z0-9_]++)*+(?:{_ENDS_IN_NO_NUMBER})"
_are_addresses = re.compile(rf"(?:{IPV4}:{PORT}\n)++").fullmatch
_are_addresses_or_names = re.compile(rf"(?:(?:{IPV4}|{_SHORT_NAME}):{PORT}\n)++").fullmatch


class Collector:
    """Gathers a list chunk by chunk: in order, without duplicates, up to a limit of entries.

    Raises `InvalidBackend` for the entry with which the limit is passed. Whoever must not hold
    the interpreter for long pauses between two calls of `add`, and between the steps of `settle`.
    """

    __slots__ = ("_all", "_fresh", "_has_duplicates", "_known", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._all: list[Backend] = []
        # Several sets, because one of 100,000 would stop everything for 3 ms when it grows.
        self._fresh: list[set[Backend]] = [set()]
        self._known: list[Sequence[Backend]] = []
        self._has_duplicates = False

    def add(self, backends: Sequence[Backend]) -> None:
        """Take these too."""
        self._extend(backends)
        *earlier, current = self._fresh
        expected = len(current) + len(backends)
        current.update(backends)
        if len(current) != expected or not all(each.isdisjoint(backends) for each in earlier):
            self._has_duplicates = True
        if len(current) >= _SET_IS_FULL:
            self._fresh.append(set())

    def add_known(self, backends: Sequence[Backend]) -> None:
        """Take these too; no address occurs twice among all that are added this way."""
        self._extend(backends)
        self._known.append(backends)

    def settle(self) -> Iterator[None]:
        """Remove duplicates, pausing where the caller may; to be done before `backends`."""
        for known in self._known:
            if not all(each.isdisjoint(known) for each in self._fresh):
                self._has_duplicates = True
            yield
        while len(self._fresh) > 1:
            self._fresh.pop()
            yield
        if self._has_duplicates:
            first: dict[Backend, None] = {}
            for start in range(0, len(self._all), CHUNK):
                first.update(dict.fromkeys(self._all[start : start + CHUNK]))
                yield
            self._all = list(first)

    def backends(self) -> tuple[Backend, ...]:
        """All that were added, the first of each address."""
        return tuple(self._all)

    def _extend(self, backends: Sequence[Backend]) -> None:
        room = self._limit - len(self._all)
        if len(backends) > room:
            raise InvalidBackend(backends[room], f"more than max_backends={self._limit} entries")
        self._all += backends


def parse_backends(entries: Iterable[str], limit: int) -> tuple[Backend, ...]:
    """Parse a whole list at once; raise `InvalidBackend` for the first entry that is none."""
    collector = Collector(limit)
    for chunk in parsed_chunks(entries):
        collector.add(chunk)
    for _ in collector.settle():
        pass
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
    """Parse a few entries if every one is plain text in a common canonical form, else None."""
    if set(map(type, entries)) != {str}:
        return None
    lines = "\n".join(entries) + "\n"
    # An entry with a newline inside would pass for two lines.
    if lines.count("\n") != len(entries) or not _are_common_lines(lines):
        return None
    return _made(entries)


def parse_canonical_text(text: str) -> list[Backend] | None:
    """Parse whole lines as `parse_canonical` does; None too when there is anything else."""
    if not _are_common_lines(text):
        return None
    lines = text.split("\n")
    del lines[-1]
    return _made(lines)


def _are_common_lines(text: str) -> bool:
    return (_are_addresses(text) or _are_addresses_or_names(text)) is not None


def _made(entries: Sequence[str]) -> list[Backend]:
    # Their form is known: what `Backend` would check again was checked for all at once.
    return list(map(str.__new__, repeat(Backend), entries))
