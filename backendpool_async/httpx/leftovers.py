"""Bytes that came behind the end of an answer."""

from __future__ import annotations

import ssl
from collections.abc import Sized
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpcore


def has_leftovers(http: httpcore.AsyncHTTPConnection) -> bool:
    """Return whether an idle HTTP/1.1 connection has received more than its answers.

    The next request would take that for its own answer. None of it shows on the socket, and the
    network libraries tell of it nowhere: what is looked at here is theirs alone.
    """
    # Any: neither library types these, and they may be named otherwise one day.
    connection: Any = getattr(http, "_connection", None)
    parser = getattr(connection, "_h11_state", None)
    if parser is not None and parser.trailing_data[0]:
        return True
    stream = getattr(connection, "_network_stream", None)
    encrypted = None if stream is None else stream.get_extra_info("ssl_object")
    return encrypted is not None and _says_more(encrypted)


def received_by(stream: httpcore.AsyncNetworkStream) -> Sized:
    """Return what a TCP stream holds back, now and later, of what came at once."""
    protocol = getattr(getattr(stream, "_stream", None), "_protocol", None)
    received: Sized = getattr(protocol, "read_queue", ())
    return received


def _says_more(encrypted: ssl.SSLObject) -> bool:
    try:
        # Whole records may wait undeciphered, which `pending` does not count.
        encrypted.read(1)
    except ssl.SSLError as error:
        return not isinstance(error, ssl.SSLWantReadError)
    return True
