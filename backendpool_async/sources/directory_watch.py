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
# All that a directory tells of itself: for other names in it the kernel then wakes nobody.
_ITSELF: Final = (
    asyncinotify.Mask.DELETE_SELF | asyncinotify.Mask.MOVE_SELF | asyncinotify.Mask.ONLYDIR
)
_NAMES_TOO: Final = (
    _ITSELF
    | asyncinotify.Mask.CLOSE_WRITE
    | asyncinotify.Mask.MOVED_TO
    | asyncinotify.Mask.MOVED_FROM
    | asyncinotify.Mask.CREATE
    | asyncinotify.Mask.DELETE
)

Places = dict[str, set[str]]


class DirectoryWatch:
    """Tells when a name on the way to one file was written, renamed, made or removed.

    Linux only, by inotify. Raises OSError where the kernel refuses (no instance left). A parent
    directory that may not be read is not watched for being renamed.
    """

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._path = path
        self._inotify = asyncinotify.Inotify()
        # By the kernel's number for a directory, as another one may come to stand under its path.
        self._names: dict[int, set[str]] = {}
        self._may_lead_elsewhere = True

    async def changed(self) -> None:
        """Return at the next change, and at once when the way is not the one watched so far."""
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
        """Watch what has to be watched now; whether that is anything else than before."""
        # In a thread: looking a path up can take as long as a dead mount takes.
        names = await in_thread(self._watch_the_way)
        if names is None:
            return True
        for watch in self._inotify.watches:
            if watch.wd not in names:
                # The kernel may have let it go by itself, because the directory was removed.
                with contextlib.suppress(OSError):
                    self._inotify.rm_watch(watch)
        # Also when some are only gone: what the kernel tells of them concerns nobody any more.
        before, self._names = self._names, names
        return names != before

    def _watch_the_way(self) -> dict[int, set[str]] | None:
        """Return the names that matter in each directory, all of them watched from now on.

        None when one went away since a moment ago: that is no failure, but to be looked at again.
        """
        places = places_on_the_way(self._path)
        names: dict[int, set[str]] = defaultdict(set)
        # Those with names last: of one under two paths (a bind mount) the later mask holds.
        for directory in sorted(places, key=lambda each: bool(places[each])):
            # All of them each time, as another one under the same path is another directory.
            try:
                mask = _NAMES_TOO if places[directory] else _ITSELF
                watch = self._inotify.add_watch(directory, mask)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except PermissionError:
                if places[directory]:
                    raise
                continue
            names[watch.wd] |= places[directory]
        return dict(names)

    def _concerns(self, event: asyncinotify.Event) -> bool:
        watch = event.watch
        if watch is None:
            # The kernel's queue overflowed: anything may have happened.
            return True
        # One that is not among them was let go with this event on its way.
        names = self._names.get(watch.wd)
        # Without a name it is the directory itself that went away.
        return names is not None and (event.name is None or str(event.name) in names)


def places_on_the_way(path: str) -> Places:
    """Return the directories on the way, and the names in them that decide what `path` leads to.

    These names are the file itself and every symbolic link on the way, as far as the way exists.
    A directory with none of them matters as long as it stays where it is; "/" always does.
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
            places.setdefault(at, set())
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
