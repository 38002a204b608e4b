"""Watching the directories in which the way to a file can change."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from typing import Final

from backendpool_async.threads import in_thread

try:
    import asyncinotify
except (
    ImportError
):  # pragma: no cover - the suite runs with the extra, one test without in a process
    asyncinotify = None  # type: ignore[assignment]  # said in so many words by `require`

_MOST_LINKS: Final = 40

Places = dict[str, set[str]]


class DirectoryWatch:
    """Tells when a name on the way to one file was written, renamed, made or removed.

    Linux only, by inotify. Raises OSError where the kernel refuses (no instance left).
    """

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._path = path
        self._inotify = asyncinotify.Inotify()
        self._watches: dict[str, asyncinotify.Watch] = {}
        self._names: Places = {}

    @staticmethod
    def require() -> None:
        """Raise ImportError when the library behind it is not installed."""
        if asyncinotify is None:
            raise ImportError(
                "watch=True needs asyncinotify (Linux): pip install 'backendpool-async[watch]'"
            )

    async def changed(self) -> None:
        """Return at the next change, and at once when a directory was not watched so far."""
        if await self._follow():
            return
        while True:
            event = await self._inotify.get()
            if self._concerns(event):
                return

    def close(self) -> None:
        """Stop watching."""
        self._inotify.close()

    async def _follow(self) -> bool:
        """Watch what has to be watched now; whether any of it is new."""
        self._names = await in_thread(lambda: places_on_the_way(self._path))
        known = {watch.path for watch in self._inotify.watches}
        for directory in self._watches.keys() - self._names.keys():
            watch = self._watches.pop(directory)
            if watch.path in known:
                self._inotify.rm_watch(watch)
        new = [name for name in self._names if name not in self._watches]
        for directory in new:
            self._watches[directory] = self._inotify.add_watch(directory, _MASK)
        return bool(new)

    def _concerns(self, event: asyncinotify.Event) -> bool:
        watch = event.watch
        if watch is None:
            # The kernel's queue overflowed: anything may have happened.
            return True
        directory = str(watch.path)
        if event.name is None:
            # The directory itself went away; a new one under its name is another directory.
            self._watches.pop(directory, None)
            return True
        return str(event.name) in self._names.get(directory, ())


def places_on_the_way(path: str) -> Places:
    """Return the directories, and the names in them, that decide what `path` leads to.

    These are the file itself and every symbolic link on the way, as far as the way exists.
    """
    places: Places = defaultdict(set)
    target = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        for step in _steps(target):
            is_link = os.path.islink(step)
            if is_link or step == target or not os.path.lexists(step):
                directory, name = os.path.split(step)
                places[directory].add(name)
                break
        if not is_link:
            break
        rest = target[len(step) :].lstrip(os.sep)
        target = os.path.normpath(os.path.join(directory, os.readlink(step), rest))
    return dict(places)


def _steps(path: str) -> list[str]:
    steps = [path]
    while (parent := os.path.dirname(steps[-1])) != steps[-1]:
        steps.append(parent)
    return steps[-2::-1]


if asyncinotify is not None:  # pragma: no branch - see above
    _MASK = (
        asyncinotify.Mask.CLOSE_WRITE
        | asyncinotify.Mask.MOVED_TO
        | asyncinotify.Mask.MOVED_FROM
        | asyncinotify.Mask.CREATE
        | asyncinotify.Mask.DELETE
        | asyncinotify.Mask.DELETE_SELF
        | asyncinotify.Mask.MOVE_SELF
        | asyncinotify.Mask.ONLYDIR
    )
