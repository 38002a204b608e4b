"""What keeps a pool fresh between `start()` and `aclose()`: one background task on one loop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from backendpool_async.alarm import Alarm
from backendpool_async.errors import BackendPoolError, describe
from backendpool_async.flight import leave_quietly
from backendpool_async.logs import log
from backendpool_async.schedule import HintLimit
from backendpool_async.source import NotifyingSource, Source, name_of


class Run:
    """Asks when its alarm rings or the source hints, until it is stopped.

    `make_way` is awaited before all. `ask` begins a refresh, and `hint` one that is no older than
    the call; whoever ends one sets the alarm again, and `first` to what came of the first.
    `release` is awaited when the task ends, also when something other than `stop` cancels it.
    """

    __slots__ = (
        "_ask",
        "_hint",
        "_interval",
        "_make_way",
        "_pid",
        "_release",
        "_source",
        "_timeout",
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
        timeout: float,
        make_way: Callable[[], Awaitable[None]],
        ask: Callable[[], None],
        hint: Callable[[], None],
        release: Callable[[], Awaitable[None]],
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.alarm: Alarm = Alarm(self.loop, ask)
        self.first: asyncio.Future[BackendPoolError | None] = self.loop.create_future()
        self.starters: int = 0
        self.wanted: bool = False
        self.stopping: bool = False
        self._pid = os.getpid()
        self._source = source
        self._interval = interval
        self._timeout = timeout
        self._make_way = make_way
        self._ask = ask
        self._hint = hint
        self._release = release
        self.task: asyncio.Task[None] = self.loop.create_task(self._keep_fresh())
        leave_quietly(self.task)

    @property
    def is_lost(self) -> bool:
        """Whether its loop is closed, or belongs to the process that forked this one."""
        return self.loop.is_closed() or self._pid != os.getpid()

    async def stop(self) -> None:
        """End the task, and return when it has released everything."""
        if not self.stopping:
            # A second cancel would interrupt the release that the first one began.
            self.stopping = True
            self.task.cancel()
        # Not `await self.task`: that would swallow a cancellation of the caller's own.
        await asyncio.wait({self.task})

    async def _keep_fresh(self) -> None:
        listener = None
        try:
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
                await asyncio.wait({listener}, timeout=self._timeout)
            await self._release()
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
