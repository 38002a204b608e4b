"""Why the proxy itself answers, and with what."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from backendpool_async.proxy.date import http_date

_METHODS: Final = b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
# After these it is not known where the next request begins, or not to be awaited.
_CLOSING: Final = frozenset({400, 408, 431})
_ABOUT_METHODS: Final = frozenset({HTTPStatus.OK, HTTPStatus.METHOD_NOT_ALLOWED})


class Refusal(Exception):
    """The proxy answers by itself: `status` and `text`, which the client sees.

    200 answers what a client asks of the proxy itself (OPTIONS).

    `text` names no address. `retry_after`: seconds after which to ask again; None: not said.

    >>> str(Refusal(502, "the backend broke off"))
    '502 bad gateway: the backend broke off'
    """

    def __init__(self, status: int, text: str, *, retry_after: int | None = None) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.status} {HTTPStatus(self.status).phrase.lower()}: {self.text}"

    def headers(
        self, body: bytes, version: str = "1.1", *, closes: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Return the header lines of the answer with this body, in that version of HTTP.

        `closes`: the connection is to end with it, whatever the status.
        """
        lines = [
            (b"date", http_date()),
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        if self.retry_after is not None:
            lines.append((b"retry-after", b"%d" % self.retry_after))
        if self.status in _ABOUT_METHODS:
            lines.append((b"allow", _METHODS))
        # HTTP/2 has no such line.
        if (closes or self.status in _CLOSING) and version[0] == "1":
            lines.append((b"connection", b"close"))
        return lines


class BrokenOff(ConnectionError):
    """An answer that had begun could not be brought to its end, so the client's is broken off.

    Raised out of the ASGI app, so that the server closes the connection: the client sees that the
    answer is not whole.
    """
