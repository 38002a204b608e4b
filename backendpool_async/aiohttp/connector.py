"""Connections to the backends of pools, for aiohttp's client."""

from __future__ import annotations

import asyncio
import math
import random
import socket
import ssl
import weakref
from collections.abc import Collection, Coroutine
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final, TypedDict, Unpack, cast

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from backendpool_async.aiohttp.backend_protocol import BackendProtocol
from backendpool_async.backend import Backend
from backendpool_async.balance.balancer import Balancer
from backendpool_async.keywords import seconds
from backendpool_async.pool import BackendPool

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey

# A request may have chosen a backend so long before a connection to it is made.
_REMEMBERED: Final = 600.0
_MOMENT: Final = 0.01


class ConnectorOptions(TypedDict, total=False):
    """What `BackendConnector` passes on to ``aiohttp.TCPConnector``."""

    ssl: bool | aiohttp.Fingerprint | ssl.SSLContext
    limit: int
    limit_per_host: int
    keepalive_timeout: float | None
    force_close: bool
    family: socket.AddressFamily
    local_addr: tuple[str, int] | None
    resolver: AbstractResolver | None
    use_dns_cache: bool
    ttl_dns_cache: int | None
    dns_cache_max_size: int
    happy_eyeballs_delay: float | None
    interleave: int | None
    socket_factory: aiohttp.SocketFactoryType | None
    enable_cleanup_closed: bool
    timeout_ceil_threshold: float


class NoLongerListed(aiohttp.ClientConnectionError):
    """The backend left the list before there was a connection for the request; nothing was sent."""


