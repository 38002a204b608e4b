"""One use of one backend."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import TracebackType
from typing import Protocol, Self

from backendpool_async.backend import Backend
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.failures import Failure
from backendpool_async.balance.outcomes import OutcomeRecorder
from backendpool_async.balance.policy import Chooser
from backendpool_async.errors import describe, quote


class Lender(Protocol):
    """What a lease asks of its balancer."""

    _choose: Chooser
    _next: Callable[[], Candidate]
    _outcomes: OutcomeRecorder

    def _choose_avoiding(self, key: str | None, exclude: Collection[str]) -> Candidate: ...


class Lease:
    """One use of one backend, counted in flight from entering to leaving; made by `Balancer.lease`.

    What is raised inside is a failure of the backend if it is the network's (see
    `transport_failure`), and `failed` says so by hand. A cancellation and every other exception is
    neither a failure nor a success. Both ``async with`` and, for code without a loop, ``with``;
    `acquire` and `release` for a use that begins and ends in different places.
    """

    __slots__ = (
        "_answered_at",
        "_began",
        "_candidate",
        "_exclude",
        "_failure",
        "_held",
        "_key",
        "_lender",
        "_reason",
    )

    def __init__(self, lender: Lender, key: str | None, exclude: Collection[str]) -> None:
        self._lender: Lender | None = lender
        self._key = key
        self._exclude = exclude
        self._candidate: Candidate | None = None
        self._failure: Failure | None = None
        self._answered_at: float | None = None

    @property
    def backend(self) -> Backend:
        """The backend that was chosen. Raises RuntimeError before the lease is entered."""
        if self._candidate is None:
            raise RuntimeError("a lease has its backend once it is entered: 'async with'")
        return self._candidate.backend

    def failed(self, reason: str, *, kind: Failure = Failure.TRANSPORT) -> None:
        """Say that the backend failed, whatever is raised or not; `reason` is for people.

        >>> import asyncio
        >>> from backendpool_async import BackendPool, Balancer
        >>> async def main() -> None:
        ...     async with Balancer(BackendPool.static(["10.0.0.1:80"])) as balancer:
        ...         async with balancer.lease() as lease:
        ...             lease.failed("503")
        ...         print(balancer.explain().backends[0].last_failure)
        >>> asyncio.run(main())
        503
        """
        self._failure = kind
        self._reason = quote(reason)[1:-1]

    def answered(self) -> None:
        """Say that its latency ends here, though the use goes on; as of a WebSocket that is open.

        How long such a use takes says nothing of the backend. Nothing happens once it has ended.
        """
        if self._lender is not None:
            self._answered_at = self._lender._outcomes.clock()

    def acquire(self) -> Self:
        """Choose a backend and count it in flight until `release`.

        Raises `NoBackends` when there is none to choose, RuntimeError the second time.
        """
        lender = self._lender
        if self._candidate is not None or lender is None:
            raise RuntimeError("a lease is for one use: ask the balancer for another")
        key, exclude = self._key, self._exclude
        if exclude:
            candidate = lender._choose_avoiding(key, exclude)
        else:
            candidate = lender._next() if key is None else lender._choose(key)
        # Before anything is counted: a clock of somebody else's may raise.
        self._began = lender._outcomes.clock()
        # A forked child counts in another list: what was added to this one is taken from it.
        held = self._held = candidate._leases
        held.append(None)
        candidate.picks += 1
        self._candidate = candidate
        return self

    def release(self, error: BaseException | None = None) -> None:
        """End the use, and say what was raised in it; does nothing when it has ended already.

        Raises RuntimeError before `acquire`.

        >>> from backendpool_async import BackendPool, Balancer
        >>> lease = Balancer(BackendPool.static(["10.0.0.1:80"])).lease().acquire()
        >>> lease.backend
        Backend('10.0.0.1:80')
        >>> lease.release()
        """
        candidate, lender = self._candidate, self._lender
        if candidate is None:
            raise RuntimeError("the lease was not entered")
        if lender is None:
            return
        self._lender = None
        self._held.pop()
        outcomes = lender._outcomes
        now = outcomes.clock()
        took = (now if self._answered_at is None else self._answered_at) - self._began
        if self._failure is None and error is not None:
            self._failure = outcomes.classify(error)
            if self._failure is None:
                outcomes.neutral(candidate, took, now)
                return
            self._reason = describe(error)
        if self._failure is None:
            outcomes.succeeded(candidate, took, now)
        else:
            outcomes.failed(candidate, took, now, self._failure, self._reason)

    def _undo(self) -> None:
        # It never began: nothing came of it, and how long it took is nobody's doing.
        self._lender = None
        self._held.pop()
        self._candidate.picks -= 1  # type: ignore[union-attr]  # it was acquired

    async def __aenter__(self) -> Self:
        return self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release(error)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release(error)
