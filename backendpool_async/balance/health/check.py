"""What a health check is: the protocol, and how it says what is wrong."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from backendpool_async.backend import Backend
from backendpool_async.errors import BackendPoolError, describe, quote


class CheckFailed(BackendPoolError):
    """A backend was reached, and is not well; the message says why."""


@runtime_checkable
class Check(Protocol):
    """Anything with ``async def check(backend)``; it raises when the backend is not well.

    Every exception says so, but for a cancellation: it is cancelled when it outlasts the
    `timeout`. Many run at once, never two of the same backend. ``async def aclose()`` is optional
    and releases what the checks hold; it may be called more than once, and `check` again after it,
    also on another event loop.

    >>> class AlwaysWell:
    ...     async def check(self, backend: Backend) -> None:
    ...         pass
    >>> isinstance(AlwaysWell(), Check)
    True
    """

    async def check(self, backend: Backend) -> None: ...


@runtime_checkable
class ClosableCheck(Check, Protocol):
    """A check that holds something while it is in use."""

    async def aclose(self) -> None: ...


def reason_of(error: BaseException) -> str:
    """Return on one short line why a check failed.

    >>> reason_of(CheckFailed("status 503")), reason_of(OSError("no route"))
    ('status 503', "OSError: 'no route'")
    """
    return quote(error)[1:-1] if isinstance(error, CheckFailed) else describe(error)
