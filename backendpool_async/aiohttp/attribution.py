"""Whose an error is that aiohttp raised: told by what it went through."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Final

from aiohttp import BaseConnector, ClientRequest

_WRITE_BYTES: Final = ClientRequest.write_bytes.__code__
_WAIT_IN_LINE: Final = BaseConnector._wait_for_available_connection.__code__


def is_of_body(error: BaseException) -> bool:
    """Whether the request's own body raised it, directly or as the cause of aiohttp's error."""
    return _was_raised_by_body(error) or (
        error.__cause__ is not None and _was_raised_by_body(error.__cause__)
    )


def is_of_line(error: BaseException) -> bool:
    """Whether it ended the wait for one of the connections that the connector may have."""
    cause: BaseException | None = error
    while cause is not None:
        if any(frame.f_code is _WAIT_IN_LINE for frame in _frames(cause)):
            return True
        cause = cause.__cause__
    return False


def _was_raised_by_body(error: BaseException) -> bool:
    # aiohttp has the same errors for a body that raised them and for a connection that did not take
    # it. The first of aiohttp's writer or of what is not aiohttp.
    frames = _frames(error)
    if all(frame.f_code is not _WRITE_BYTES for frame in frames):
        return False
    for frame in frames:
        module = frame.f_globals.get("__name__", "")
        if module == "aiohttp.http_writer":
            return False
        if not module.startswith("aiohttp."):
            return True
    return True


def _frames(error: BaseException) -> Iterator[FrameType]:
    return (frame for frame, _ in traceback.walk_tb(error.__traceback__))