class BackendConnector(aiohttp.TCPConnector):
    """A connector whose connections go with their backends, and grow no older than `max_age`.

    When a backend leaves the list, its idle connections are closed at once and those in use after
    their response; WebSockets stay open. A connection older than `max_age` seconds (up to a fifth
    less, at random, so that not all end at once) is closed as well, when it is idle. One that the
    server closed while it was idle is not used again, and one that was verified for a TLS name is
    used for that name only. A backend that is an IP address is never looked up.

    A request that waits for one of `limit` connections was sent to its backend before; if that
    has left the list when its turn comes, `backend_middleware` chooses another one.

    It is for the pools of all balancers (or pools) that are given; connections to other hosts have
    the maximal age only. Like every connector of aiohttp it belongs to the running event loop, and
    the session that uses it closes it. The `options` are those of ``aiohttp.TCPConnector``.

    Raises TypeError or ValueError for an argument of the wrong kind, RuntimeError without a running
    event loop.

    >>> import aiohttp, asyncio
    >>> from backendpool_async import BackendPool, Balancer
    >>> from backendpool_async.aiohttp import BackendConnector
    >>> async def main() -> None:
    ...     balancer = Balancer(BackendPool.static(["10.0.0.1:8080"]))
    ...     async with aiohttp.ClientSession(connector=BackendConnector(balancer, limit=1000)):
    ...         pass
    >>> asyncio.run(main())
    """

    def __init__(
        self,
        *balancers: Balancer | BackendPool,
        max_age: float = 300.0,
        **options: Unpack[ConnectorOptions],
    ) -> None:
        pools = [each.pool if isinstance(each, Balancer) else each for each in balancers]
        if not pools or not all(isinstance(pool, BackendPool) for pool in pools):
            raise TypeError(
                "a connector is for one or more backendpool_async.Balancer or BackendPool,"
                f" not {balancers!r}"
            )
        self._max_age = seconds("max_age", max_age)
        super().__init__(**options)
        self._pools = pools
        self._listed: frozenset[str] = self._list_now()
        self._removed: dict[str, float] = {}
        self._told: weakref.WeakSet[aiohttp.ClientRequest] = weakref.WeakSet()
        self._is_to_follow = False
        # For which aiohttp has no other way.
        make = partial(BackendProtocol, self._loop)
        self._factory = make  # type: ignore[assignment]  # what it makes is invariant to mypy
        self._known: weakref.WeakSet[BackendProtocol] = weakref.WeakSet()
        self._age_timer: asyncio.TimerHandle | None = None
        self._stop_following = [pool._tell(self, BackendConnector._list_changed) for pool in pools]

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close all connections."""
        for stop in self._stop_following:
            stop()
        if self._age_timer is not None:
            self._age_timer.cancel()
        await super().close(abort_ssl=abort_ssl)

    def _get(
        self, key: ConnectionKey, traces: list[Trace]
    ) -> Coroutine[None, None, Connection | None]:
        # Not documented for subclasses, so tests pin it: it takes the first that is open and young
        # enough. No coroutine of its own, because every request comes through here.
        keepalive = self._keepalive_timeout
        # And a moment more: aiohttp looks at the clock once more.
        oldest = -math.inf if keepalive is None else monotonic() - keepalive + _MOMENT
        for kept, since in self._conns.get(key, ()):
            if since >= oldest and kept.is_quiet():  # type: ignore[attr-defined]  # _factory's
                break
            kept.close()
        return super()._get(key, traces)

    def _release(
        self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False
    ) -> None:
        # Not documented either. What comes from now on, nobody has asked for.
        cast(BackendProtocol, protocol).received = 0
        super()._release(key, protocol, should_close=should_close)

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        # One of the connector's methods that aiohttp documents for subclasses.
        address = _address(req)
        if address in self._removed and _is_chosen(req) and req not in self._told:
            # Once: there may be no other, or a balancer that has not followed yet.
            self._told.add(req)
            raise NoLongerListed(f"{address} has left the list")
        made = await super()._create_connection(req, traces, timeout)
        protocol = cast(BackendProtocol, made)
        expires_at = self._loop.time() + self._max_age * random.uniform(0.8, 1.0)
        protocol.address, protocol.expires_at = address, expires_at
        self._known.add(protocol)
        if address in self._removed:
            protocol.force_close()
        if self._age_timer is None:
            self._set_age_timer(expires_at)
        return protocol

    def _list_changed(self) -> None:
        # From any thread, and once for changes that follow each other at once: a long list takes
        # some milliseconds.
        if not self._is_to_follow:
            self._is_to_follow = True
            # Nothing is to be closed on a loop that was closed.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._follow_lists)

    def _follow_lists(self) -> None:
        self._is_to_follow = False
        before, self._listed = self._listed, self._list_now()
        now = self._loop.time()
        self._removed = {
            address: at
            for address, at in self._removed.items()
            if address not in self._listed and at > now - _REMEMBERED
        }
        gone = before - self._listed
        self._removed.update(dict.fromkeys(gone, now))
        self._retire([each for each in self._known if each.address in gone])

    def _end_old_age(self) -> None:
        self._age_timer = None
        now = self._loop.time()
        old = [each for each in self._known if each.expires_at <= now]
        self._retire(old)
        self._known.difference_update(old)
        if self._known:
            first = min(each.expires_at for each in self._known)
            # Many connections that were made one after another do not wake the loop for each.
            self._set_age_timer(max(first, now + self._max_age / 100))

    def _retire(self, protocols: Collection[ResponseHandler]) -> None:
        """Close those that are idle, and let the others be closed after their response."""
        if not protocols:
            return
        idle = {protocol for connections in self._conns.values() for protocol, _ in connections}
        for protocol in protocols:
            protocol.force_close()
            if protocol in idle:
                # The connector finds that out when it looks for one to use.
                protocol.close()

    def _set_age_timer(self, at: float) -> None:
        reference = weakref.ref(self)

        def end_old_age() -> None:
            if (alive := reference()) is not None:
                alive._end_old_age()

        self._age_timer = self._loop.call_at(at, end_old_age)

    def _list_now(self) -> frozenset[str]:
        return frozenset().union(*(pool.backends() for pool in self._pools))


def _is_chosen(request: aiohttp.ClientRequest) -> bool:
    """Whether a middleware, and not the caller, says where it goes."""
    return request.url.authority != request.original_url.authority


def _address(request: aiohttp.ClientRequest) -> str:
    host, port = request.url.raw_host or "", request.url.port
    # yarl writes an IPv4-mapped address in a way of its own.
    return Backend.parse(f"[{host}]:{port}") if ":" in host else f"{host}:{port}"
