"""The requests of an aiohttp session, sent to chosen backends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextvars import ContextVar
from copy import copy
from functools import partial
from typing import Final, NamedTuple
from weakref import ReferenceType, ref

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

from backendpool_async.aiohttp.attribution import is_of_line
from backendpool_async.aiohttp.connector import NoLongerListed
from backendpool_async.aiohttp.response_end import release_after_error, release_at_end
from backendpool_async.backend import Backend
from backendpool_async.balance.balancer import Balancer
from backendpool_async.balance.lease import Lease
from backendpool_async.errors import NoBackends
from backendpool_async.keywords import statuses
from backendpool_async.retries import (
    FAILURE_STATUSES,
    IDEMPOTENT_METHODS,
    Attempts,
    Retries,
    checked_retries,
)

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

    * `retries`: when a request is tried again on another backend; None: `Retries()`. By itself,
      aiohttp sends an idempotent request once more when the connection breaks off; here it does
      not, unless ``Retries(idempotent=True)`` says so.
    * `key`: called with each request, for a policy that hashes; None for a request without a key.
    * `failure_statuses`: answers with one of these are failures of the backend.

    Put it last, innermost: a middleware after it sees the backend's URL for the logical one, so
    ``DigestAuthMiddleware``, for one, is refused there as often as the backend changes. When a
    middleware before it calls its handler again, that is a new request, which chooses anew.

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
    if key is not None and not callable(key):
        raise TypeError(f"key={key!r} is no callable of a request")
    failures = statuses("failure_statuses", failure_statuses)
    return _Sender(balancer, _name(host), checked_retries(retries), key, failures).send


class _Sender:
    __slots__ = (
        "_balancer",
        "_deposit",
        "_failure_statuses",
        "_host",
        "_key",
        "_looked_into",
        "_retries",
    )

    def __init__(
        self,
        balancer: Balancer,
        host: str,
        retries: Retries,
        key: Key | None,
        failure_statuses: frozenset[int],
    ) -> None:
        self._balancer = balancer
        self._host = host
        self._retries = retries
        self._deposit = retries.budget.deposit
        self._key = key
        self._failure_statuses = failure_statuses
        self._looked_into = failure_statuses.union(retries.statuses)

    def send(self, request: ClientRequest, handler: ClientHandlerType) -> Awaitable[ClientResponse]:
        # Not `url`, which the middleware of another host may have changed: a backend of that one
        # can be called as this host is.
        if request.original_url.raw_host != self._host:
            return handler(request)
        return self._send(request, handler)

    async def _send(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        if _broken_off.get() is not None:
            _end_second_try(request)
        # What only a second try needs is made when there is one.
        attempts, lease = None, self._first(request)
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
                    if response.status not in self._looked_into:
                        release_at_end(lease, response)
                        return response
                    attempts = attempts or self._attempts(request, lease)
                    following = self._after_status(attempts, lease, response)
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
        can_repeat = request.method in IDEMPOTENT_METHODS and _is_in_memory(request)
        return Attempts(self._balancer, self._retries, lease._key, can_repeat=can_repeat).begun(
            lease
        )

    def _after_status(
        self, attempts: Attempts, lease: Lease, response: ClientResponse
    ) -> Lease | None:
        if response.status in self._failure_statuses:
            lease.failed(f"{response.status} {response.reason}")
        following = attempts.after_status(response.status)
        release_at_end(lease, response)
        if following is not None:
            response.release()
        return following


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
    if isinstance(error, NoLongerListed):
        return attempts.instead(lease)
    if is_of_line(error):
        # There was no connection for it yet, and how long that took is nobody's doing.
        lease._undo()
        return None
    if getattr(request._timer, "_cancelled", False):
        # The request's own limit: aiohttp makes an exception of that cancellation further out, and
        # would not wait for the answer of another try.
        lease.release(TimeoutError("the total timeout of the request"))
        return None
    cause = error
    if isinstance(error, ClientResponseError) and error.__cause__ is not None:
        # An answer that is no HTTP. One that is raised for its status has no cause.
        cause = error.__cause__
    release_after_error(lease, cause)
    following = None
    # Whatever the balancer makes of it: a cancellation is one, and what was read of a body is gone.
    if isinstance(error, Exception) and (request.response is None or _is_in_memory(request)):
        following = attempts.after_error(cause)
    if (
        following is None
        and isinstance(error, (ClientOSError, ServerDisconnectedError))
        and not isinstance(error, ClientConnectorError)
    ):
        _broken_off.set(_BrokenOff(request._timer, ref(request), copy(error)))
    return following


def _is_in_memory(request: ClientRequest) -> bool:
    # A file has a position, an iterator an end: only what is in memory is as it was. An empty body
    # is b"".
    return isinstance(request.body, (bytes, payload.BytesPayload))


def _end_second_try(request: ClientRequest) -> None:
    """Raise the error of the first try if this is aiohttp's own second one."""
    broken_off = _broken_off.get()
    _broken_off.set(None)
    if (
        broken_off is not None
        and broken_off.timer is request._timer
        # A middleware that tries again has the same request still; aiohttp makes another one.
        and broken_off.request() is not request
    ):
        raise broken_off.error


async def _send_again(handler: ClientHandlerType, request: ClientRequest) -> ClientResponse:
    # Two writers of one body would spoil it.
    await request.close()
    if request._continue is not None:
        request.update_expect_continue()
    return await handler(request)


class _BrokenOff(NamedTuple):
    """A request that aiohttp itself may send once more: it has the same timer then."""

    timer: object
    # Weakly, and the error without its traceback, which would keep the request's frames.
    request: ReferenceType[ClientRequest]
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
