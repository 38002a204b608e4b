"""What a balancer knows, for people and for programs that show it to people."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from backendpool_async.backend import Backend
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.ejection import is_available, is_ejected
from backendpool_async.balance.pauses import collected, pause
from backendpool_async.balance.view import View
from backendpool_async.errors import counted

_CHANGES_KEPT: Final = 10
_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the list: when (ISO 8601, UTC), and what came and went."""

    time: str
    generation: int
    added: tuple[str, ...]
    removed: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"+{each}" for each in self.added[:_NAMED]]
        parts += [f"-{each}" for each in self.removed[:_NAMED]]
        more = len(self.added) + len(self.removed) - len(parts)
        return f"{self.time} {' '.join(parts) or 'order or attributes'}" + (
            f" and {more} more" if more else ""
        )


@dataclass(frozen=True, slots=True)
class BackendState:
    """What is known about one backend. Times are seconds; None: there is none.

    `state` is ``available``, ``ejected`` or ``unhealthy``. `last_failure_ago` and `ejected_for` are
    counted from the moment of asking.
    """

    backend: str
    state: str
    weight: int
    zone: str | None
    in_flight: int
    latency: float | None
    requests: int
    failures: int
    ejections: int
    ejected_for: float | None
    ejected_because: str | None
    last_failure: str | None
    last_failure_ago: float | None

    def __str__(self) -> str:
        parts = [f"{self.backend:<24} {self.state:<10} weight {self.weight}"]
        parts.append(f"{self.in_flight} in flight")
        if self.latency is not None:
            parts.append(f"{self.latency * 1e3:.1f} ms")
        parts.append(f"{self.failures} of {self.requests} failed")
        if self.ejected_for is not None:
            parts.append(f"for {self.ejected_for:.0f} s more: {self.ejected_because}")
        if self.last_failure is not None:
            parts.append(f"last failure {self.last_failure_ago:.0f} s ago: {self.last_failure}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a balancer knows at one moment: ``str()`` for people, `as_dict` for JSON.

    `retries`: how many requests were tried again on another backend, by the clients of this house.
    """

    pool: str
    policy: str
    generation: int
    is_panic: bool
    available: int
    retries: int
    error: str | None
    backends: tuple[BackendState, ...]
    changes: tuple[Change, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data: dictionaries, lists, strings, numbers, None."""
        data = asdict(self)
        data["backends"] = list(data["backends"])
        data["changes"] = [
            {**change, "added": list(change["added"]), "removed": list(change["removed"])}
            for change in data["changes"]
        ]
        return data

    def __str__(self) -> str:
        panic = "; panic: all are chosen among" if self.is_panic else ""
        error = f"; {self.error}" if self.error else ""
        head = f"{self.pool}, {self.policy}: {self.available} of {counted(len(self.backends))}"
        lines = [f"{head} available{panic}{error}"]
        lines += [f"  {state}" for state in self.backends]
        if self.changes:
            lines.append("last changes of the list")
            lines += [f"  {change}" for change in self.changes]
        return "\n".join(lines)


class History:
    """The last changes of a list."""

    __slots__ = ("_changes",)

    def __init__(self) -> None:
        self._changes: deque[Change] = deque(maxlen=_CHANGES_KEPT)

    def note(self, before: Sequence[Backend], after: Sequence[Backend], generation: int) -> None:
        """Keep what came and went."""
        old = set(before)
        pause()
        new = set(after)
        self._changes.append(
            Change(
                datetime.now(UTC).isoformat(timespec="milliseconds"),
                generation,
                tuple(collected(each for each in after if each not in old)),
                tuple(collected(each for each in before if each not in new)),
            )
        )

    def changes(self) -> tuple[Change, ...]:
        """The latest last."""
        return tuple(self._changes)


def explained(
    view: View, pool: str, policy: object, history: History, retries: int, now: float
) -> Explanation:
    """Return what there is to say about a view."""
    error = view.snapshot.error
    return Explanation(
        pool,
        type(policy).__name__,
        view.snapshot.generation,
        view.is_panic,
        len(view.available),
        retries,
        None if error is None else str(error),
        tuple(_state(each, now) for each in view.listed),
        history.changes(),
    )


def _state(candidate: Candidate, now: float) -> BackendState:
    backend, record, last = candidate.backend, candidate.record, candidate.last_failure
    ejected = record if record is not None and is_ejected(candidate, now) else None
    state = "available" if is_available(candidate, now) else "ejected" if ejected else "unhealthy"
    return BackendState(
        backend=str(backend),
        state=state,
        weight=backend.weight,
        zone=backend.zone,
        in_flight=candidate.in_flight,
        latency=candidate.latency,
        requests=candidate.requests,
        failures=candidate.failures,
        ejections=record.times if record else 0,
        ejected_for=ejected.until - now if ejected else None,
        ejected_because=ejected.reason if ejected else None,
        last_failure=last.reason if last else None,
        last_failure_ago=now - last.at if last else None,
    )
