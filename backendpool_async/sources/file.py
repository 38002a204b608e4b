"""A file with one ``host:port`` a line."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import BinaryIO, Final, NamedTuple

from backendpool_async.errors import EmptyAnswer, SourceError, quote
from backendpool_async.source import Answer
from backendpool_async.sources.file_parser import NOTHING, Parsed, parse
from backendpool_async.threads import in_thread

_MAX_BYTES: Final = 64 * 1024 * 1024
_SECOND_READ_AFTER: Final = 0.05
_MOST_READS: Final = 10
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
        self._parsed = NOTHING

    async def fetch(self) -> Answer:
        if self._reading:
            raise SourceError(str(self), "an earlier read has not returned yet")
        content, stable = await in_thread(self._read)
        if content != self._parsed.content:
            if not stable:
                content = await self._read_again_until_agreed(content)
            self._parsed = await in_thread(lambda: self._parse(content))
        if not self._parsed.backends:
            raise EmptyAnswer(str(self), "no entries in the file")
        return Answer._of_parsed(self._parsed.backends)

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

    def _parse(self, content: bytes) -> Parsed:
        return parse(content, self._parsed, self._max_entries, self._path)


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
        content = _read_all(file, before.st_size)
        after = os.fstat(descriptor)
    untouched = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return _Read(content, untouched and content.endswith(b"\n"))


def _read_all(file: BinaryIO, expected: int) -> bytes:
    content = b""
    # Some file systems say 0 for the size, and a file may grow while it is read.
    while expected <= _MAX_BYTES and (more := file.read(expected - len(content) + 1)):
        content = content + more if content else more
        expected = max(expected, len(content))
    if expected > _MAX_BYTES:
        raise OSError(f"it is larger than {_MAX_BYTES} bytes")
    return content


def _require_regular(status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise OSError(f"it is {_KINDS.get(kind, 'something else')}, not a regular file")
