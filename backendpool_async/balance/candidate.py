"""What is known about one backend, as long as it is listed and a while longer."""

from __future__ import annotations

from typing import Any, Final

from backendpool_async.backend import Backend

NO_LEASES: Final = 2


class Candidate:
    """One backend as a policy sees it.

    `weight` is the share of requests it is to get beside the others at the moment: that of the
    backend, and while one of them returns slowly, multiples of it. `latency` is the moving average
    in seconds, None before the first measurement. `peak` is for a policy's own measurements. It is
    the same object for as long as the address is known.
    """

    __slots__ = (
        "_leases",
        "backend",
        "consecutive_failures",
        "ejections",
        "failures",
        "healthy_since",
        "is_healthy",
        "is_listed",
        "judged",
        "last_failure",
        "latency",
        "peak",
        "picks",
        "record",
        "requests",
        "weight",
    )

    def __init__(self, backend: Backend) -> None:
        self.backend: Backend = backend
        self.weight: int = backend.weight
        self.latency: float | None = None
        self.peak: Any = None
        self.picks: int = 0
        """How often it was leased, whatever became of it."""
        self.requests: int = 0
        self.failures: int = 0
        self.consecutive_failures: int = 0
        self.last_failure: LastFailure | None = None
        self.record: EjectionRecord | None = None
        """What it has been ejected for, None while it never was."""
        self.ejections: int = 0
        """How often it was ejected in all."""
        self.is_healthy: bool | None = None
        """What the latest health checks say, None without any."""
        self.healthy_since: float | None = None
        """When the checks found it well again, None while they never found it unhealthy."""
        self.is_listed: bool = True
        """Whether it is in the list that the latest view was built of."""
        self.judged: tuple[int, int] = (0, 0)
        """The requests and failures there were when its rates were judged last."""
        # A list and not a number: `append` and `pop` are atomic, `+= 1` is not. Never shorter than
        # this, because a list that becomes empty gives its memory back, and asks for it again.
        self._leases: list[None] = [None] * NO_LEASES

    def reset(self) -> None:
        """Begin anew in a forked child: what its parent's threads and tasks lease never ends here.

        A lease that is held while its own thread forks ends in the child without being counted.
        """
        self._leases = [None] * NO_LEASES

    @property
    def in_flight(self) -> int:
        """How many leases of it are held."""
        return len(self._leases) - NO_LEASES

    def __repr__(self) -> str:
        return f"<Candidate {self.backend}, weight {self.weight}, {self.in_flight} in flight>"


class LastFailure:
    """When a backend failed last, on the balancer's clock, and why."""

    __slots__ = ("at", "reason")

    def __init__(self, at: float, reason: str) -> None:
        self.at: float = at
        self.reason: str = reason


class EjectionRecord:
    """How often a backend was ejected, until when, and why."""

    __slots__ = ("reason", "times", "until")

    def __init__(self) -> None:
        self.times: int = 0
        """Grows with each ejection, and shrinks again with time."""
        self.until: float = 0.0
        """When the latest ejection ends, on the balancer's clock."""
        self.reason: str = ""
