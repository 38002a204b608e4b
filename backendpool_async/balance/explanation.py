"""What a balancer knows, for people and for programs that show it to people."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, Final

from backendpool_async.backend import Backend
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.ejection import is_ejected, state_of
from backendpool_async.balance.pauses import collected, pause
from backendpool_async.balance.view import View
from backendpool_async.errors import counted
from backendpool_async.snapshot import Snapshot

_CHANGES_KEPT: Final = 10
_NAMED: Final = 10
# Seconds for which a backend that failed comes before those that did not.
_RECENTLY: Final = 60.0

_Judged = tuple[str, Candidate]


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
    counted from the moment of asking. `picks` are its leases, of which `requests` ended with a
    verdict; a cancelled one has none. `ejections` is what the next ejection is prolonged by, and
    shrinks with time; `ejections_total` only grows. `chosen_among`: whether it gets requests at all
    at the moment, which one of another zone may not though it is available, and one that is not
    does in a panic. `share`: the part of all requests that its weight stands for, 0 to 1, less than
    usual while it is `returning` (see `slow_start` of `Balancer`); 0 when it is not chosen among.
    """

    backend: str
    state: str
    weight: int
    zone: str | None
    in_flight: int
    latency: float | None
    picks: int
    requests: int
    failures: int
    ejections: int
    ejections_total: int
    ejected_for: float | None
    ejected_because: str | None
    last_failure: str | None
    last_failure_ago: float | None
    chosen_among: bool
    share: float
    returning: bool

    def __str__(self) -> str:
        parts = [f"{self.backend:<24} {self.state:<10} weight {self.weight}"]
        if self.returning:
            parts.append(f"returning with {self.share:.1%} of the requests")
        elif self.state == "available" and not self.chosen_among:
            parts.append("not chosen among")
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

    `available`, `ejected` and `unhealthy` count all that the balancer may choose from, also those
    that are not in `backends` because of a limit (`omitted`) or a filter. `retries`: how many
    requests were tried again on another backend, by the clients of this house.
    """

    pool: str
    policy: str
    generation: int
    is_panic: bool
    available: int
    ejected: int
    unhealthy: int
    retries: int
    error: str | None
    backends: tuple[BackendState, ...]
    omitted: int
    changes: tuple[Change, ...]

    @property
    def listed(self) -> int:
        """How many the balancer may choose from."""
        return self.available + self.ejected + self.unhealthy

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data: dictionaries, lists, strings, numbers, None."""
        # Not `asdict`, which copies each value too: that takes ten times as long.
        data = _plain(self)
        data["backends"] = collected(_plain(each) for each in self.backends)
        data["changes"] = [
            {**_plain(each), "added": list(each.added), "removed": list(each.removed)}
            for each in self.changes
        ]
        return data

    def __str__(self) -> str:
        panic = "; panic: all are chosen among" if self.is_panic else ""
        error = f"; {self.error}" if self.error else ""
        head = f"{self.pool}, {self.policy}: {self.available} of {counted(self.listed)}"
        lines = [f"{head} available{panic}{error}"]
        lines += [f"  {state}" for state in self.backends]
        if self.omitted:
            lines.append(f"  and {self.omitted} more")
        if self.changes:
            lines.append("last changes of the list")
            lines += [f"  {change}" for change in self.changes]
        return "\n".join(lines)


class History:
    """The last changes of a list."""

    __slots__ = ("_noted",)

    def __init__(self) -> None:
        self._noted: deque[_Noted] = deque(maxlen=_CHANGES_KEPT)

    def note(self, before: Snapshot, after: Snapshot) -> None:
        """Keep that the list changes now; does not take long."""
        self._noted.append(_Noted(before, after))

    def find_out(self) -> None:
        """Find out what came and went; until then the lists are kept."""
        for noted in list(self._noted):
            noted.change()

    def changes(self) -> tuple[Change, ...]:
        """The latest last."""
        return tuple(noted.change() for noted in list(self._noted))


