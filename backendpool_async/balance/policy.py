"""How one backend is chosen: the protocol of a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from backendpool_async.balance.candidate import Candidate


class Chooser(Protocol):
    """What a policy prepares: called with a key, or None without one, it returns one candidate."""

    def __call__(self, key: str | None, /) -> Candidate: ...


class Policy(Protocol):
    """How a `Balancer` chooses.

    `prepare` gets the candidates there are at the moment, at least one, and returns a function
    that chooses one of them for a key (None: there is none). It is called again whenever the
    candidates or a weight of theirs differ; what it returned before goes on being used until it
    returns. The function is called from any thread, so it must not change anything that a second
    call at the same time would trip over.

    A policy belongs to one balancer. With an attribute ``prepares_slowly = True``, and for long
    lists, `prepare` is called in a thread of its own, and an event loop chooses by weight at random
    until it has returned for the first time. Two more methods are optional:
    ``observe(candidate, seconds, now)`` is called when a lease has ended and says how long it took,
    ``after_fork()`` in a forked child.

    >>> class First:
    ...     def prepare(self, candidates):
    ...         first = candidates[0]
    ...         return lambda key: first
    >>> from backendpool_async import BackendPool, Balancer
    >>> Balancer(BackendPool.static(["10.0.0.1:80", "10.0.0.2:80"]), policy=First()).pick()
    Backend('10.0.0.1:80')
    """

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser: ...


class Unkeyed:
    """A chooser that does not look at keys; a balancer calls its `next` directly."""

    __slots__ = ("next",)

    def __init__(self, choose: Callable[[], Candidate]) -> None:
        self.next: Callable[[], Candidate] = choose

    def __call__(self, _key: str | None) -> Candidate:
        return self.next()
