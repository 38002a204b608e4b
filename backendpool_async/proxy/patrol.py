"""What ends an exchange before its time: idleness, its age, a client that leaves."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
from typing import Final

from backendpool_async.proxy.refusal import Refusal
from backendpool_async.proxy.settings import ProxyLimits
from backendpool_async.proxy.taking import Taken, taken
from backendpool_async.proxy.upload import Message, Receive, Upload

# Most requests have their answer before that, and cost no task that waits for their client to
# leave.
_FIRST_LOOK: Final = 0.1
_NEXT_LOOK: Final = 1.0
# What a peer takes between two looks is seen at the second: several in the time for being idle.
_LOOKS: Final = 4


class Why(enum.Enum):
    """Why an exchange was ended."""

    IDLE = "nothing moved for too long"
    TOTAL = "it took too long"
    CLIENT_LEFT = "the client left"
    REFUSED = "its body was refused"


class Patrol:
    """Looks after one exchange: one timer, and a task only for what takes long.

    To end it, the body of ``async with patrol.limit`` is cancelled and TimeoutError is raised out
    of it; `why` says why, and `refusal` what is to be answered if that is `Why.REFUSED`.

    `to_client` and `to_backend`: the connections, None where they are not to be seen. What a peer
    takes of what was sent to it moves, however slow it is.
    """

    __slots__ = (
        "_ends_at",
        "_has_body",
        "_helpers",
        "_idle",
        "_is_over",
        "_is_watched",
        "_loop",
        "_moved_at",
        "_receive",
        "_seen",
        "_taken_at",
        "_timer",
        "_to_client",
        "_upload",
        "_uploading",
        "limit",
        "refusal",
        "to_backend",
        "why",
    )

    def __init__(
        self, limits: ProxyLimits, receive: Receive, to_client: asyncio.Transport | None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._to_client = to_client
        self.to_backend: asyncio.Transport | None = None
        # When the backend was last seen to have taken something.
        self._taken_at = -math.inf
        self._seen: dict[asyncio.Transport, Taken] = {}
        self._idle = limits.idle_timeout
        now = self._moved_at = self._loop.time()
        total = limits.total_timeout
        self._ends_at = math.inf if total is None else now + total
        self.limit: asyncio.Timeout = asyncio.timeout(None)
        self.why: Why = Why.IDLE
        self.refusal: Refusal | None = None
        self._is_over = False
        self._has_body = False
        self._upload: Upload | None = None
        self._uploading: asyncio.Task[None] | None = None
        self._is_watched = False
        self._helpers: list[asyncio.Task[None] | asyncio.Task[Message]] = []
        first = min(now + _FIRST_LOOK, now + self._idle, self._ends_at)
        self._timer = self._loop.call_at(first, self._look)

    def moved(self) -> None:
        """Something came or went."""
        self._moved_at = self._loop.time()

    def leave_messages(self, *, to_others: bool) -> None:
        """Whether the client's messages are, for now, another's to receive."""
        self._has_body = to_others

    def begin_upload(self, upload: Upload, uploading: asyncio.Task[None]) -> None:
        """Take charge of the task that sends the body."""
        self._upload, self._uploading = upload, uploading
        self._helpers.append(uploading)
        uploading.add_done_callback(self._upload_ended)

    def stop_upload(self) -> None:
        """The rest of the body is not wanted any more."""
        for task in self._helpers:
            task.cancel()

    async def stop(self) -> None:
        """Leave nothing running."""
        self._is_over = True
        self._timer.cancel()
        if self._helpers:
            for task in self._helpers:
                task.cancel()
            await asyncio.wait(self._helpers)

    def _look(self) -> None:
        now = self._loop.time()
        self._look_at_peers(now)
        idle_at = self._moved_at + self._idle
        if now >= self._ends_at:
            self._end(Why.TOTAL)
            return
        if now >= idle_at:
            self._end(Why.IDLE)
            return
        next_look = min(idle_at, self._ends_at, now + self._idle / _LOOKS)
        if not self._is_watched:
            # One reader of the client's messages at a time.
            if not self._has_body or (self._uploading is not None and self._uploading.done()):
                self._is_watched = True
                self._helpers.append(self._loop.create_task(self._watch()))
            else:
                self._look_after_upload(now)
                next_look = min(next_look, now + _NEXT_LOOK)
        self._timer = self._loop.call_at(next_look, self._look)

    def _look_at_peers(self, now: float) -> None:
        if self._has_taken(self._to_client):
            self._moved_at = now
        if self._has_taken(self.to_backend):
            self._moved_at = self._taken_at = now

    def _has_taken(self, transport: asyncio.Transport | None) -> bool:
        if transport is None:
            return False
        before, now = self._seen.get(transport), taken(transport)
        self._seen[transport] = now
        return before is not None and before.is_less_than(now)

    def _look_after_upload(self, now: float) -> None:
        upload = self._upload
        if upload is None or upload.blocked_since is None:
            return
        if now - max(upload.blocked_since, self._taken_at) >= self._idle:
            # A backend that answers and does not read has no use for it; a client that goes on
            # sending can be seen to leave only by taking what it sends.
            self.stop_upload()
            return
        ahead = upload.look_ahead()
        if ahead is not None:
            self._helpers.append(ahead)
            ahead.add_done_callback(self._looked_ahead)

    def _looked_ahead(self, ahead: asyncio.Task[Message]) -> None:
        if ahead.cancelled():
            return
        if ahead.exception() is not None or ahead.result()["type"] == "http.disconnect":
            self._end(Why.CLIENT_LEFT)

    async def _watch(self) -> None:
        # Some frameworks raise where others say it.
        with contextlib.suppress(Exception):
            while (await self._receive())["type"] != "http.disconnect":
                pass
        self._end(Why.CLIENT_LEFT)

    def _upload_ended(self, uploading: asyncio.Task[None]) -> None:
        if uploading.cancelled():
            return
        error = uploading.exception()
        if isinstance(error, Refusal):
            self.refusal = error
            self._end(Why.REFUSED)
        elif error is not None:
            self._end(Why.CLIENT_LEFT)

    def _end(self, why: Why) -> None:
        if not self._is_over:
            self._is_over = True
            self.why = why
            self.limit.reschedule(self._loop.time())
