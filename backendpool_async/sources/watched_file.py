"""A file whose directories are watched, so that a change is seen in milliseconds."""

from __future__ import annotations

import asyncio
import os

from backendpool_async.sources.directory_watch import DirectoryWatch
from backendpool_async.sources.file import FileSource


class WatchedFileSource(FileSource):
    """A `FileSource` that says when asking again is worthwhile; the poll interval stays.

    The directory is watched, and that of every symbolic link on the way: a file that is replaced
    (written anew, renamed over, a ConfigMap's link swapped) is another file under the same name.
    So are the directories above, for being renamed. Where the file system tells of nothing (NFS),
    polling goes on alone.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_entries: int) -> None:
        super().__init__(path, max_entries=max_entries)
        self._watch: DirectoryWatch | None = None

    async def changed(self) -> None:
        """Return when the file may have changed."""
        loop = asyncio.get_running_loop()
        if self._watch is not None and self._watch.loop is not loop:
            await self.aclose()
        if self._watch is None:
            self._watch = DirectoryWatch(self._path, loop)
        await self._watch.changed()

    async def aclose(self) -> None:
        """Stop watching."""
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.close()
