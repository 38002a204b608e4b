"""The connections of one transport on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Final, TypeVar

from backendpool_async.backend import Backend
from backendpool_async.balance.balancer import Balancer
from backendpool_async.httpx.connection import Connection, Kind, Place, Stack
from backendpool_async.httpx.dialer import Dialer
from backendpool_async.httpx.flavour import Flavour
from backendpool_async.httpx.settings import Settings
from backendpool_async.httpx.slots import Slots

# Seconds between two looks for idle connections that have become too old.
_SWEEP: Final = 1.0
_CLOSED: Final = "the transport was closed"
TLS_SCHEMES: Final = frozenset({b"https", b"wss"})
T = TypeVar("T")


class Connections:
    """Stacks of idle connections, what is in use, and what is being closed.

    Everything is decided at once, and only then waited for. A connection is closed by a task of
    its own, which no cancelled request can take along; `aclose` waits for those, and an event loop
    that ends in order (`asyncio.Runner`, `asyncio.run`) has `aclose` run.

    A request takes a slot before its backend is chosen: none is chosen that is not asked then. The
    slot goes over to the connection that is acquired with it. While all slots are taken, a request
    may `join` a connection that others share.
    """

    def __init__(self, balancer: Balancer, settings: Settings) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._balancer = balancer
        self._settings = settings
        self._loading: dict[Flavour, asyncio.Task[None]] = {}
        self._slots = Slots(settings.max_connections)
        self._stacks: dict[Place, Stack] = {}
        self._all: set[Connection] = set()
        # The one that became idle first comes first.
        self._idle: OrderedDict[Connection, None] = OrderedDict()
        self._closing: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._keeper = self._kept_until_closed()
        balancer.pool._tell(self, Connections._list_changed)

    async def start(self) -> None:
        """Let the end of the event loop close them."""
        await anext(self._keeper)

    async def load_context(self, flavour: Flavour) -> None:
        """Have in the settings what a library verifies servers with.

        All who come meanwhile share one loading, which goes on when one of them is cancelled.
        """
        if flavour in self._settings.contexts:
            return
        loading = self._loading.get(flavour)
        if loading is None:
            loading = self.loop.create_task(self._settings.load_context(flavour))
            self._loading[flavour] = loading
            loading.add_done_callback(partial(self._loaded, flavour))
        await asyncio.wait({loading})
        if loading.cancelled():
            raise RuntimeError(_CLOSED)
        loading.result()

    def take_slot_now(self) -> bool:
        """Take a slot if one is free."""
        return self._slots.take_now()

    async def take_slot(
        self, where: Kind | Place, timeout: float | None, without: Callable[[], T | None]
    ) -> T | None:
        """Wait for a slot, and return None with one, or what `without` returned instead of one.

        `without` is asked whenever a connection has room for more requests: one of the kind, to
        whatever backend, or one to the place. Raises the network library's ``PoolTimeout`` when no
        slot becomes free in time.
        """
        try:
            return await self._slots.take(timeout, where, without)
        except TimeoutError:
            kind = where.kind if isinstance(where, Place) else where
            raise kind.flavour.pool_timeout(
                f"all {self._settings.max_connections} connections are in use"
            ) from None

    def give_slot(self) -> None:
        """Give back a slot that no connection was acquired with."""
        self._slots.give()

    async def acquire(
        self, place: Place, generation: int, timeouts: Mapping[str, float | None]
    ) -> Connection:
        """Return a connection for one request: a shared one, an idle one, or a new one.

        It takes over the slot that the caller has, or gives it back; the caller keeps it when this
        raises, which is what opening one that is to be shared raised. `generation`: of the list
        that the backend was chosen from.
        """
        while True:
            shared = self.join(place)
            if shared is not None:
                self._slots.give()
                return shared
            stack = self._stacks.get(place)
            if stack is None or not stack.multiplexes or stack.opening is None:
                break
            await self._until_open(stack.opening, timeouts.get("connect"))
        if self._is_closed:
            raise RuntimeError(_CLOSED)
        stack = stack or self._made(place, generation)
        return self._popped(stack) or self._opened(stack)

    def backends_with_room(self, kind: Kind) -> set[Backend]:
        """Return those that `join` succeeds with now."""
        now = self.loop.time()
        return {
            stack.place.backend
            for stack in self._stacks.values()
            if stack.shared and stack.place.kind == kind and stack.joinable(now) is not None
        }

    def join(self, place: Place) -> Connection | None:
        """Return a connection that others share, for one request more; None: there is none."""
        stack = self._stacks.get(place)
        shared = None
        if stack is not None and stack.shared:
            shared = stack.joinable(self.loop.time())
            if shared is not None:
                shared.streams += 1
        return shared

    def cede(self, connection: Connection) -> bool:
        """Leave its slot to the one request that uses it, before the release; False: others do."""
        if connection.streams > 1 or not connection.has_slot:
            return False
        connection.has_slot = False
        if connection.stack.multiplexes:
            # Nobody may join it any more.
            self._retire(connection)
        return True

    def release(self, connection: Connection, *, complete: bool) -> None:
        """Take a connection back from one request; `complete`: whether that ran to its end."""
        stack = connection.stack
        connection.streams -= 1
        if connection is stack.opening:
            # Given up before it was open: those who wait for it try for themselves.
            stack.failed_to_open(connection, None)
        if stack.multiplexes and not (complete and connection.http.is_available()):
            # What the server sends to a stream that was left is never acknowledged.
            self._retire(connection)
        if connection.streams:
            stack.tell_of_room()
            return
        if connection.has_slot:
            self._slots.give()
        if connection in stack.shared:
            stack.shared.remove(connection)
        now = self.loop.time()
        if connection.is_idle() and now < connection.retire_at and self._is_listed(stack):
            self._keep(connection, now)
        else:
            self._drop(connection)

    def fault(self, error: BaseException | None) -> BaseException | None:
        """Return what the backend's lease is to end with: nobody's fault if it was `aclose`."""
        return RuntimeError(_CLOSED) if self._is_closed and error is not None else error

    def _list_changed(self) -> None:
        # A loop that was closed under them needs nothing closed any more.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.drop_removed)

    def drop_removed(self) -> None:
        """Close the idle connections of backends that are no longer listed; the others later."""
        snapshot = self._balancer.pool.snapshot
        removed = {place.backend for place in self._stacks}.difference(snapshot.backends)
        for place, stack in list(self._stacks.items()):
            if place.backend in removed:
                self._remove(stack)
            else:
                stack.generation = snapshot.generation

    async def aclose(self) -> None:
        """Close all of them, in use or not; whoever waits for one gets a RuntimeError."""
        await self._keeper.aclose()

    @property
    def open(self) -> int:
        """How many connections there are, in use and idle."""
        return len(self._all)

    @property
    def idle(self) -> int:
        """How many of them are idle."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """How many requests wait for one."""
        return self._slots.waiting

    def _made(self, place: Place, generation: int) -> Stack:
        settings = self._settings
        multiplexes = settings.http2 and (place.kind.scheme in TLS_SCHEMES or not settings.http1)
        stack = self._stacks[place] = Stack(place, generation, self._slots, multiplexes=multiplexes)
        return stack

    def _loaded(self, flavour: Flavour, loading: asyncio.Task[None]) -> None:
        # Whoever comes next tries again what failed.
        del self._loading[flavour]
        if not loading.cancelled():
            # Perhaps nobody is left to be told.
            loading.exception()

    async def _until_open(self, opening: Connection, timeout: float | None) -> None:
        if opening.opened is None:
            opening.opened = self.loop.create_future()
        await asyncio.wait({opening.opened}, timeout=timeout)
        if not opening.opened.done():
            raise opening.stack.place.kind.flavour.connect_timeout(
                "the connection to share was not open in time"
            )
        error = opening.opened.result()
        if error is not None:
            # Nothing of this request was sent either.
            raise type(error)(*error.args)

    def _popped(self, stack: Stack) -> Connection | None:
        now = self.loop.time()
        while stack.idle:
            connection = stack.idle.pop()
            del self._idle[connection]
            if connection.is_usable(now):
                connection.streams, connection.has_slot = 1, True
                if stack.multiplexes:
                    stack.share(connection)
                return connection
            self._drop(connection)
        return None

    def _opened(self, stack: Stack) -> Connection:
        settings, place = self._settings, stack.place
        if settings.max_connections is not None and len(self._all) >= settings.max_connections:
            # There is a slot, so one of them is idle, for another place.
            self._drop_longest_idle()
        flavour = place.kind.flavour
        dialer = Dialer(flavour.network_backend)
        http = flavour.connection(
            stack.url(b"/").origin,
            ssl_context=settings.contexts.get(flavour),
            http1=settings.http1,
            http2=settings.http2,
            local_address=settings.local_address,
            network_backend=dialer,
            socket_options=settings.socket_options,
        )
        connection = Connection(stack, http, dialer, settings.retire_at(self.loop.time()))
        stack.connections.add(connection)
        # Its last connection may just have been dropped, and it along with that.
        self._stacks[place] = stack
        self._all.add(connection)
        if stack.multiplexes:
            stack.opening = connection
        return connection

    def _keep(self, connection: Connection, now: float) -> None:
        settings = self._settings
        expiry = settings.keepalive_expiry
        until = math.inf if expiry is None else now + expiry
        connection.idle_until = min(until, connection.retire_at)
        connection.stack.idle.append(connection)
        self._idle[connection] = None
        most = settings.max_keepalive_connections
        if most is not None and len(self._idle) > most:
            self._drop_longest_idle()
        elif self._timer is None and connection.idle_until < math.inf:
            self._sweep_at(connection.idle_until)

    def _is_listed(self, stack: Stack) -> bool:
        snapshot = self._balancer.pool.snapshot
        if stack.generation == snapshot.generation:
            return True
        # Between two changes of the list, seldom: the backend was chosen before the first.
        if stack.place.backend not in snapshot.backends:
            self._remove(stack)
            return False
        stack.generation = snapshot.generation
        return True

    def _remove(self, stack: Stack) -> None:
        self._stacks.pop(stack.place, None)
        for connection in stack.connections:
            self._retire(connection)
        while stack.idle:
            connection = stack.idle.pop()
            del self._idle[connection]
            self._drop(connection)

    def _retire(self, connection: Connection) -> None:
        connection.is_retired = True
        if connection in connection.stack.shared:
            connection.stack.shared.remove(connection)

    def _drop_longest_idle(self) -> None:
        connection, _ = self._idle.popitem(last=False)
        connection.stack.idle.remove(connection)
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        stack = connection.stack
        stack.connections.remove(connection)
        self._all.remove(connection)
        if not stack.connections and self._stacks.get(stack.place) is stack:
            del self._stacks[stack.place]
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._closing.add(connection)
        task = self.loop.create_task(self._closed(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _closed(self, connection: Connection) -> None:
        # It may have broken in any way.
        with contextlib.suppress(Exception):
            await connection.aclose()
        self._closing.discard(connection)

    def _sweep_at(self, when: float) -> None:
        self._timer = self.loop.call_at(max(when, self.loop.time() + _SWEEP), self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self.loop.time()
        for connection in [each for each in self._idle if each.idle_until <= now]:
            del self._idle[connection]
            connection.stack.idle.remove(connection)
            self._drop(connection)
        following = min((each.idle_until for each in self._idle), default=math.inf)
        if following < math.inf:
            self._sweep_at(following)

    async def _kept_until_closed(self) -> AsyncGenerator[None]:
        # A loop that ends closes the asynchronous generators that were begun on it.
        try:
            yield
        finally:
            await self._close_all()

    async def _close_all(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for stack in list(self._stacks.values()):
            self._remove(stack)
        for connection in self._all:
            self._close(connection)
        self._slots.refuse(_CLOSED)
        for loading in self._loading.values():
            loading.cancel()
            self._tasks.add(loading)
        # Also what a loop that ends had cancelled in its closing.
        for connection in list(self._closing):
            await self._closed(connection)
        if self._tasks:
            await asyncio.wait(self._tasks)
