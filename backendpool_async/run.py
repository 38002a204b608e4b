"""What keeps a pool fresh between `start()` and `aclose()`: one background task on one loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Awaitable, Callable
from typing import Final

from backendpool_async.alarm import Alarm
from backendpool_async.errors import BackendPoolError, describe
from backendpool_async.flight import leave_quietly
from backendpool_async.logs import log
from backendpool_async.schedule import HintLimit
from backendpool_async.source import NotifyingSource, Source, name_of

_BETWEEN_HINTS: Final = 5.0


class Run:
    """Asks when its alarm rings or the source hints, until it is stopped.

    `make_way` is awaited before all. `ask` begins a refresh, and `hint` one that is no older than
    the call; whoever ends one sets the alarm again, and `first` to what came of the first.
    `release` is awaited when the task ends, also when something other than `stop` cancels it, and
    is given the task that listens for hints, cancelled but perhaps not ended.
    """

    __slots__ = (
        "_ask",
        "_begun",
        "_hint",
        "_hinted_at",
        "_interval",
        "_make_way",
        "_pid",
        "_release",
        "_source",
        "alarm",
        "first",
        "loop",
        "starters",
        "stopping",
        "task",
        "wanted",
    )

    def __init__(
        self,
        source: Source,
        interval: float,
        make_way: Callable[[], Awaitable[None]],
        ask: Callable[[], None],
        hint: Callable[[], None],
        release: Callable[[asyncio.Task[None] | None], Awaitable[None]],
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.alarm: Alarm = Alarm(self.loop, ask)
        self.first: asyncio.Future[BackendPoolError | None] = self.loop.create_future()
        self.starters: int = 0
        self.wanted: bool = False
        self.stopping: bool = False
        self._begun = False
        self._pid = os.getpid()
        self._hinted_at = -math.inf
        self._source = source
        self._interval = interval
        self._make_way = make_way
        self._ask = ask
        self._hint = hint
        self._release = release
        self.task: asyncio.Task[None] = self.loop.create_task(self._keep_fresh())
        leave_quietly(self.task)

    @property
    def is_lost(self) -> bool:
        """Whether its task or loop has ended, or is of the process that forked this one."""
        return self.task.done() or self.loop.is_closed() or self._pid != os.getpid()

    def hint_from_anywhere(self) -> None:
        """Follow a hint that comes from any thread, unless one came a moment ago."""
        now = self.loop.time()
        if now - self._hinted_at < _BETWEEN_HINTS or self.is_lost:
            return
        self._hinted_at = now
        # The loop may be closed in this very moment.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._pass_on)

    async def stop(self) -> None:
        """End the task, and return when it has released everything."""
        if not self.stopping:
            # A second cancel would interrupt the release that the first one began.
            self.stopping = True
            # Before its first step it would end without a release.
            if self._begun:
                self.task.cancel()
        # Not `await self.task`: that would swallow a cancellation of the caller's own.
        await asyncio.wait({self.task})

    async def _keep_fresh(self) -> None:
        self._begun = True
        listener = None
        try:
            if self.stopping:
                raise asyncio.CancelledError
            if isinstance(self._source, NotifyingSource):
                listener = self.loop.create_task(self._listen(self._source))
                leave_quietly(listener)
                # It subscribes before the first fetch: what changes in between is not missed.
                await asyncio.sleep(0)
            await self._make_way()
            self._ask()
            # The alarm goes on by itself; this task holds what has to be released in the end.
            await self.loop.create_future()
        except asyncio.CancelledError:
            # Not `finally`: a task that is collected with its closed loop cannot await any more.
            self.stopping = True
            self.alarm.stop()
            if listener is not None:
                listener.cancel()
            await self._release(listener)
            raise

    async def _listen(self, source: NotifyingSource) -> None:
        limit = HintLimit()
        silent = False
        # A source may swallow the cancellation; it is then asked no more when it comes back.
        while not self.stopping:
            try:
                await source.changed()
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and self.stopping:
                    raise
                if not silent:
                    silent = True
                    log(
                        logging.WARNING,
                        f"{name_of(source)}: it no longer tells of changes"
                        f" ({describe(error)}); polling goes on",
                    )
                await asyncio.sleep(self._interval)
                # What changed meanwhile was told to nobody.
                self._pass_on()
                continue
            silent = False
            await asyncio.sleep(limit.delay(self.loop.time()))
            self._pass_on()

    def _pass_on(self) -> None:
        if not self.stopping:
            self._hint()
