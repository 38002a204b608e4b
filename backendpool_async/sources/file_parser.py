"""Parsing the content of a file: in pieces, and only those that differ from the time before."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from backendpool_async.backend import Backend
from backendpool_async.bulk import Collector, parse_canonical_text, parse_chunk
from backendpool_async.errors import quote

_PIECE_BYTES: Final = 16 * 1024
_LONGEST_LINE: Final = 64 * 1024
# Where an unchanged piece may have moved to, how it is recognised, and when to stop looking.
_WINDOW: Final = 4 * _PIECE_BYTES
_HEAD: Final = 256
_MOST_MISSES: Final = 8
# So many bytes are parsed before the interpreter is given up for a moment: less would cost more
# time than it takes, as a thread that waits is woken only after some 60 us. Reuse costs a tenth.
_AT_A_STRETCH: Final = _PIECE_BYTES
_COST_OF_REUSE: Final = 0.1
_SPACE: Final = " \t\r\f\v"


class Piece(NamedTuple):
    """Some whole lines of a content, and the backends that they name."""

    start: int
    end: int
    first: int
    last: int


class Parsed(NamedTuple):
    """A content and what is in it; without pieces nothing of it can be used again."""

    content: bytes
    backends: tuple[Backend, ...]
    pieces: tuple[Piece, ...]


NOTHING: Final = Parsed(b"", (), ())


def parse(content: bytes, before: Parsed, limit: int, path: str) -> Parsed:
    """Parse a content, taking over what stands in `before` too; for a thread, as it is long.

    Raises `InvalidBackend` naming the line of a bad entry, or when there are more than `limit`,
    and ValueError for a line that is not UTF-8 or over 64 KiB long.
    """
    collector = Collector(limit)
    start = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    pieces: list[Piece] = []
    stretch = 0.0
    count = 0
    number = 1
    for span_start, span_end, known in _spans(content, start, before):
        found: Sequence[Backend]
        if known is not None:
            found = before.backends[known.first : known.last]
            collector.add_known(found)
        else:
            found = _parse_piece(content[span_start:span_end], number, path)
            collector.add(found)
        pieces.append(Piece(span_start, span_end, count, count + len(found)))
        count += len(found)
        number += content.count(b"\n", span_start, span_end)
        stretch += (span_end - span_start) * (1.0 if known is None else _COST_OF_REUSE)
        if stretch >= _AT_A_STRETCH:
            time.sleep(0)
            stretch = 0.0
    for _ in collector.settle():
        time.sleep(0)
    backends = collector.backends()
    return Parsed(content, backends, tuple(pieces) if len(backends) == count else ())


def _spans(content: bytes, start: int, before: Parsed) -> Iterator[tuple[int, int, Piece | None]]:
    """Divide the content into pieces that stood in `before`, and others to be parsed."""
    position = start
    misses = 0
    for piece in before.pieces:
        at = _find(content, before.content, piece, position)
        if at is None:
            misses += 1
            if misses == _MOST_MISSES:
                break
            continue
        misses = 0
        for begin, end in _cut(content, position, at):
            yield begin, end, None
        position = at + piece.end - piece.start
        yield at, position, piece
    for begin, end in _cut(content, position, len(content)):
        yield begin, end, None


def _find(content: bytes, old: bytes, piece: Piece, position: int) -> int | None:
    """Return where an old piece begins in the content, at `position` or not far beyond."""
    wanted = old[piece.start : piece.end]
    head = wanted[:_HEAD]
    at = position
    if not content.startswith(head, position):
        # From the newline before: a piece begins with a line.
        at = content.find(b"\n" + head, position, position + _WINDOW) + 1
    end = at + len(wanted)
    if (at == 0 and position) or content[at:end] != wanted:
        return None
    # The last line of an old content may have grown.
    return at if wanted.endswith(b"\n") or end == len(content) else None


def _cut(content: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        newline = content.find(b"\n", start + _PIECE_BYTES, end)
        stop = end if newline < 0 else newline + 1
        yield start, stop
        start = stop


def _parse_piece(piece: bytes, first: int, path: str) -> list[Backend]:
    if len(piece) > _LONGEST_LINE:
        _refuse_long_line(piece, first)
    try:
        text = piece.decode()
    except UnicodeDecodeError as error:
        where = first + piece.count(b"\n", 0, error.start)
        raise ValueError(f"line {where} is not UTF-8") from None
    backends = parse_canonical_text(text)
    if backends is not None:
        return backends
    numbers: list[int] = []
    entries: list[str] = []
    for number, line in enumerate(text.split("\n"), first):
        entry = line.strip(_SPACE)
        if entry and entry[0] != "#":
            numbers.append(number)
            entries.append(entry)
    return parse_chunk(entries, lambda index: f"line {numbers[index]} of {quote(path)}")


def _refuse_long_line(piece: bytes, first: int) -> None:
    # Only the last of its lines can be so long: a piece ends with the first that is over its size.
    last_end = len(piece) - piece.endswith(b"\n")
    if last_end - (piece.rfind(b"\n", 0, last_end) + 1) > _LONGEST_LINE:
        where = first + piece.count(b"\n", 0, last_end)
        raise ValueError(f"line {where} is over 64 KiB long")
