"""Where the body of a message ends (RFC 9112, section 6), refused where two readers may differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# In place of a length.
CHUNKED: Final = -1
ABSENT: Final = -2

_MOST_DIGITS: Final = 18


class AmbiguousFraming(ValueError):
    """The header lines of a message do not say beyond doubt where it ends."""


def message_framing(lengths: Sequence[bytes], codings: Sequence[bytes], version: str) -> int:
    """Return the length of the body, or `CHUNKED`, or `ABSENT` when neither field is there.

    `lengths` and `codings` are the values of all Content-Length and Transfer-Encoding fields,
    `version` that of HTTP. Raises `AmbiguousFraming`.

    >>> message_framing([b"5", b"5"], [], "1.1")
    5
    >>> message_framing([b"5"], [b"chunked"], "1.1")
    Traceback (most recent call last):
    ...
    backendpool_async.proxy.framing.AmbiguousFraming: Content-Length beside Transfer-Encoding
    """
    if not codings:
        return _length(lengths) if lengths else ABSENT
    if lengths:
        raise AmbiguousFraming("Content-Length beside Transfer-Encoding")
    if len(codings) > 1 or codings[0].lower() != b"chunked":
        raise AmbiguousFraming("a Transfer-Encoding other than 'chunked'")
    if version == "1.0":
        raise AmbiguousFraming("Transfer-Encoding in HTTP/1.0")
    return CHUNKED


def _length(lengths: Sequence[bytes]) -> int:
    length = lengths[0]
    if any(other != length for other in lengths):
        raise AmbiguousFraming("several different Content-Lengths")
    # `isdigit` of bytes knows ASCII only.
    if not length.isdigit() or len(length) > _MOST_DIGITS:
        raise AmbiguousFraming("a malformed Content-Length")
    return int(length)
