"""The requests of an aiohttp session, sent to chosen backends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextvars import ContextVar
from copy import copy
from functools import lru_cache, partial
from typing import Final, NamedTuple

from aiohttp import (
    ClientConnectionError,
    ClientConnectorError,
    ClientHandlerType,
    ClientMiddlewareType,
    ClientOSError,
    ClientRequest,
    ClientResponse,
    ClientResponseError,
    ServerDisconnectedError,
    payload,
)
from yarl import URL

from backendpool_async.aiohttp.response_end import release_at_end
from backendpool_async.backend import Backend
from backendpool_async.balance.balancer import Balancer
from backendpool_async.balance.lease import Lease
from backendpool_async.errors import NoBackends
from backendpool_async.retries import FAILURE_STATUSES, IDEMPOTENT_METHODS, Attempts, Retries

Key = Callable[[ClientRequest], str | None]
_TLS_SCHEMES: Final = frozenset({"https", "wss"})


class ClientNoBackends(NoBackends, ClientConnectionError):
    """`NoBackends` that is also what callers of aiohttp catch; it is no backend's failure."""


def backend_middleware(
    balancer: Balancer,
    *,
    host: str = "api",
    retries: Retries | None = None,
    key: Key | None = None,
    failure_statuses: Collection[int] = FAILURE_STATUSES,
) -> ClientMiddlewareType:
    """Return a middleware that sends the requests for `host` to backends of a balancer.

    For ``aiohttp.ClientSession(middlewares=[...])``: one for each logical host. Requests for other
    hosts pass untouched. ``Host``, cookies, redirects, ``response.url`` and the name that TLS
    verifies stay those of the logical host; ``response.request_info.url`` names the backend. The
    lease of a backend lasts until the response is read to its end, released or closed, and
    that of a WebSocket as long as the socket.

    * `retries`: when a request is tried again on another backend; None: `Retries()`.
      aiohttp itself sends an idempotent request once more when the connection breaks off: that,
      too, goes to another backend, is one of the `attempts`, needs the budget's leave and a body
      in memory. It does not happen where ``attempts=1``.
    * `key`: called with each request, for a policy that hashes; None for a request without a key.
    * `failure_statuses`: answers with one of these are failures of the backend.

    A request raises `NoBackends` when there is none to choose, as a subclass that is an
    ``aiohttp.ClientConnectionError`` as well. Use a `BackendConnector` beside it: with a plain
    connector, connections to a removed backend stay open until aiohttp finds them idle for too
    long, and have no maximal age.

    Raises TypeError or ValueError for an argument of the wrong kind.

    >>> import aiohttp, asyncio
    >>> from backendpool_async import BackendPool, Balancer
    >>> from backendpool_async.aiohttp import BackendConnector, backend_middleware
    >>> async def main() -> None:
    ...     async with Balancer(BackendPool.static([])) as balancer:
    ...         async with aiohttp.ClientSession(
    ...             connector=BackendConnector(balancer), middlewares=[backend_middleware(balancer)]
    ...         ) as session:
    ...             try:
    ...                 await session.get("http://api/users?page=2")
    ...             except aiohttp.ClientError as error:
    ...                 print(error)
    >>> asyncio.run(main())
    static: there is no backend to choose
    """
    if not isinstance(balancer, Balancer):
        raise TypeError(f"a middleware is for a backendpool_async.Balancer, not {balancer!r}")
    if retries is not None and not isinstance(retries, Retries):
        raise TypeError(f"retries={retries!r} is no backendpool_async.retries.Retries")
    if key is not None and not callable(key):
        raise TypeError(f"key={key!r} is no callable of a request")
    statuses = frozenset(failure_statuses)
    if not all(isinstance(status, int) for status in statuses):
        raise TypeError(f"failure_statuses={failure_statuses!r} are no numbers")
    return _Sender(balancer, _name(host), retries or Retries(), key, statuses).send


