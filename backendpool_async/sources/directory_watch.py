"""Watching the directories in which the way to a file can change."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import defaultdict
from typing import Final

import asyncinotify

from backendpool_async.threads import in_thread

_MOST_LINKS: Final = 40
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
        self._may_lead_elsewhere = True

    async def changed(self) -> None:
        """Return at the next change, and at once when a directory was not watched so far."""
        if self._may_lead_elsewhere and await self._follow():
            return
        while True:
            event = await self._inotify.get()
            if self._concerns(event):
                # A file that was written in place is where it was.
                self._may_lead_elsewhere = event.mask != asyncinotify.Mask.CLOSE_WRITE
                return

    async def close(self) -> None:
        """Stop watching."""
        # In a thread: the kernel takes some 8 ms to take an inotify instance down.
        await in_thread(self._inotify.close)

    async def _follow(self) -> bool:
        """Watch what has to be watched now; whether any of it is new."""
        self._names = await in_thread(lambda: places_on_the_way(self._path))
        for directory in self._watches.keys() - self._names.keys():
            self._forget(self._watches.pop(directory))
        new = self._names.keys() - self._watches.keys()
        for directory in new:
            # One that went away since a moment ago is no failure: the way is looked at again.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._watches[directory] = self._inotify.add_watch(directory, _MASK)
        return bool(new)

    def _forget(self, watch: asyncinotify.Watch) -> None:
        # The kernel may have done so by itself, because the directory was removed.
        with contextlib.suppress(OSError):
            self._inotify.rm_watch(watch)

    def _concerns(self, event: asyncinotify.Event) -> bool:
        watch = event.watch
        if watch is None:
            # The kernel's queue overflowed: anything may have happened.
            return True
        directory = str(watch.path)
        if event.name is None:
            # The directory itself went away; a new one under its name is another directory.
            if self._watches.get(directory) is not watch:
                return False
            self._forget(self._watches.pop(directory))
            return True
        return str(event.name) in self._names.get(directory, ())


def places_on_the_way(path: str) -> Places:
    """Return the directories, and the names in them, that decide what `path` leads to.

    These are the file itself and every symbolic link on the way, as far as the way exists.
    """
    places: Places = defaultdict(set)
    at, links = os.sep, 0
    # The next name is the last. Links are followed one by one: a ".." leads up from where one led.
    ahead = _names(path if os.path.isabs(path) else os.path.join(os.getcwd(), path))
    while ahead and links <= _MOST_LINKS:
        name = ahead.pop()
        step = os.path.join(at, name)
        if name == os.pardir:
            at = os.path.dirname(at)
        elif (target := _target(step)) is not None:
            places[at].add(name)
            links += 1
            at = os.sep if os.path.isabs(target) else at
            ahead += _names(target)
        elif ahead and os.path.isdir(step):
            at = step
        else:
            # The file itself, or where the way ends for now.
            places[at].add(name)
            break
    return dict(places)


def _names(path: str) -> list[str]:
    return [name for name in reversed(path.split(os.sep)) if name not in {"", os.curdir}]


def _target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
