"""A source that plays a script of answers, failures, delays and lies."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from backendpool_async.testing._tally import Tally

__all__ = ["HintingSource", "ScriptedSource", "after", "gated", "hang", "stubborn"]


@dataclass(frozen=True, slots=True)
class _After:
    seconds: float
    step: object

    def __repr__(self) -> str:
        return f"after({self.seconds}, {self.step!r})"


@dataclass(frozen=True, slots=True)
class _Hang:
    def __repr__(self) -> str:
        return "hang()"


@dataclass(frozen=True, slots=True)
class _Gated:
    step: object

    def __repr__(self) -> str:
        return f"gated({self.step!r})"


@dataclass(frozen=True, slots=True)
class _Stubborn:
    seconds: float | None
    step: object

    def __repr__(self) -> str:
        return f"stubborn({self.seconds}, {self.step!r})"


def after(seconds: float, step: object) -> object:
    """Return a step that plays another one `seconds` later; `asyncio.sleep`, so virtual too.

    >>> after(2.5, ["10.0.0.1:8080"])
    after(2.5, ['10.0.0.1:8080'])
    """
    return _After(seconds, _playable(step))


def hang() -> object:
    """Return a step that never answers, until it is cancelled.

    >>> ScriptedSource(["10.0.0.1:8080"], hang())
    ScriptedSource(['10.0.0.1:8080'], hang(); calls=0, running=0)
    """
    return _Hang()


def gated(step: object) -> object:
    """Return a step that is held until `ScriptedSource.release`, and then played.

    It can be cancelled meanwhile. What happens during a fetch is tested with it, without a clock.

    >>> import asyncio
    >>> async def main():
    ...     source = ScriptedSource(gated(["10.0.0.1:8080"]))
    ...     fetch = asyncio.create_task(source.fetch())
    ...     await source.called()
    ...     source.release()
    ...     return await fetch
    >>> asyncio.run(main())
    ['10.0.0.1:8080']
    """
    return _Gated(_playable(step))


def stubborn(seconds: float | None = None, step: object = ()) -> object:
    """Return a step that swallows every cancellation, for `seconds` or until it is released.

    Then it plays `step`. With None only `ScriptedSource.release` or `ScriptedSource.aclose` ends
    it: until then no event loop that waits for its tasks can close.

    >>> stubborn(60, ["10.0.0.1:8080"])
    stubborn(60, ['10.0.0.1:8080'])
    """
    return _Stubborn(seconds, _playable(step))


class ScriptedSource:
    """A source that plays its steps in order, one a fetch, and the last of them for ever.

    A step is a list or tuple of addresses (the answer), ``()`` (a negative answer), an exception
    or its class (raised, a fresh copy each time), or what `after`, `hang`, `gated` and
    `stubborn` return. Anything else is returned as it is, to script a source that lies: None, a
    str, an endless iterator.

    `calls` counts the fetches, `times` holds the `loop.time()` at which each began, `running` is
    how many are under way, `most_at_once` how many ever were, `cancellations` how often one was
    cancelled, `closings` how often the source was closed.

    Raises ValueError without a step, and TypeError for an exception that cannot be copied or a
    class of them that needs arguments. For one event loop at a time.

    >>> import asyncio
    >>> async def main():
    ...     source = ScriptedSource(["10.0.0.1:8080"], OSError("the registry is down"))
    ...     print(await source.fetch())
    ...     try:
    ...         await source.fetch()
    ...     except OSError as error:
    ...         print(error)
    ...     print(source.calls, source.most_at_once)
    >>> asyncio.run(main())
    ['10.0.0.1:8080']
    the registry is down
    2 1
    """

    def __init__(self, *steps: object) -> None:
        if not steps:
            raise ValueError("a script has at least one step")
        self._coming = deque(map(_playable, steps))
        self._latest: object = None
        self._held: set[asyncio.Future[None]] = set()
        self._tally = Tally()
        self.times: list[float] = []
        self.running: int = 0
        self.most_at_once: int = 0
        self.cancellations: int = 0
        self.closings: int = 0

    @property
    def calls(self) -> int:
        """How often it was asked."""
        return self._tally.count

    def then(self, *steps: object) -> None:
        """Add steps to the end of the script; the one that is repeated now is over with it.

        >>> source = ScriptedSource(["10.0.0.1:8080"])
        >>> source.then((), ["10.0.0.2:8080"])
        >>> source
        ScriptedSource(['10.0.0.1:8080'], (), ['10.0.0.2:8080']; calls=0, running=0)
        """
        self._coming.extend(map(_playable, steps))

    async def called(self, times: int = 1) -> None:
        """Return when it was asked `times` times in all; at once when it was.

        The fetch in question has then begun: a `gated` step is held, a `hang` hangs.

        >>> import asyncio
        >>> async def main():
        ...     source = ScriptedSource(["10.0.0.1:8080"])
        ...     async with asyncio.TaskGroup() as tasks:
        ...         tasks.create_task(source.called(2))
        ...         tasks.create_task(source.fetch())
        ...         tasks.create_task(source.fetch())
        ...     return source.calls
        >>> asyncio.run(main())
        2
        """
        await self._tally.reached(times)

    def release(self) -> None:
        """Let go the fetches that `gated` and `stubborn` hold; RuntimeError when none is held."""
        if not self._held:
            raise RuntimeError(f"no fetch is held: 'await source.called()' first ({self!r})")
        self._let_go()

    async def fetch(self) -> Iterable[str]:
        """Play the next step."""
        self.times.append(asyncio.get_running_loop().time())
        if self._coming:
            self._latest = self._coming.popleft()
        self._tally.add()
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            return await self._play(self._latest)
        except asyncio.CancelledError:
            self.cancellations += 1
            raise
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        """Let go what is held, so that the event loop can close; it may be asked again."""
        self.closings += 1
        self._let_go()

    def __repr__(self) -> str:
        steps = [self._latest, *self._coming] if self.calls else self._coming
        shown = ", ".join(map(repr, steps))
        return f"{self}({shown}; calls={self.calls}, running={self.running})"

    def __str__(self) -> str:
        return type(self).__name__

    async def _play(self, step: object) -> Iterable[str]:
        match step:
            case _After():
                await asyncio.sleep(step.seconds)
                return await self._play(step.step)
            case _Hang():
                return cast("Iterable[str]", await asyncio.get_running_loop().create_future())
            case _Gated():
                await self._hold()
                return await self._play(step.step)
            case _Stubborn():
                await self._outlast(step.seconds)
                return await self._play(step.step)
            case BaseException():
                raise _fresh(step)
        return cast("Iterable[str]", step)

    async def _hold(self) -> None:
        held = asyncio.get_running_loop().create_future()
        self._held.add(held)
        try:
            await held
        finally:
            self._held.discard(held)

    async def _outlast(self, seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, _resolve, over)
        self._held.add(over)
        try:
            while not over.done():
                # A source that does not stop when it is told to: swallowing is its purpose.
                try:
                    await asyncio.wait({over})
                except asyncio.CancelledError:
                    self.cancellations += 1
        finally:
            self._held.discard(over)
            if timer is not None:
                timer.cancel()

    def _let_go(self) -> None:
        for held in self._held:
            _resolve(held)


class HintingSource(ScriptedSource):
    """A `ScriptedSource` that also says when asking again is worthwhile: at each `hint`.

    >>> import asyncio
    >>> from backendpool_async import BackendPool
    >>> async def main():
    ...     source = HintingSource(["10.0.0.1:8080"], ["10.0.0.2:8080"])
    ...     async with BackendPool(source) as pool:
    ...         source.hint()
    ...         async for snapshot in pool.watch():
    ...             if snapshot.backends[0].host == "10.0.0.2":
    ...                 return source.calls
    >>> asyncio.run(main())
    2
    """

    def __init__(self, *steps: object) -> None:
        super().__init__(*steps)
        self._hinted = False
        self._listeners: set[asyncio.Future[None]] = set()

    def hint(self) -> None:
        """Let `changed` return: the one that waits, or else the next one."""
        self._hinted = True
        for listener in self._listeners:
            _resolve(listener)

    async def changed(self) -> None:
        """Return at the next hint; at once when there was one since it returned last."""
        while not self._hinted:
            listener = asyncio.get_running_loop().create_future()
            self._listeners.add(listener)
            try:
                await listener
            finally:
                self._listeners.discard(listener)
        self._hinted = False


def _playable(step: object) -> object:
    # Found out here, on the line of the test that wrote it: inside a fetch the TypeError would
    # pass for a failure of the source.
    if isinstance(step, type) and issubclass(step, BaseException):
        step = step()
    if isinstance(step, BaseException):
        _fresh(step)
    return step


def _fresh(error: BaseException) -> BaseException:
    fresh = copy.copy(error)
    fresh.__cause__ = error.__cause__
    fresh.__suppress_context__ = error.__suppress_context__
    return fresh


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
