"""One c-ares resolver for all lookups of an event loop that begin at about the same time."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar, cast
from weakref import WeakSet, WeakValueDictionary

import aiodns
import pycares

from backendpool_async.sources.gate import Gate

T = TypeVar("T")

# A resolver caches, and c-ares can keep a negative answer for an hour. One a lookup costs a
# thread and four descriptors each time, one a pool the same for ever.
_SHARED_FOR: Final = 1.0
# So many lookups begin at once; the next ones when half of them have ended, or after this time.
# Begun all together, 200 of them hold the event loop for 80 ms.
_BEGIN_AT_ONCE: Final = 16
_BEGIN_AGAIN_AFTER: Final = 0.001

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
        self._former: _Lent | None = None
        self._gate = Gate(_BEGIN_AT_ONCE, _BEGIN_AGAIN_AFTER)

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
        ticket = self._gate.entered()
        if ticket is None:
            ticket = await self._gate.enter()
        try:
            lent = self._current
            if lent is None or self._is_over(lent):
                lent = await self._renewed()
            lent.users += 1
            try:
                return await ask(lent.resolver)
            finally:
                lent.users -= 1
                if lent.is_to_be_closed:
                    await lent.resolver.close()
        finally:
            self._gate.leave(ticket)

    async def _renewed(self) -> _Lent:
        former = self._current
        fresh = _Lent(self._nameservers, self.loop.time() + _SHARED_FOR, self.loop)
        self._former, self._current = former, fresh
        if former is not None:
            await former.retire()
        return fresh

    def _is_over(self, lent: _Lent) -> bool:
        # Never a third one: in an outage each would wait seconds for answers that do not come.
        is_second = self._former is not None and self._former.is_busy
        return lent.is_inherited or (self.loop.time() >= lent.until and not is_second)


class _Lent:
    def __init__(
        self, nameservers: Nameservers, until: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.until = until
        self.users = 0
        self._retired = False
        self._pid = os.getpid()
        self.resolver = aiodns.DNSResolver(
            nameservers=nameservers or None,
            timeout=_QUERY_TIMEOUT,
            tries=_TRIES,
            loop=cast(asyncio.AbstractEventLoop, _LoopThatMayClose(loop)),
        )
        _open.add(self)

    @property
    def is_inherited(self) -> bool:
        """Whether it belongs to the process that forked this one."""
        return self._pid != os.getpid()

    @property
    def is_busy(self) -> bool:
        """Whether a lookup of this process waits for it."""
        return self.users > 0 and not self.is_inherited

    @property
    def is_to_be_closed(self) -> bool:
        """Whether nobody uses it and nobody will."""
        return self._retired and self.users == 0 and not self.is_inherited

    async def retire(self) -> None:
        self._retired = True
        if self.is_to_be_closed:
            await self.resolver.close()


class _LoopThatMayClose:
    """The loop as a resolver sees it: after the loop's end, late answers fall silent.

    c-ares answers from a thread of its own; with the loop closed under a pending query, the
    callback would print "Exception ignored" on stderr.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Asked for at every lookup.
        self.create_future = loop.create_future

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        try:  # noqa: SIM105 - one a lookup: `contextlib.suppress` takes ten times as long
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            pass

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)


# By value weakly: a hub that nobody gave back goes with its last user, and its loop with it.
_hubs: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, Nameservers], ResolverHub]
_hubs = WeakValueDictionary()

_open: WeakSet[_Lent] = WeakSet()
_inherited: list[_Lent] = []


def _after_fork_in_child() -> None:  # pragma: no cover - a test forks, in a process of its own
    # A fork copies no threads. A resolver of the parent's would wait for its own for ever, also
    # to be destroyed: it is kept as it is. And pycares destroys ours in one thread of its own,
    # which it believes to be running still.
    _inherited.extend(_open)
    _open.clear()
    with contextlib.suppress(AttributeError):
        pycares._shutdown_manager = cast(Any, type(pycares._shutdown_manager))()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
