"""Where a list comes from: the protocol, and what its answers are checked for."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, Self, runtime_checkable

from backendpool_async.backend import Backend
from backendpool_async.bulk import (
    CHUNK,
    DEFAULT_MAX_BACKENDS,
    Collector,
    parse_backends,
    parsed_chunks,
)
from backendpool_async.errors import InvalidBackend, quote


class Answer:
    """A complete list, and for how many seconds its source vouches for it.

    With a `ttl` the pool asks again when it has passed, and at the latest after the poll
    interval; None leaves it to the poll interval. Raises `InvalidBackend`, also for more than
    `max_backends` entries, and ValueError for a `ttl` that is no number of seconds.

    >>> Answer(["10.0.0.1:8080"], ttl=10).backends
    (Backend('10.0.0.1:8080'),)
    """

    __slots__ = ("_dropped", "backends", "ttl")

    backends: tuple[Backend, ...]
    ttl: float | None
    _dropped: int

    def __init__(
        self,
        entries: Iterable[str],
        *,
        ttl: float | None = None,
        max_backends: int = DEFAULT_MAX_BACKENDS,
    ) -> None:
        if ttl is not None and not (ttl >= 0 and math.isfinite(ttl)):
            raise ValueError(f"ttl={ttl!r} is no number of seconds")
        self.backends = parse_backends(entries, max_backends)
        self.ttl = ttl
        self._dropped = 0

    @classmethod
    def _of_parsed(cls, backends: tuple[Backend, ...], ttl: float | None = None) -> Self:
        answer = cls.__new__(cls)
        answer.backends = backends
        answer.ttl = ttl
        answer._dropped = 0
        return answer


@runtime_checkable
class Source(Protocol):
    """Anything with ``async def fetch()``; the contract of a place where backends are listed.

    `fetch` returns the complete set, never a difference, or raises. An empty list is a negative
    answer: "there are none", said with authority. One run at a time; it is cancelled when it
    outlasts the pool's `timeout`.

    Two more methods are optional. ``async def changed()`` returns when asking again is
    worthwhile: a hint, not an answer. It is called before each fetch, so a change between the
    two is not missed. ``async def aclose()`` releases what the other two hold; both may be
    called again afterwards, also on another event loop. ``str(source)`` names it in errors.

    >>> class Registry:
    ...     async def fetch(self) -> list[str]:
    ...         return ["10.0.0.1:8080"]
    >>> isinstance(Registry(), Source)
    True
    """

    async def fetch(self) -> Iterable[str] | Answer: ...


@runtime_checkable
class NotifyingSource(Source, Protocol):
    """A source that says when asking again is worthwhile."""

    async def changed(self) -> None: ...


@runtime_checkable
class ClosableSource(Source, Protocol):
    """A source that holds something while it is in use."""

    async def aclose(self) -> None: ...


SourceFunction = Callable[[], Awaitable[Iterable[str] | Answer]]


class FunctionSource:
    """A coroutine function as a source."""

    __slots__ = ("_function",)

    def __init__(self, function: SourceFunction) -> None:
        self._function = function

    async def fetch(self) -> Iterable[str] | Answer:
        result = self._function()
        if not inspect.isawaitable(result):
            raise TypeError(f"it returned {type(result).__name__}; write it with 'async def'")
        return await result

    def __str__(self) -> str:
        name = getattr(self._function, "__qualname__", None)
        return str(name or type(self._function).__name__)


def as_source(source: Source | SourceFunction) -> Source:
    """Return what a pool can ask; raise TypeError for what it cannot."""
    if inspect.iscoroutine(source):
        source.close()
        raise TypeError("a source is the function itself: pass it without calling it")
    if isinstance(source, type):
        raise TypeError(f"a source is an instance: pass {source.__name__}(), not the class")
    if inspect.isasyncgenfunction(source):
        raise TypeError("a source returns the whole list: this function yields it piecemeal")
    if isinstance(source, Source):
        return source
    if callable(source):
        return FunctionSource(source)
    raise TypeError(
        f"a source is a coroutine function or has 'async def fetch()', not {quote(repr(source))};"
        " a fixed list is BackendPool.static([...])"
    )


def name_of(source: Source) -> str:
    """Return what errors and logs call it: its ``str()`` where it has one, else its class."""
    cls = type(source)
    if cls.__str__ is object.__str__ and cls.__repr__ is object.__repr__:
        return cls.__qualname__
    return quote(str(source))[1:-1]


async def checked(
    result: Iterable[str] | Answer, limit: int, held: tuple[Backend, ...] = ()
) -> Answer:
    """Parse what a source returned, without holding the event loop for long.

    What says the same as `held` is not parsed again. Raises `InvalidBackend`, also when there
    are more than `limit` entries or no list at all.
    """
    if isinstance(result, Answer):
        if len(result.backends) > limit:
            Collector(limit).add(result.backends)
        return result
    if _is_plainly(held, result):
        return Answer._of_parsed(held)
    if isinstance(result, (set, frozenset)) and len(result) > limit:
        # Found out before it is sorted, which would hold the loop for as long as it is large.
        raise InvalidBackend(next(iter(result)), f"more than max_backends={limit} entries")
    collector = Collector(limit)
    for chunk in parsed_chunks(result):
        collector.add(chunk)
        if len(chunk) == CHUNK:
            await asyncio.sleep(0)
    for _ in collector.settle():
        await asyncio.sleep(0)
    return Answer._of_parsed(collector.backends())


async def compared(answer: Answer, held: tuple[Backend, ...]) -> Answer:
    """Note in the answer how many of `held` it drops, without holding the event loop for long."""
    if answer.backends is not held:
        left: set[Backend] = set()
        for start in range(0, len(held), CHUNK):
            left.update(held[start : start + CHUNK])
            if start:
                await asyncio.sleep(0)
        for start in range(0, len(answer.backends), CHUNK):
            left.difference_update(answer.backends[start : start + CHUNK])
            if start:
                await asyncio.sleep(0)
        answer._dropped = len(left)
    return answer


def _is_plainly(held: tuple[Backend, ...], result: object) -> bool:
    return (
        isinstance(result, (list, tuple))
        and len(result) == len(held) <= CHUNK
        and set(map(type, result)) <= {str, Backend}
        and set(map(type, held)) == {Backend}
        and tuple(result) == held
    )
