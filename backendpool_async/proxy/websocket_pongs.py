"""Answers to pings of a peer that may not read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

_PONG: Final = b"\x8a"


class Pongs:
    """Writes frames, but keeps pongs back while writing is paused: all but the latest are dropped.

    RFC 6455, section 5.5.3, allows that; a peer that sends pings and does not read would else have
    this side keep a pong for each. `write` takes bytes, and never waits.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._is_paused = False
        self._latest = b""

    def answer(self, frames: Iterable[bytes]) -> None:
        """Write what is to be said of what came: whole frames, and maybe an empty one."""
        if self._is_paused:
            frames = [frame for frame in frames if not self._keeps(frame)]
        data = b"".join(frames)
        if data:
            self._write(data)

    def pause_writing(self) -> None:
        """There is no more room."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._is_paused = False
        latest, self._latest = self._latest, b""
        if latest:
            self._write(latest)

    def _keeps(self, frame: bytes) -> bool:
        if frame[:1] != _PONG:
            return False
        self._latest = frame
        return True
