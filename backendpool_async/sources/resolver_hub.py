"""One c-ares resolver for all lookups of an event loop that begin at about the same time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar, cast
from weakref import WeakValueDictionary

import aiodns

T = TypeVar("T")

# A resolver caches, and c-ares can keep a negative answer for an hour. One a lookup costs a
# thread and four descriptors each time, one a pool the same for ever.
_SHARED_FOR: Final = 1.0
# So many lookups begin at once; the next ones when one of them has ended, or after this time.
# Begun all together, 200 of them hold the event loop for 80 ms.
_BEGIN_AT_ONCE: Final = 16
_BEGIN_AGAIN_AFTER: Final = 0.005

_QUERY_TIMEOUT: Final = 1.0
_TRIES: Final = 2

Nameservers = tuple[str, ...]


class ResolverHub:
    """Lends the current resolver of one event loop and one set of nameservers.

    Whoever takes it from `join` gives it back with `leave`; with the last one the resolver closes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, nameservers: Nameservers) -> None:
        self.loop = loop
        self._nameservers = nameservers
        self._users = 0
        self._current: _Lent | None = None
        self._beginning = asyncio.Semaphore(_BEGIN_AT_ONCE)

    @classmethod
    def join(cls, nameservers: Sequence[str]) -> ResolverHub:
        """Return the running loop's hub for these nameservers; the system's when there are none."""
        loop = asyncio.get_running_loop()
        key = (loop, tuple(nameservers))
        hub = _hubs.get(key)
        if hub is None:
            hub = _hubs[key] = cls(*key)
        hub._users += 1
        return hub

    async def leave(self) -> None:
        """Give it back; no lookup of the caller's may be under way."""
        self._users -= 1
        if self._users == 0:
            lent, self._current = self._current, None
            if lent is not None:
                await lent.retire()

    async def lookup(self, ask: Callable[[aiodns.DNSResolver], Awaitable[T]]) -> T:
        """Return what `ask` makes of the current resolver."""
        await self._beginning.acquire()
        begin_next = _Once(self._beginning.release)
        timer = self.loop.call_later(_BEGIN_AGAIN_AFTER, begin_next)
        try:
            lent = await self._lend()
            try:
                return await ask(lent.resolver)
            finally:
                await lent.give_back()
        finally:
            timer.cancel()
            begin_next()

    async def _lend(self) -> _Lent:
        now = self.loop.time()
        lent = self._current
        if lent is not None and now < lent.until:
            lent.users += 1
            return lent
        fresh = self._current = _Lent(self._nameservers, now + _SHARED_FOR, self.loop)
        fresh.users += 1
        if lent is not None:
            await lent.retire()
        return fresh


class _Lent:
    def __init__(
        self, nameservers: Nameservers, until: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.until = until
        self.users = 0
        self._retired = False
        self.resolver = aiodns.DNSResolver(
            nameservers=nameservers or None,
            timeout=_QUERY_TIMEOUT,
            tries=_TRIES,
            loop=cast(asyncio.AbstractEventLoop, _LoopThatMayClose(loop)),
        )

    async def retire(self) -> None:
        self._retired = True
        if self.users == 0:
            await self.resolver.close()

    async def give_back(self) -> None:
        self.users -= 1
        if self.users == 0 and self._retired:
            await self.resolver.close()


class _Once:
    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class _LoopThatMayClose:
    """The loop as a resolver sees it: after the loop's end, late answers fall silent.

    c-ares answers from a thread of its own; with the loop closed under a pending query, the
    callback would print "Exception ignored" on stderr.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)


# By value weakly: a hub that nobody gave back goes with its last user, and its loop with it.
_hubs: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, Nameservers], ResolverHub]
_hubs = WeakValueDictionary()
