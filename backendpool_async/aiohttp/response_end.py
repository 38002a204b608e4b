"""The end of a lease with the end of its response."""

from __future__ import annotations

import asyncio
import sys
import traceback
from functools import partial
from typing import Final

from aiohttp import ClientConnectionError, ClientRequest, ClientResponse, StreamReader
from aiohttp.client_proto import ResponseHandler

from backendpool_async.balance.lease import Lease

_SWITCHING_PROTOCOLS: Final = 101
_WRITE_BYTES: Final = ClientRequest.write_bytes.__code__


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
    if _is_of_body(error) or (error.__cause__ is not None and _is_of_body(error.__cause__)):
        error = asyncio.CancelledError()
    lease.release(error)


def _is_of_body(error: BaseException) -> bool:
    # aiohttp has the same errors for a body that raised them and for a connection that did not take
    # it: what they went through tells. The first of aiohttp's writer or of what is not aiohttp.
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    if all(frame.f_code is not _WRITE_BYTES for frame in frames):
        return False
    for frame in frames:
        module = frame.f_globals.get("__name__", "")
        if module == "aiohttp.http_writer":
            return False
        if not module.startswith("aiohttp."):
            return True
    return True


def _release_with_response(
    lease: Lease, content: StreamReader, handled: BaseException | None
) -> None:
    error = content.exception()
    if error is None:
        # Not at its end: it was dropped with its session, and the collector came for it.
        lease.release(None if content.is_eof() else asyncio.CancelledError())
    elif type(error) is ClientConnectionError:
        # aiohttp's mark of a response that is closed before its end. An exception under way is the
        # reason, unless it is an earlier one that the caller was handling all the time.
        reason = sys.exception()
        lease.release(None if reason is handled else reason)
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
