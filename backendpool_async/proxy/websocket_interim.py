"""Answers that come before the answer to a handshake."""

from __future__ import annotations

import re
from typing import Final

_MOST: Final = 32
_INTERIM: Final = re.compile(rb"HTTP/1\.1 1(?!01)[0-9]{2} ")
_ENOUGH: Final = len(b"HTTP/1.1 103 ")
_END: Final = b"\r\n\r\n"


class EndlessInterim(ConnectionError):
    """Interim answers without end, or one that is too long."""


class InterimAnswers:
    """Takes interim answers (1xx, but for 101) off the front of what a backend sends.

    `longest`: bytes that one of them may have.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._held = bytearray()
        self._left = _MOST
        self._are_over = False

    def without(self, data: bytes) -> bytes:
        """Return what is none of them, as far as can be told yet; raise `EndlessInterim`."""
        if self._are_over:
            return data
        held = self._held
        held += data
        while _INTERIM.match(held):
            end = held.find(_END)
            if end < 0 and len(held) <= self._longest:
                return b""
            if end < 0 or not self._left:
                raise EndlessInterim("interim answers without end")
            self._left -= 1
            del held[: end + len(_END)]
        if len(held) < _ENOUGH and b"\n" not in held:
            return b""
        self._are_over = True
        return bytes(held)
