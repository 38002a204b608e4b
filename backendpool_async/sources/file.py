"""A file with one ``host:port`` a line."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from typing import BinaryIO, Final, NamedTuple

from backendpool_async.errors import EmptyAnswer, SourceError, quote
from backendpool_async.source import Answer
from backendpool_async.sources.file_parser import NOTHING, Parsed, parse
from backendpool_async.threads import in_thread

_MAX_BYTES: Final = 64 * 1024 * 1024
_PART: Final = 256 * 1024
_SECOND_READ_AFTER: Final = 0.05
_MOST_READS: Final = 10
_TOO_LARGE: Final = f"it is larger than {_MAX_BYTES} bytes"
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
        self._reader: threading.Thread | None = None
        self._parsed = NOTHING

    async def fetch(self) -> Answer:
        if self._reader is not None and self._reader.is_alive():
            raise SourceError(str(self), "an earlier read has not returned yet")
        looked = await in_thread(self._look)
        if isinstance(looked, bytes):
            content = await self._read_again_until_agreed(looked)
            looked = await in_thread(lambda: self._parse(content))
        self._parsed = looked
        if not self._parsed.backends:
            raise EmptyAnswer(str(self), "no entries in the file")
        return Answer._of_parsed(self._parsed.backends)

    def __str__(self) -> str:
        return f"file:{self._path}"

    def _look(self) -> Parsed | bytes:
        """Return what is in the file now; its bytes, where they are not to be believed yet."""
        content, stable = self._read()
        if content == self._parsed.content and self._parsed is not NOTHING:
            return self._parsed
        return self._parse(content) if stable else content

    async def _read_again_until_agreed(self, content: bytes) -> bytes:
        for _ in range(_MOST_READS):
            await asyncio.sleep(_SECOND_READ_AFTER)
            again, _ = await in_thread(self._read)
            if again == content:
                return again
            content = again
        raise SourceError(str(self), "the file keeps changing while it is read")

    def _read(self) -> _Read:
        self._reader = threading.current_thread()
        try:
            return _read(self._path, self._parsed.content)
        finally:
            self._reader = None

    def _parse(self, content: bytes) -> Parsed:
        return parse(content, self._parsed, self._max_entries, self._path)


class _Read(NamedTuple):
    content: bytes
    stable: bool


def _read(path: str, known: bytes) -> _Read:
    # Asked before it is opened: a socket cannot be, and a FIFO's writer would notice.
    _require_regular(os.stat(path))
    # It may be another one by now, and without O_NONBLOCK opening a FIFO waits for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    # Buffered, because it reads on to the end: some file systems answer one read with a part.
    with open(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        _require_regular(before)
        content = _read_all(file, before.st_size, known)
        after = os.fstat(descriptor)
    untouched = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return _Read(content, untouched and content.endswith(b"\n"))


def _read_all(file: BinaryIO, expected: int, known: bytes) -> bytes:
    """Read to the end, where the size is only what to expect; return `known` where it is that."""
    if expected > _MAX_BYTES:
        raise OSError(_TOO_LARGE)
    same = 0
    # Compared while it is read: what is unchanged, as most often, need not be held twice.
    part = file.read(min(expected + 1, _PART))
    while part and known.startswith(part, same):
        same += len(part)
        part = file.read(_PART)
    if not part:
        return known if same == len(known) else known[:same]
    parts = [known[:same], part]
    read = same + len(part)
    while read <= _MAX_BYTES and (part := file.read(max(expected - read, _PART) + 1)):
        parts.append(part)
        read += len(part)
    if read > _MAX_BYTES:
        raise OSError(_TOO_LARGE)
    return b"".join(parts)


def _require_regular(status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise OSError(f"it is {_KINDS.get(kind, 'something else')}, not a regular file")
