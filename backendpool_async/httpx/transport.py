"""BackendTransport: httpx and httpx2 over the live list."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Final, overload

from backendpool_async.backend import Backend
from backendpool_async.balance.balancer import Balancer
from backendpool_async.balance.lease import Lease
from backendpool_async.errors import NoBackends, counted
from backendpool_async.httpx.connection import Connection, Place
from backendpool_async.httpx.connections import Connections
from backendpool_async.httpx.exchange import BodyError, OutgoingRequest, ResponseBody
from backendpool_async.httpx.flavour import FLAVOURS, AsyncBaseTransport, Flavour
from backendpool_async.httpx.settings import Settings, SocketOption
from backendpool_async.keywords import statuses
from backendpool_async.retries import (
    FAILURE_STATUSES,
    IDEMPOTENT_METHODS,
    Attempts,
    Retries,
    checked_retries,
)

if TYPE_CHECKING:
    import httpcore
    import httpx
    import httpx2

_MAX_AGE: Final = 300.0


class BackendTransport(AsyncBaseTransport):
    """Sends each request of an httpx or httpx2 client to a backend of its own choosing.

    With ``AsyncClient(mounts={"http://api": ...})`` it gets what is for ``api``, and a redirect to
    another host goes to that host. With ``AsyncClient(transport=...)`` it gets every request: one
    for another host, as after a redirect with ``follow_redirects=True``, goes to a backend of this
    list as well, with that host in Host. One transport may serve clients of both libraries. What
    these have of `limits`, `verify`, `trust_env`, `http1` and `http2` they ignore for it.

    The URL's host stays what the caller says in Host, cookies, redirects and TLS: only the address
    is the backend's, which ``response.extensions["backend"]`` tells. A backend counts as in use
    until the response is closed, and is chosen when there is a connection to have: waiting for one
    is no use of it. The balancer is started and closed by whoever made it; closing the client
    closes the connections.

    * `retries`: when a request is tried again on another backend; by default when no connection
      came about, or the server went away from it before any request (HTTP/2). Only a body of bytes
      can be sent once more, a stream that was begun never. A retry does not wait for a connection:
      without one the error, or the answer, stays what it was.
    * `key`: a callable of the request; requests of the same key (a str) go to the same backend with
      a policy that hashes. None: no key.
    * `failure_statuses`: answers with these are failures of the backend, and are returned.
    * `verify`: an `ssl.SSLContext`; True: what the library trusts by itself; False: anybody.
    * `trust_env`: whether SSL_CERT_FILE and SSL_CERT_DIR say what is trusted.
    * `http1`, `http2`: what is spoken; HTTP/2 needs h2, and TLS or ``http1=False``. A request that
      is cancelled retires the connection that it shares: the others on it go on, new ones get
      another. While all connections are in use, those are chosen among that can be shared.
    * `limits`: the library's ``Limits``, over all backends and for each event loop; None: at most
      100 connections, of which any number may be idle, for 4 seconds.
    * `max_age`: seconds for which a connection takes new requests, at most a tenth less; None: any.
    * `local_address`, `socket_options`: as ``httpx.AsyncHTTPTransport`` has them.

    It raises what the library raises: ``ConnectError``, ``ReadTimeout`` and so on, ``PoolTimeout``
    for want of a free connection; without a backend to choose, a `NoBackends` that is a
    ``ConnectError`` as well. Runs on asyncio, also under anyio, not on trio. Raises TypeError or
    ValueError for a keyword out of range, ImportError for HTTP/2 without h2.

    >>> import httpx
    >>> from backendpool_async import BackendPool, Balancer
    >>> async def main() -> None:
    ...     async with Balancer(BackendPool.static(["127.0.0.1:1"])) as balancer:
    ...         transport = BackendTransport(balancer)
    ...         async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
    ...             try:
    ...                 await client.get("/users")
    ...             except httpx.ConnectError as error:
    ...                 print(error.request.url, error)
    >>> asyncio.run(main())
    http://api/users All connection attempts failed
    """

    def __init__(
        self,
        balancer: Balancer,
        *,
        retries: Retries | None = None,
        key: Callable[[Any], str | None] | None = None,  # of either library's Request
        failure_statuses: Collection[int] = FAILURE_STATUSES,
        verify: ssl.SSLContext | bool = True,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits | httpx2.Limits | None = None,
        max_age: float | None = _MAX_AGE,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> None:
        if not isinstance(balancer, Balancer):
            raise TypeError(f"a transport is for a backendpool_async.Balancer, not {balancer!r}")
        if key is not None and not callable(key):
            raise TypeError(f"key={key!r} is no callable of a request")
        self._balancer = balancer
        self._retries = checked_retries(retries)
        self._key = key
        self._failure_statuses = statuses("failure_statuses", failure_statuses)
        self._settings = Settings(
            verify=verify,
            trust_env=trust_env,
            http1=http1,
            http2=http2,
            limits=limits,
            max_age=max_age,
            local_address=local_address,
            socket_options=socket_options,
        )
        self._connections: dict[asyncio.AbstractEventLoop, Connections] = {}

    @overload
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response: ...
    @overload
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response: ...
    async def handle_async_request(self, request: Any) -> Any:  # as the overloads say
        """Send one request, and return the response when its head is there."""
        flavour = _flavour_of(request)
        try:
            return await self._answered(OutgoingRequest(request, flavour))
        except BodyError as carried:
            own = carried.error
        except Exception as error:
            told = flavour.translated(error, request)
            if told is error:
                raise
            raise told from error
        raise own

    async def aclose(self) -> None:
        """Close all connections of this event loop, in use or not.

        Requests that wait for one get a RuntimeError. The transport may be used again.
        """
        connections = self._connections.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            await connections.aclose()

    def __repr__(self) -> str:
        used = list(self._connections.values())
        idle = sum(each.idle for each in used)
        active = sum(each.open for each in used) - idle
        waiting = sum(each.waiting for each in used)
        pool = self._balancer.pool
        return (
            f"<{type(self).__name__} {pool._name}: {counted(len(pool.backends()))},"
            f" connections: {idle} idle, {active} active"
            f"{f', {waiting} waited for' if waiting else ''}>"
        )

    async def _answered(self, outgoing: OutgoingRequest) -> httpx.Response:
        connections = self._connections.get(asyncio.get_running_loop()) or await self._begun()
        if outgoing.kind.server_name is not None:
            await connections.load_context(outgoing.flavour)
        request = outgoing.request
        key = None if self._key is None else self._key(request)
        attempts = Attempts(
            self._balancer,
            self._retries,
            key,
            can_repeat=outgoing.is_replayable and request.method in IDEMPOTENT_METHODS,
        )
        try:
            if connections.take_slot_now():
                outgoing.has_slot = True
                lease = attempts.first()
            else:
                lease = await self._first_in_line(outgoing, connections, attempts, key)
            while True:
                generation = self._balancer._view.snapshot.generation
                try:
                    answer, connection = await outgoing.send(connections, lease.backend, generation)
                except BaseException as error:
                    told = outgoing.flavour.translated(error, request)
                    lease.release(connections.fault(told))
                    another = None
                    # A cancellation is never tried again, whatever the classifier makes of it.
                    if isinstance(error, Exception) and outgoing.can_be_sent():
                        another = attempts.after_error(told)
                    if another is None or not _is_made(another, attempts, outgoing, connections):
                        raise
                    lease = another
                    continue
                if outgoing.is_taken_over_by(answer.status):
                    lease.answered()
                body = ResponseBody(answer.stream, outgoing, connections, connection, lease)
                try:
                    another = self._after_answer(answer.status, lease, attempts)
                    if another is None or not _is_made(
                        another, attempts, outgoing, connections, connection
                    ):
                        return _response(answer, body, lease, outgoing)
                except BaseException:
                    await body.aclose()
                    raise
                await _closed(body, another, attempts)
                lease = another
        finally:
            outgoing.give_up(connections)

    async def _first_in_line(
        self,
        outgoing: OutgoingRequest,
        connections: Connections,
        attempts: Attempts,
        key: str | None,
    ) -> Lease:
        def joined() -> Lease | None:
            """Choose among the backends with a connection that one request more may share."""
            backends = connections.backends_with_room(outgoing.kind)
            if not backends:
                return None
            others = self._all_but(backends)
            while True:
                try:
                    lease = self._balancer.lease(key, others).acquire()
                except NoBackends:
                    return None
                outgoing.joined = connections.join(Place(outgoing.kind, lease.backend))
                if outgoing.joined is not None:
                    return lease
                # The list came to differ just now, in another thread.
                lease._undo()
                others.add(lease.backend)

        lease = await connections.take_slot(outgoing.kind, outgoing.timeouts.get("pool"), joined)
        if lease is None:
            outgoing.has_slot = True
            return attempts.first()
        self._retries.budget.deposit()
        attempts.begun(lease)
        return lease

    def _all_but(self, backends: set[Backend]) -> set[Backend]:
        pool, view = self._balancer.pool, self._balancer._view
        others = set(pool.backends())
        if view.snapshot.generation != pool.snapshot.generation:
            # While a view is being built, the one before is chosen from.
            others.update(each.backend for each in view.listed)
        return others - backends

    def _after_answer(self, status: int, lease: Lease, attempts: Attempts) -> Lease | None:
        if status in self._failure_statuses:
            lease.failed(str(status))
        return attempts.after_status(status)

    async def _begun(self) -> Connections:
        loop = asyncio.get_running_loop()
        for each in list(self._connections):
            if each.is_closed():
                # Nothing of a loop that was closed under its connections can be used or awaited.
                self._connections.pop(each, None)
        connections = self._connections[loop] = Connections(self._balancer, self._settings)
        await connections.start()
        return connections


def _is_made(
    another: Lease,
    attempts: Attempts,
    outgoing: OutgoingRequest,
    connections: Connections,
    used: Connection | None = None,
) -> bool:
    # A try that had to wait in line again would hide what the last one came to if that is in vain.
    if outgoing.hold_for(another.backend, connections, used):
        return True
    attempts.undo(another)
    return False


async def _closed(refused: ResponseBody, another: Lease, attempts: Attempts) -> None:
    try:
        # Whatever the network makes of it: the answer is not taken anyway.
        with contextlib.suppress(Exception):
            await refused.aclose()
    except BaseException:
        attempts.undo(another)
        raise


def _response(
    answer: httpcore.Response, body: ResponseBody, lease: Lease, outgoing: OutgoingRequest
) -> httpx.Response:
    answer.extensions["backend"] = lease.backend
    return outgoing.flavour.response(
        answer.status, headers=answer.headers, stream=body, extensions=answer.extensions
    )


def _flavour_of(request: object) -> Flavour:
    for flavour in FLAVOURS:
        if isinstance(request, flavour.request):
            return flavour
    raise TypeError(f"{request!r} is no request of httpx or httpx2")
