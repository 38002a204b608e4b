"""The end of a lease with the end of its response."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Final

from aiohttp import ClientConnectionError, ClientResponse, StreamReader
from aiohttp.client_proto import ResponseHandler

from backendpool_async.aiohttp.attribution import is_of_body
from backendpool_async.balance.lease import Lease

_SWITCHING_PROTOCOLS: Final = 101


def release_at_end(lease: Lease, response: ClientResponse) -> None:
    """Release the lease when the response is read to its end, released or closed.

    After 101 (RFC 9110, section 15.2.2): when the connection is closed.
    """
    connection = response.connection
    if connection is None:
        # It came as a whole.
        lease.release()
        return
    protocol = connection.protocol
    if response.status == _SWITCHING_PROTOCOLS and protocol is not None:
        _release_with_socket(lease, protocol)
        return
    connection.add_callback(
        partial(_release_with_response, lease, response.content, sys.exception())
    )


def release_after_error(lease: Lease, error: BaseException) -> None:
    """Release the lease; what the request's own body raised says nothing of the backend."""
    lease.release(asyncio.CancelledError() if is_of_body(error) else error)


def _release_with_response(
    lease: Lease, content: StreamReader, handled: BaseException | None
) -> None:
    error = content.exception()
    if error is None:
        # Not at its end: it was dropped with its session, and the collector came for it.
        lease.release(None if content.is_eof() else asyncio.CancelledError())
    elif type(error) is ClientConnectionError:
        # aiohttp's mark of a response that is closed before its end: nothing broke off.
        raised = sys.exception()
        if raised is handled:
            lease.release()
        elif isinstance(raised, TimeoutError) and getattr(content._timer, "_cancelled", False):
            # The request's own limit, met in reading.
            lease.release(raised)
        else:
            # All else that the backend did would be told to the content.
            lease.release(asyncio.CancelledError())
    else:
        lease.release(error)


def _release_with_socket(lease: Lease, protocol: ResponseHandler) -> None:
    lease.answered()
    closed = protocol.closed
    if closed is None:
        lease.release()
        return
    # Not the response's end: aiohttp leaves that to the collector when the connection is lost.
    closed.add_done_callback(lambda done: lease.release(done.exception()))
