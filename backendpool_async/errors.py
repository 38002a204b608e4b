"""What can go wrong, as one tree.

::

    BackendPoolError
    ├── InvalidBackend (also a ValueError)   an entry that is no ``host:port``
    ├── SourceError                          the source failed; its cause is chained
    │   ├── SourceTimeout                    ... by not answering in time
    │   ├── EmptyAnswer                      ... it says "none", which is not believed yet
    │   └── ShrunkAnswer                     ... it drops too many at once, not believed yet
    ├── NoBackends (also a LookupError)      nothing to choose from
    └── PoolClosed                           the pool was closed while you waited
"""

from __future__ import annotations

from typing import Self

_LONGEST_QUOTE = 120
_LONGEST_REASON = 400


def quote(text: object) -> str:
    """Return foreign text fit for a message or a log line: escaped, on one line and cut short.

    >>> quote("a\\nb")
    "'a\\\\nb'"
    """
    shown = ascii(_text(text))
    return shown if len(shown) <= _LONGEST_QUOTE else f"{shown[: _LONGEST_QUOTE - 4]}...'"


def _text(thing: object) -> str:
    # What a source returns or raises may fail to say what it is; the pool must not fail with it.
    try:
        return str(thing)
    except Exception as error:  # noqa: BLE001 - see above
        return f"<{type(thing).__name__} whose str() raises {type(error).__name__}>"


def describe(error: BaseException) -> str:
    """Return an exception on one short line: its type, and its message escaped as by `quote`.

    An `InvalidBackend` has escaped what it quotes, and speaks for itself.

    >>> describe(OSError("no such\\nhost"))
    "OSError: 'no such\\\\nhost'"
    """
    text = _text(error)
    if isinstance(error, InvalidBackend):
        return text
    return f"{type(error).__name__}: {quote(text)}" if text else type(error).__name__


def reason_of(error: SourceError) -> str:
    """Return the reason of an error that a source may have made itself, fit for a message."""
    reason = _text(getattr(error, "reason", type(error).__name__))
    return reason if reason.isprintable() and len(reason) <= _LONGEST_REASON else quote(reason)


def counted(backends: int) -> str:
    """Return "1 backend", "2 backends"."""
    return f"{backends} backend" if backends == 1 else f"{backends} backends"


def without_tracebacks(error: BaseException) -> BaseException:
    """Return the exception with no traceback left in its chain: each keeps its frames alive."""
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        link.__traceback__ = None
        chain += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            chain += link.exceptions
    return error


class BackendPoolError(Exception):
    """The root of everything that this library raises on purpose."""


class InvalidBackend(BackendPoolError, ValueError):
    """One entry is not a backend, so the whole answer that held it was refused.

    `entry` is the text as it was given, `reason` says what is wrong with it, and `place` where it
    stood ("line 3 of 'backends.txt'", "variable API_1"), or None when there is only one place.
    """

    def __init__(self, entry: object, reason: str, place: str | None = None) -> None:
        super().__init__(entry, reason, place)
        self.entry = entry
        self.reason = reason
        self.place = place

    def __str__(self) -> str:
        where = f" ({self.place})" if self.place else ""
        return f"invalid backend {quote(self.entry)}{where}: {self.reason}"


class SourceError(BackendPoolError):
    """The source could not be asked, or its answer was refused; what it said before is kept.

    `source` names it, `reason` says what happened, `kept` what is served meanwhile, and the
    exception behind it is the `__cause__`.
    """

    def __init__(self, source: str, reason: str, kept: str = "") -> None:
        super().__init__(source, reason, kept)
        self.source = source
        self.reason = reason
        self.kept = kept

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}" + (f"; {self.kept}" if self.kept else "")

    def fresh(self) -> Self:
        """Return a copy without a traceback: one that is raised to many callers grows with each."""
        copy = type(self)(self.source, self.reason, self.kept)
        copy.__cause__ = self.__cause__
        return copy


class SourceTimeout(SourceError):
    """The source did not answer within the pool's `timeout`."""


class EmptyAnswer(SourceError):
    """The source says with authority that there are no backends, not yet often enough in a row.

    It is believed at the pool's `empty_after`-th time; until then the list is kept.
    """


class ShrunkAnswer(SourceError):
    """The source dropped more than `max_shrink` of the list, not yet often enough in a row.

    What it says is believed when the pool's `empty_after`-th answer in a row that drops so much
    comes, but not before the second; until then the list is kept. These answers need not be the
    same. A failure in between neither counts nor resets, any other answer does reset.
    """


class NoBackends(BackendPoolError, LookupError):
    """There is nothing to choose from."""


class PoolClosed(BackendPoolError):
    """The pool was closed while this call waited for it."""