class _Noted:
    """A change at the moment of which there was no time to compare the lists."""

    __slots__ = ("_change", "_generation", "_lists", "_time")

    def __init__(self, before: Snapshot, after: Snapshot) -> None:
        self._time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._generation = after.generation
        self._lists: tuple[Sequence[Backend], Sequence[Backend]] = (before.backends, after.backends)
        self._change: Change | None = None

    def change(self) -> Change:
        """Compare the lists, and keep them no longer."""
        # Read before `_change` is looked at: two threads may do so at once, and find the same.
        before, after = self._lists
        if self._change is None:
            old = set(before)
            pause()
            new = set(after)
            self._change = Change(
                self._time,
                self._generation,
                tuple(collected(each for each in after if each not in old)),
                tuple(collected(each for each in before if each not in new)),
            )
            self._lists = ((), ())
        return self._change


def explained(
    view: View,
    pool: str,
    policy: object,
    history: History,
    retries: int,
    now: float,
    limit: int | None,
    match: str,
) -> Explanation:
    """Return what there is to say about a view; `limit` and `match` as in `Balancer.explain`."""
    error = view.snapshot.error
    judged = collected((state_of(each, now), each) for each in view.listed)
    states = Counter(state for state, _ in judged)
    matching = judged
    if match:
        matching = collected(pair for pair in judged if match in pair[1].backend)
    told = matching if limit is None else _troubled_first(matching, now, limit)
    shares = _shares(view, told)
    return Explanation(
        pool=pool,
        policy=type(policy).__name__,
        generation=view.snapshot.generation,
        is_panic=view.is_panic,
        available=states["available"],
        ejected=states["ejected"],
        unhealthy=states["unhealthy"],
        retries=retries,
        error=None if error is None else str(error),
        backends=tuple(
            collected(
                _told(state, each, now, shares.get(each), returning=each in view.returning)
                for state, each in told
            )
        ),
        omitted=len(matching) - len(told),
        changes=history.changes(),
    )


def _troubled_first(judged: Sequence[_Judged], now: float, limit: int) -> list[_Judged]:
    """Return the first `limit`: those not available, those that failed of late, the others."""
    ranks: tuple[list[_Judged], ...] = ([], [], [])
    # Not sorted, which lets no other thread run until it is done.
    for rank, pair in collected((_rank(*pair, now), pair) for pair in judged):
        ranks[rank].append(pair)
    return list(islice(chain(*ranks), limit))


def _rank(state: str, candidate: Candidate, now: float) -> int:
    if state != "available":
        return 0
    last = candidate.last_failure
    return 2 if last is None or now - last.at > _RECENTLY else 1


def _shares(view: View, told: Sequence[_Judged]) -> dict[Candidate, float]:
    """Return the part of the requests that each of these gets, if it is chosen among."""
    total = sum(collected(each.weight for each in view.chosen_among))
    wanted = {each for _, each in told}
    return dict(
        collected((each, each.weight / total) for each in view.chosen_among if each in wanted)
    )


def _told(
    state: str, candidate: Candidate, now: float, share: float | None, *, returning: bool
) -> BackendState:
    backend, record, last = candidate.backend, candidate.record, candidate.last_failure
    ejected = record if record is not None and is_ejected(candidate, now) else None
    return BackendState(
        backend=str(backend),
        state=state,
        weight=backend.weight,
        zone=backend.zone,
        in_flight=candidate.in_flight,
        latency=candidate.latency,
        picks=candidate.picks,
        requests=candidate.requests,
        failures=candidate.failures,
        ejections=record.times if record else 0,
        ejections_total=candidate.ejections,
        ejected_for=ejected.until - now if ejected else None,
        ejected_because=ejected.reason if ejected else None,
        last_failure=last.reason if last else None,
        last_failure_ago=now - last.at if last else None,
        chosen_among=share is not None,
        share=share or 0.0,
        returning=returning,
    )


def _plain(thing: BackendState | Change | Explanation) -> dict[str, Any]:
    return {field.name: getattr(thing, field.name) for field in fields(thing)}
