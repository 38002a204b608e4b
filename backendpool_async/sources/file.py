"""A file with one ``host:port`` a line."""

from __future__ import annotations

import asyncio
import codecs
import os
import stat
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from backendpool_async.backend import Backend, same
from backendpool_async.bulk import CHUNK, Collector, parse_canonical, parse_chunk
from backendpool_async.errors import EmptyAnswer, SourceError, quote
from backendpool_async.source import Answer
from backendpool_async.threads import in_thread

_MAX_BYTES: Final = 64 * 1024 * 1024
_CHUNK_BYTES: Final = 16 * 1024
_LONGEST_LINE: Final = 64 * 1024
_SECOND_READ_AFTER: Final = 0.05
_MOST_READS: Final = 10
_SPACE: Final = " \t\r\f\v"
_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class FileSource:
    """One backend a line; UTF-8, blank lines and lines that begin with ``#`` ignored.

    A BOM, CRLF and space around an entry are accepted. A file that changes while it is read, or
    does not end in a newline, is believed when a second read 50 ms later agrees: it may be half
    written. A file without entries is a negative answer. One bad line refuses the whole file
    (`InvalidBackend` names it); so does what is no regular file, is over 64 MiB or not UTF-8.
    Reading and parsing happen in a thread.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_entries: int) -> None:
        self._path = os.fspath(path)
        if not isinstance(self._path, str) or not self._path or "\0" in self._path:
            raise ValueError(f"no file can have the name {quote(self._path)}")
        self._max_entries = max_entries
        self._reading = False
        self._content: bytes | None = None
        self._answer = Answer(())

    async def fetch(self) -> Answer:
        if self._reading:
            raise SourceError(str(self), "an earlier read has not returned yet")
        content, stable = await in_thread(self._read)
        if content != self._content:
            if not stable:
                content = await self._read_again_until_agreed(content)
            backends = await in_thread(lambda: self._parse(content))
            if not same(self._answer.backends, backends):
                self._answer = Answer._of_parsed(backends)
            self._content = content
        if not self._answer.backends:
            raise EmptyAnswer(str(self), "no entries in the file")
        return self._answer

    def __str__(self) -> str:
        return f"file:{self._path}"

    async def _read_again_until_agreed(self, content: bytes) -> bytes:
        for _ in range(_MOST_READS):
            await asyncio.sleep(_SECOND_READ_AFTER)
            again, _ = await in_thread(self._read)
            if again == content:
                return again
            content = again
        raise SourceError(str(self), "the file keeps changing while it is read")

    def _read(self) -> _Read:
        self._reading = True
        try:
            return _read(self._path)
        finally:
            self._reading = False

    def _parse(self, content: bytes) -> tuple[Backend, ...]:
        return _parse(content, self._answer.backends, self._max_entries, self._path)


class _Read(NamedTuple):
    content: bytes
    stable: bool


def _read(path: str) -> _Read:
    # Asked before it is opened: a socket cannot be, and a FIFO's writer would notice.
    _require_regular(os.stat(path))
    # It may be another one by now, and without O_NONBLOCK opening a FIFO waits for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    # Buffered, because it reads on to the end: some file systems answer one read with a part.
    with open(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        _require_regular(before)
        # One byte more than allowed: some file systems say 0 for the size.
        content = b"" if before.st_size > _MAX_BYTES else file.read(_MAX_BYTES + 1)
        if max(before.st_size, len(content)) > _MAX_BYTES:
            raise OSError(f"it is larger than {_MAX_BYTES} bytes")
        after = os.fstat(descriptor)
    untouched = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return _Read(content, untouched and content.endswith(b"\n"))


def _require_regular(status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise OSError(f"it is {_KINDS.get(kind, 'something else')}, not a regular file")


def _parse(
    content: bytes, known: tuple[Backend, ...], limit: int, path: str
) -> tuple[Backend, ...]:
    """Parse in pieces, giving up the interpreter after each: nobody waits for the whole."""
    by_text = _by_text(known)
    collector = Collector(limit)
    position = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    number = 1
    while position < len(content):
        newline = content.find(b"\n", position + _CHUNK_BYTES)
        end = len(content) if newline < 0 else newline + 1
        if end - position > _LONGEST_LINE:
            _refuse_overlong_line(content[position:end], number, path)
        try:
            lines = content[position:end].decode().split("\n")
        except UnicodeDecodeError as error:
            line = number + content.count(b"\n", position, position + error.start)
            raise ValueError(f"line {line} of {quote(path)} is not UTF-8") from None
        if not lines[-1]:
            lines.pop()
        collector.add(_parse_lines(lines, by_text, number, path))
        position = end
        number += len(lines)
        time.sleep(0)
    return collector.backends()


def _refuse_overlong_line(lines: bytes, first: int, path: str) -> None:
    # Only the last line can be: the others end within the first 16 KiB.
    lines = lines.removesuffix(b"\n")
    if len(lines) - (lines.rfind(b"\n") + 1) > _LONGEST_LINE:
        line = first + lines.count(b"\n")
        raise ValueError(f"line {line} of {quote(path)} is over 64 KiB long")


def _by_text(known: tuple[Backend, ...]) -> dict[str, Backend]:
    by_text: dict[str, Backend] = {}
    for start in range(0, len(known), CHUNK):
        chunk = known[start : start + CHUNK]
        by_text.update(zip(chunk, chunk, strict=True))
        time.sleep(0)
    return by_text


def _parse_lines(
    lines: Sequence[str], known: Mapping[str, Backend], first: int, path: str
) -> Sequence[Backend]:
    found = list(map(known.get, lines)) if known else []
    unknown = found.count(None)
    if found and not unknown:
        return found  # type: ignore[return-value]  # none of them is None
    if unknown * 2 >= len(found):
        backends = parse_canonical(lines)
        if backends is not None:
            return backends
        found = [None] * len(lines)
    numbers: list[int] = []
    entries: list[str] = []
    for number, (line, backend) in enumerate(zip(lines, found, strict=True), first):
        entry = backend or line.strip(_SPACE)
        if entry and entry[0] != "#":
            numbers.append(number)
            entries.append(entry)
    return parse_chunk(entries, lambda index: f"line {numbers[index]} of {quote(path)}")
