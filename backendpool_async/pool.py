"""BackendPool: a live list, kept fresh from its source on an event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from backendpool_async.bulk import DEFAULT_MAX_BACKENDS, parse_backends
from backendpool_async.constructors import Constructors
from backendpool_async.errors import (
    BackendPoolError,
    SourceError,
    SourceTimeout,
    counted,
    describe,
)
from backendpool_async.flight import Flight, Outcome, leave_quietly
from backendpool_async.keywords import count, seconds
from backendpool_async.logs import log
from backendpool_async.run import Run
from backendpool_async.schedule import expiry, first_poll, next_poll, retry
from backendpool_async.snapshot import Snapshot
from backendpool_async.source import (
    Answer,
    ClosableSource,
    Source,
    SourceFunction,
    as_source,
    checked,
    compared,
    name_of,
)
from backendpool_async.sources.static import StaticSource
from backendpool_async.verdict import JudgingList


class BackendPool(JudgingList, Constructors):
    """The live list of a service's backends, readable at any time from any task or thread.

    `source` is a coroutine function or an object with ``async def fetch()`` (see `Source`); the
    class methods make pools of a fixed list, the environment, a file or a DNS name. Every one of
    them takes the keywords of this constructor:

    * `poll_interval`: seconds between two refreshes, jitter 10 % either way.
    * `timeout`: seconds after which one fetch is given up.
    * `empty_after`: the negative answer of a row that is believed; 1 at once, None never.
    * `max_backends`: an answer with more entries is refused.
    * `initial`: served until the first answer; with it `start()` does not raise.
    * `max_shrink`: an answer that drops more than this share of the list at once is believed only
      at the `empty_after`-th in a row, whatever else these answers say, but at the second at the
      earliest (`empty_after` None: at the third); None believes it at once.

    Whatever fails, the latest good list goes on being served, and `snapshot.error` says why it
    is not newer. Raises TypeError for what is no source, ValueError for a keyword out of range,
    `InvalidBackend` for a bad entry of `initial`.

    >>> import asyncio
    >>> async def backends() -> list[str]:
    ...     return ["10.0.0.1:8080"]
    >>> async def main() -> None:
    ...     async with BackendPool(backends, poll_interval=10) as pool:
    ...         print(pool.backends())
    >>> asyncio.run(main())
    (Backend('10.0.0.1:8080'),)
    """

    __slots__ = (
        "_flight",
        "_opened",
        "_poll_interval",
        "_run",
        "_source",
        "_stubborn",
    )

    def __init__(
        self,
        source: Source | SourceFunction,
        *,
        poll_interval: float = 30.0,
        timeout: float = 5.0,
        empty_after: int | None = 3,
        max_backends: int = DEFAULT_MAX_BACKENDS,
        initial: Iterable[str] = (),
        max_shrink: float | None = None,
    ) -> None:
        self._poll_interval = seconds("poll_interval", poll_interval)
        count("max_backends", max_backends)
        self._source = as_source(source)
        self._run: Run | None = None
        self._opened = False
        self._flight: Flight | None = None
        self._stubborn: Flight | None = None
        if isinstance(self._source, StaticSource):
            initial = self._source.entries
        super().__init__(
            name_of(self._source),
            parse_backends(initial, max_backends),
            max_backends,
            timeout=timeout,
            empty_after=empty_after,
            max_shrink=max_shrink,
        )

    async def start(self, *, required: bool = True) -> None:
        """Refresh once, then keep the list fresh in the background until `aclose()`.

        Nothing happens when it is running already, or for a fixed list. When the first refresh
        fails and there is nothing to serve, raises what `refresh()` raises and leaves nothing
        running; with ``required=False`` it goes on trying instead. Raises `PoolClosed` when the
        pool is closed meanwhile, RuntimeError when it is running on another event loop.

        A pool can be started again after `aclose()`, on any event loop.
        """
        if isinstance(self._source, StaticSource):
            self._closed, self._opened = False, True
            return
        run = await self._started()
        if run.first.done() and run.starters == 0:
            return
        run.starters += 1
        run.wanted = run.wanted or not required
        try:
            error = await asyncio.shield(run.first)
        except asyncio.CancelledError:
            if run.starters == 1 and not run.wanted:
                await run.stop()
            raise
        finally:
            run.starters -= 1
        if error is None or (
            isinstance(error, SourceError) and (not required or self._snapshot.backends)
        ):
            run.wanted = True
            return
        if run.starters == 0 and not run.wanted:
            await run.stop()
        raise error.fresh() if isinstance(error, SourceError) else error

    async def refresh(self) -> Snapshot:
        """Ask the source now and return the snapshot that came of it; works without `start()`.

        A refresh that is under way is joined. Raises a `SourceError` when the source failed
        (`SourceTimeout`, `EmptyAnswer`), after which the list is what it was, and `PoolClosed`
        when the pool is closed meanwhile. A fixed list has nothing to ask.

        >>> import asyncio
        >>> from backendpool_async import EmptyAnswer
        >>> pool = BackendPool.env_prefix("NOT_SET")
        >>> try:
        ...     asyncio.run(pool.refresh())
        ... except EmptyAnswer as error:
        ...     print(error)
        env:NOT_SET: no variable NOT_SET_0 (negative answer 1 of 3); there is nothing to serve
        """
        if isinstance(self._source, StaticSource):
            return self._snapshot
        try:
            snapshot = await self._asked()
        except (Exception, asyncio.CancelledError):
            # Not `finally`: a task that is collected with its closed loop cannot await any more.
            await self._release_unless_running()
            raise
        await self._release_unless_running()
        return snapshot

    @property
    def is_running(self) -> bool:
        """Whether it is kept fresh in the background: between `start()` and `aclose()`."""
        return self._run is not None and not self._run.is_lost

    def refresh_soon(self) -> None:
        """Ask the source early, as when a backend could not be reached; returns at once.

        From any thread, at most once in five seconds. Nothing happens while the pool is not
        running, and while its source fails or says what is not believed yet: that is confirmed in
        its own time, and never sooner because backends fail along with their source.
        """
        run = self._run
        if run is not None and self._snapshot.error is None:
            run.hint_from_anywhere()

    async def aclose(self) -> None:
        """Stop refreshing; whoever waits for the pool gets `PoolClosed`, and `watch()` ends.

        The list stays readable. Returns when the background task has ended and the source has
        released what it held; whatever of it swallows its cancellation is given up, after one
        `timeout` in all. Closing twice, or a pool that was never started, does no harm.
        """
        run = self._current_run()
        self._opened = False
        self._close()
        closed = self._closed_error()
        if self._flight is not None:
            self._flight.cancel(closed)
        if run is not None:
            if not run.first.done():
                run.first.set_result(closed)
            await run.stop()
        elif self._flight is not None:
            await self._release(None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        snapshot = self._snapshot
        age = "" if snapshot.age is None else f", {snapshot.age:.1f} s old"
        failing = ", failing" if snapshot.error else ""
        running = ", running" if self.is_running else ""
        return (
            f"<{type(self).__name__} {self._name}: {counted(len(snapshot.backends))},"
            f" generation {snapshot.generation}{age}{failing}{running}>"
        )

    def _current_run(self) -> Run | None:
        loop = asyncio.get_running_loop()
        run, flight = self._run, self._flight
        if run is not None and run.is_lost:
            # Its loop went away without closing the pool: nothing of it can still be awaited.
            run = self._run = None
        if flight is not None and flight.is_lost:
            flight = self._flight = None
        for user in (run, flight):
            if user is not None and user.loop is not loop:
                raise RuntimeError(
                    f"{self!r} is in use on another event loop; close it there first"
                )
        return run

    async def _started(self) -> Run:
        closings = self._closings
        while (run := self._current_run()) is not None and run.stopping:
            await asyncio.wait({run.task})
            if self._closings != closings:
                raise self._closed_error()
        self._closed = False
        if run is None:
            self._failures = 0
            run = self._run = Run(
                self._source,
                self._poll_interval,
                self._cancelled_flight_gone,
                self._ask,
                self._hint,
                self._end_run,
            )
        return run

    def _ask(self) -> None:
        # While the pool runs, no flight is cancelled: there is none, or one that will land.
        (self._flight or self._begin()).kept = True

    def _hint(self) -> None:
        if self._flight is None:
            self._begin()
        else:
            # It may have looked before what is hinted at.
            self._flight.again = True

    def _begin(self) -> Flight:
        flight = self._flight = Flight(self._fetch, self._timeout, self._pushes, self._land)
        flight.kept = self._run is not None and not self._run.stopping
        return flight

    async def _asked(self) -> Snapshot:
        self._current_run()
        closings = self._closings
        await self._cancelled_flight_gone()
        if self._closings != closings:
            raise self._closed_error()
        return await (self._flight or self._begin()).wait()

    async def _cancelled_flight_gone(self) -> None:
        while (flight := self._flight) is not None and flight.ended:
            await flight.gone(self._timeout)
            self._leave(flight)

    async def _fetch(self) -> Answer:
        stubborn, self._stubborn = self._stubborn, None
        if stubborn is not None and not stubborn.returned and not stubborn.is_lost:
            self._stubborn = stubborn
            raise SourceTimeout(self._name, "the fetch that was given up has not ended yet")
        held = self.backends()
        answer = await checked(await self._source.fetch(), self._max_backends, held)
        return answer if self._max_shrink is None else await compared(answer, held)

    def _land(self, flight: Flight, outcome: Outcome) -> Snapshot | BackendPoolError:
        self._leave(flight)
        try:
            result = self._judge(flight, outcome)
        except Exception as error:  # noqa: BLE001 - what a backend of the source's own class may do
            result = self._keep(self._explained(error, overdue=False))
        self._count_refresh(result)
        run = self._run
        if run is not None:
            if not run.first.done():
                run.first.set_result(None if isinstance(result, Snapshot) else result)
            if flight.again:
                self._ask()
        return result

    def _leave(self, flight: Flight) -> None:
        if self._flight is flight:
            self._flight = None
            if not flight.returned:
                self._stubborn = flight

    def _plan_poll(self, ttl: float | None) -> None:
        run, interval = self._run, self._poll_interval
        if run is None:
            return
        if ttl is not None:
            run.alarm.set(expiry(ttl, interval))
        else:
            run.alarm.set(next_poll(interval) if run.first.done() else first_poll(interval))

    def _plan_retry(self, failures: int) -> None:
        if self._run is not None:
            self._run.alarm.set(retry(failures, self._poll_interval))

    async def _end_run(self, listener: asyncio.Task[None] | None) -> None:
        try:
            await self._release(listener)
        finally:
            self._run = None

    async def _release_unless_running(self) -> None:
        if self._run is None and (self._flight is None or self._flight.ended):
            await self._release(None)

    async def _release(self, listener: asyncio.Task[None] | None) -> None:
        """End the fetch and the listener and close the source, all within one `timeout`."""
        loop, flight = asyncio.get_running_loop(), self._flight
        deadline = loop.time() + self._timeout
        tasks = {} if listener is None else {listener: "changed()"}
        if flight is not None:
            flight.cancel(self._closed_error())
            tasks[flight.task] = "fetch"
        # What does not end in half of the time may do so when its source is closed under it.
        await _wait(tasks, self._timeout / 2)
        if flight is not None and flight.task.done():
            self._leave(flight)
        await self._close_source(tasks, flight, deadline)
        for task, method in tasks.items():
            if not task.done():
                log(
                    logging.WARNING,
                    f"{self._name}: its {method} swallows cancellation;"
                    f" given up after {self._timeout:g} s",
                )
        if flight is not None:
            self._leave(flight)

    async def _close_source(
        self, beside: Iterable[asyncio.Task[None]], flight: Flight | None, deadline: float
    ) -> None:
        loop, source = asyncio.get_running_loop(), self._source
        left = max(0.0, deadline - loop.time())
        if not isinstance(source, ClosableSource) or self._is_used_beside(flight):
            await _wait(beside, left)
            return
        closing = loop.create_task(self._aclose_source(source))
        leave_quietly(closing)
        await _wait({closing, *beside}, left)
        if not closing.done():
            closing.cancel()
            log(logging.WARNING, f"{self._name}: its aclose() takes over {left:.3g} s")

    def _is_used_beside(self, flight: Flight | None) -> bool:
        # Somebody may have begun anew while the flight ended.
        if self._run is not None:
            return not self._run.stopping
        return self._flight is not None and self._flight is not flight

    async def _aclose_source(self, source: ClosableSource) -> None:
        try:
            await source.aclose()
        except Exception as error:  # noqa: BLE001 - a source may raise anything
            log(logging.WARNING, f"{self._name}: its aclose() failed: {describe(error)}")


async def _wait(tasks: Iterable[asyncio.Task[None]], timeout: float) -> None:
    pending = {task for task in tasks if not task.done()}
    if pending:
        await asyncio.wait(pending, timeout=timeout)
