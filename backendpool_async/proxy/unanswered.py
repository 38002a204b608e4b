"""What a client is answered when no backend has answered."""

from __future__ import annotations

import aiohttp
from aiohttp.http import HttpProcessingError

from backendpool_async.proxy.guard import OutsideNetworks
from backendpool_async.proxy.refusal import Refusal


def nobody_to_ask(retry_after: int) -> Refusal:
    """Return the answer when there is no backend that may be asked."""
    return Refusal(503, "there is no backend", retry_after=retry_after)


def closing(retry_after: int) -> Refusal:
    """Return the answer of a proxy that is closed under a request."""
    return Refusal(503, "the proxy is closing", retry_after=retry_after)


def unanswered(error: BaseException, retry_after: int) -> Refusal:
    """Return the answer for what asking the last backend has raised.

    >>> str(unanswered(ConnectionResetError(), 1))
    '502 bad gateway: the backend broke off'
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OutsideNetworks):
            return nobody_to_ask(retry_after)
        cause = cause.__cause__
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Refusal(504, "no connection to the backend in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Refusal(502, "no connection to the backend")
    if isinstance(error, (HttpProcessingError, aiohttp.ClientPayloadError)):
        return Refusal(502, "the backend's answer is malformed")
    if isinstance(error, TimeoutError):
        return Refusal(504, "the backend did not answer in time")
    return Refusal(502, "the backend broke off")
