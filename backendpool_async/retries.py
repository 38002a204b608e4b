"""When a request may be tried again, on another backend."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final, Self

from backendpool_async.balance.balancer import Balancer
from backendpool_async.balance.failures import Failure, is_disconnect
from backendpool_async.balance.lease import Lease
from backendpool_async.errors import NoBackends
from backendpool_async.keywords import count, seconds, seconds_or_0, share_or_0, statuses

# RFC 9110, section 9.2.2.
IDEMPOTENT_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

# What a backend, or a gateway before it, says when it is not up to a request.
FAILURE_STATUSES: Final = frozenset({502, 503, 504})


class RetryBudget:
    """Keeps retries in proportion to requests, so that they do not multiply an overload.

    There may be `share` times as many retries as there were requests within the last `window`
    seconds, and `at_least` a second besides. After Finagle's ``RetryBudget``, with a leaking bucket
    in place of its windows: what was not used fades with the time constant `window`.

    Raises TypeError or ValueError for a number out of range.

    >>> budget = RetryBudget(0.2, at_least=0)
    >>> for _ in range(12):
    ...     budget.deposit()
    >>> [budget.withdraw() for _ in range(3)]
    [True, True, False]
    """

    __slots__ = ("_at", "_clock", "_moment", "_reserve", "_share", "_tokens", "_window")

    def __init__(
        self,
        share: float = 0.2,
        *,
        at_least: float = 3.0,
        window: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = share_or_0("share", share)
        self._window = seconds("window", window)
        self._moment = self._window / 1000
        # Of `at_least` a second nothing is used in quiet times: so much gathers.
        self._reserve = seconds_or_0("at_least", at_least) * self._window
        self._clock = clock
        self._tokens = self._reserve
        self._at = clock()

    def deposit(self) -> None:
        """Take note of one request."""
        now = self._clock()
        # Nobody can tell a thousandth of the window, and each request comes through here.
        if now >= self._at + self._moment:
            self._fade(now)
        self._tokens += self._share

    def withdraw(self) -> bool:
        """Return whether there may be one retry more, which is counted then."""
        self._fade(self._clock())
        # A fifth added five times is not quite one.
        if self._tokens < 1.0 - 1e-6:
            return False
        self._tokens -= 1.0
        return True

    def give_back(self) -> None:
        """Say that a retry was not made after all."""
        self._tokens += 1.0

    def _fade(self, now: float) -> None:
        # Towards the reserve, from either side.
        left = math.exp((self._at - now) / self._window)
        self._tokens = self._reserve + (self._tokens - self._reserve) * left
        self._at = now


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """When a request is tried again, on a backend that it was not tried on yet.

    * `attempts`: how often a request is tried in all; 1: there are no retries.
    * `idempotent`: False: only what cannot have been sent, because no connection came about, is
      tried again. True: also a request that broke off before an answer, if its method is
      idempotent (RFC 9110, section 9.2.2) and its body can be sent once more; where no other
      backend is left, on one whose connection just ended, for that may say nothing of the backend.
    * `statuses`: with `idempotent`, answers with one of these are not taken but tried again, as
      long as there is another backend to try.
    * `budget`: shared by all requests that share it.

    Raises TypeError or ValueError for what is out of range.

    >>> Retries(attempts=2, idempotent=True, statuses={503}).attempts
    2
    """

    attempts: int = 3
    idempotent: bool = False
    statuses: Collection[int] = ()
    budget: RetryBudget = field(default_factory=RetryBudget)

    def __post_init__(self) -> None:
        count("attempts", self.attempts)
        object.__setattr__(self, "statuses", statuses("statuses", self.statuses))
        if not isinstance(self.budget, RetryBudget):
            raise TypeError(f"budget={self.budget!r} is no backendpool_async.retries.RetryBudget")


def checked_retries(retries: Retries | None) -> Retries:
    """Return them, or the default ones for None. Raises TypeError for something else."""
    if retries is not None and not isinstance(retries, Retries):
        raise TypeError(f"retries={retries!r} is no backendpool_async.retries.Retries")
    return Retries() if retries is None else retries


class Attempts:
    """The tries of one request: a lease for the first, and one for each after it.

    `can_repeat`: whether the request does no more harm when it arrives twice, and its body is still
    there.
    """

    __slots__ = ("_balancer", "_broke_off", "_can_repeat", "_key", "_left", "_retries", "_tried")

    def __init__(
        self, balancer: Balancer, retries: Retries, key: str | None, *, can_repeat: bool
    ) -> None:
        self._balancer = balancer
        self._retries = retries
        self._key = key
        self._can_repeat = can_repeat and retries.idempotent
        self._left = retries.attempts
        self._tried: tuple[str, ...] = ()
        self._broke_off: tuple[str, ...] = ()

    def first(self) -> Lease:
        """Return an acquired lease. Raises `NoBackends` when there is none to choose."""
        self._retries.budget.deposit()
        return self._acquired(())

    def begun(self, lease: Lease) -> Self:
        """Take a lease that the caller acquired, and counted in the budget, for the first try.

        For clients that make this only when something went wrong.
        """
        self._left -= 1
        self._tried = (lease.backend,)
        return self

    def after_error(self, error: BaseException) -> Lease | None:
        """Return an acquired lease of another backend; None when the error is to be raised.

        Only for an error that came before the answer.
        """
        failure = self._balancer._outcomes.classify(error)
        if failure is Failure.CONNECT:
            return self._another(self._tried)
        if failure is None or not self._can_repeat:
            return None
        if is_disconnect(error):
            self._broke_off = (*self._broke_off, self._tried[-1])
        # What timed out or was nonsense would be so again: only an end may be the connection's.
        others = tuple(each for each in self._tried if each not in self._broke_off)
        return self._another(self._tried) or self._another(others)

    def after_status(self, status: int) -> Lease | None:
        """Return an acquired lease of another backend; None when the answer is to be taken."""
        if self._can_repeat and status in self._retries.statuses:
            return self._another(self._tried)
        return None

    def _another(self, exclude: tuple[str, ...]) -> Lease | None:
        if not self._left or not self._retries.budget.withdraw():
            return None
        try:
            lease = self._acquired(exclude)
        except NoBackends:
            self._retries.budget.give_back()
            return None
        self._balancer._retries += 1
        return lease

    def undo(self, lease: Lease) -> None:
        """End the lease of a retry that is not made after all: nothing is counted or measured.

        The budget has it back.
        """
        lease._undo()
        self._left += 1
        self._tried = self._tried[:-1]
        self._retries.budget.give_back()
        self._balancer._retries -= 1

    def instead(self, lease: Lease) -> Lease:
        """Return a lease of another backend for the latest try, which was not begun.

        The same lease where there is no other backend; else it is ended.
        """
        try:
            another = self._acquired(self._tried)
        except NoBackends:
            return lease
        lease._undo()
        self._left += 1
        return another

    def _acquired(self, exclude: tuple[str, ...]) -> Lease:
        lease = self._balancer.lease(self._key, exclude).acquire()
        self._left -= 1
        self._tried = (*self._tried, lease.backend)
        return lease