class _Sender:
    __slots__ = ("_balancer", "_deposit", "_host", "_key", "_retries", "_statuses")

    def __init__(
        self,
        balancer: Balancer,
        host: str,
        retries: Retries,
        key: Key | None,
        statuses: frozenset[int],
    ) -> None:
        self._balancer = balancer
        self._host = host
        self._retries = retries
        self._deposit = retries.budget.deposit
        self._key = key
        self._statuses = statuses

    def send(self, request: ClientRequest, handler: ClientHandlerType) -> Awaitable[ClientResponse]:
        # Not `url`, which the middleware of another host may have changed: a backend of that one
        # can be called as this host is.
        if request.original_url.raw_host != self._host:
            return handler(request)
        return self._send(request, handler)

    async def _send(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        # What only a second try needs is made when there is one.
        attempts, lease = None, None
        if _broken_off.get() is not None:
            attempts, lease = _resumed(request)
        if lease is None:
            lease = self._first(request)
        logical, server_hostname = request.url, request.server_hostname
        if server_hostname is None and logical.scheme in _TLS_SCHEMES:
            request.server_hostname = logical.raw_host
        send = handler
        try:
            while True:
                try:
                    request.url = _at_backend(logical, lease.backend)
                    response = await send(request)
                except BaseException as error:
                    attempts = attempts or self._attempts(request, lease)
                    following = _after_error(attempts, lease, request, error)
                    if following is None:
                        raise
                else:
                    if response.status not in self._statuses:
                        release_at_end(lease, response)
                        return response
                    attempts = attempts or self._attempts(request, lease)
                    following = _after_failure_status(attempts, lease, response)
                    if following is None:
                        return response
                lease, send = following, partial(_send_again, handler)
        finally:
            request.url = logical
            request.server_hostname = server_hostname

    def _first(self, request: ClientRequest) -> Lease:
        self._deposit()
        key = None if self._key is None else self._key(request)
        try:
            return Lease(self._balancer, key, ()).acquire()
        except NoBackends as error:
            raise ClientNoBackends(*error.args) from None

    def _attempts(self, request: ClientRequest, lease: Lease) -> Attempts:
        # A file has a position, an iterator an end: only what is in memory is as it was. An empty
        # body is b"".
        can_repeat = request.method in IDEMPOTENT_METHODS and isinstance(
            request.body, (bytes, payload.BytesPayload)
        )
        return Attempts(self._balancer, self._retries, lease._key, can_repeat=can_repeat).begun(
            lease
        )


# What is asked for again and again is built once, as yarl has it with the text of a URL.
@lru_cache(maxsize=1024)
def _at_backend(logical: URL, backend: Backend) -> URL:
    return URL.build(
        scheme=logical.scheme,
        authority=backend,
        path=logical.raw_path,
        query_string=logical.raw_query_string,
        encoded=True,
    )


def _after_error(
    attempts: Attempts, lease: Lease, request: ClientRequest, error: BaseException
) -> Lease | None:
    if getattr(request._timer, "_cancelled", False):
        # The request's own limit: aiohttp makes an exception of that cancellation further out, and
        # would not wait for the answer of another try.
        lease.release(TimeoutError("the total timeout of the request"))
        return None
    cause = error
    if isinstance(error, ClientResponseError) and error.__cause__ is not None:
        # An answer that is no HTTP. One that is raised for its status has no cause.
        cause = error.__cause__
    lease.release(cause)
    following = attempts.after_error(cause)
    if (
        following is None
        and isinstance(error, (ClientOSError, ServerDisconnectedError))
        and not isinstance(error, ClientConnectorError)
    ):
        again = attempts if _can_repeat(request) else None
        _broken_off.set(_BrokenOff(request._timer, again, copy(error)))
    return following


def _can_repeat(request: ClientRequest) -> bool:
    # A file has a position, an iterator an end: only what is in memory is as it was. An empty body
    # is b"".
    return request.method in IDEMPOTENT_METHODS and isinstance(
        request.body, (bytes, payload.BytesPayload)
    )


def _after_failure_status(
    attempts: Attempts, lease: Lease, response: ClientResponse
) -> Lease | None:
    lease.failed(f"{response.status} {response.reason}")
    following = attempts.after_status(response.status)
    release_at_end(lease, response)
    if following is not None:
        response.release()
    return following


def _resumed(request: ClientRequest) -> tuple[Attempts, Lease] | tuple[None, None]:
    broken_off = _broken_off.get()
    _broken_off.set(None)
    if broken_off is None or broken_off.timer is not request._timer:
        return None, None
    attempts = broken_off.attempts
    lease = None if attempts is None else attempts.another()
    if attempts is None or lease is None:
        raise broken_off.error
    return attempts, lease


async def _send_again(handler: ClientHandlerType, request: ClientRequest) -> ClientResponse:
    # Two writers of one body would spoil it.
    await request.close()
    if request._continue is not None:
        request.update_expect_continue()
    return await handler(request)


class _BrokenOff(NamedTuple):
    """A request that aiohttp itself may send once more: it has the same timer then.

    `attempts`: None where that would not do.
    """

    timer: object
    attempts: Attempts | None
    # Without its traceback, which would keep the request's frames.
    error: ClientConnectionError


# aiohttp calls its middlewares anew for its own second try, in the same task as before.
_broken_off: ContextVar[_BrokenOff | None] = ContextVar("_broken_off", default=None)


def _name(host: str) -> str:
    if not isinstance(host, str):
        raise TypeError(f"host={host!r} is no string")
    try:
        name = URL.build(scheme="http", host=host).raw_host
    except ValueError as error:
        raise ValueError(f"host={host!r} is no name of a host: {error}") from None
    if not name:
        raise ValueError(f"host={host!r} is no name of a host")
    return name
