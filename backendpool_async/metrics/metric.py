"""Which metrics there are: name, kind, unit, meaning, and where each is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from backendpool_async.balance.candidate import Candidate
from backendpool_async.metrics.reading import BalancerReading, PoolReading

R = TypeVar("R")


class Kind(Enum):
    """How values behave: they only grow; they add up over processes; or neither."""

    COUNTER = "counter"
    UP_DOWN_COUNTER = "up-down counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value, and of what: a label's name and value beside that of the pool, or none."""

    value: float
    label: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Metric(Generic[R]):
    """One metric, read off an `R`. Names and units as OpenTelemetry has them (UCUM)."""

    name: str
    kind: Kind
    unit: str
    description: str
    read: Callable[[R], Iterable[Sample]]


def _one(value: Callable[[R], float | None]) -> Callable[[R], Iterator[Sample]]:
    def read(reading: R) -> Iterator[Sample]:
        found = value(reading)
        if found is not None:
            yield Sample(found)

    return read


def _by(label: str, values: Callable[[R], Mapping[str, int]]) -> Callable[[R], Iterator[Sample]]:
    def read(reading: R) -> Iterator[Sample]:
        for name, value in values(reading).items():
            yield Sample(value, (label, name))

    return read


def _by_backend(
    value: Callable[[Candidate, str], float | None],
) -> Callable[[BalancerReading], Iterator[Sample]]:
    def read(reading: BalancerReading) -> Iterator[Sample]:
        for candidate, state in reading.backends:
            found = value(candidate, state)
            if found is not None:
                yield Sample(found, ("backend", candidate.backend))

    return read


POOL_METRICS: Final[tuple[Metric[PoolReading], ...]] = (
    Metric(
        "backendpool.backends",
        Kind.UP_DOWN_COUNTER,
        "{backend}",
        "Backends in the list.",
        _one(lambda reading: len(reading.snapshot.backends)),
    ),
    Metric(
        "backendpool.list.age",
        Kind.GAUGE,
        "s",
        "Seconds since the latest good answer of the source.",
        _one(lambda reading: reading.snapshot.age),
    ),
    Metric(
        "backendpool.list.changes",
        Kind.COUNTER,
        "{change}",
        "How often the list changed.",
        _one(lambda reading: reading.snapshot.generation),
    ),
    Metric(
        "backendpool.list.stale",
        Kind.GAUGE,
        "1",
        "1 while the latest answer of the source was not taken, else 0.",
        _one(lambda reading: int(reading.snapshot.error is not None)),
    ),
    Metric(
        "backendpool.refreshes",
        Kind.COUNTER,
        "{refresh}",
        "Refreshes by what came of them: good, or the class of the error.",
        _by("outcome", lambda reading: reading.refreshes),
    ),
)

BALANCER_METRICS: Final[tuple[Metric[BalancerReading], ...]] = (
    Metric(
        "backendpool.balancer.backends",
        Kind.UP_DOWN_COUNTER,
        "{backend}",
        "Backends that the balancer knows of, by state: available, ejected, unhealthy.",
        _by("state", lambda reading: reading.states),
    ),
    Metric(
        "backendpool.balancer.panic",
        Kind.GAUGE,
        "1",
        "1 while too few are available, and all are chosen among, else 0.",
        _one(lambda reading: int(reading.is_panic)),
    ),
    Metric(
        "backendpool.balancer.picks",
        Kind.COUNTER,
        "{pick}",
        "Leases of all backends.",
        _one(lambda reading: reading.totals.picks),
    ),
    Metric(
        "backendpool.balancer.requests",
        Kind.COUNTER,
        "{request}",
        "Leases that ended with a success or a failure of the backend; a cancelled one does not.",
        _one(lambda reading: reading.totals.requests),
    ),
    Metric(
        "backendpool.balancer.failures",
        Kind.COUNTER,
        "{request}",
        "Leases that ended with a failure of the backend.",
        _one(lambda reading: reading.totals.failures),
    ),
    Metric(
        "backendpool.balancer.in_flight",
        Kind.UP_DOWN_COUNTER,
        "{request}",
        "Leases that are held.",
        _one(lambda reading: reading.totals.in_flight),
    ),
    Metric(
        "backendpool.balancer.ejections",
        Kind.COUNTER,
        "{ejection}",
        "How often a backend was ejected.",
        _one(lambda reading: reading.totals.ejections),
    ),
    Metric(
        "backendpool.balancer.retries",
        Kind.COUNTER,
        "{request}",
        "Requests that were tried again on another backend.",
        _one(lambda reading: reading.retries),
    ),
)

BACKEND_METRICS: Final[tuple[Metric[BalancerReading], ...]] = (
    Metric(
        "backendpool.backend.available",
        Kind.GAUGE,
        "1",
        "1 while the backend is available, 0 while it is ejected or unhealthy.",
        _by_backend(lambda _, state: int(state == "available")),
    ),
    Metric(
        "backendpool.backend.picks",
        Kind.COUNTER,
        "{pick}",
        "Leases of the backend.",
        _by_backend(lambda candidate, _: candidate.picks),
    ),
    Metric(
        "backendpool.backend.requests",
        Kind.COUNTER,
        "{request}",
        "Leases that ended with a success or a failure of the backend.",
        _by_backend(lambda candidate, _: candidate.requests),
    ),
    Metric(
        "backendpool.backend.failures",
        Kind.COUNTER,
        "{request}",
        "Leases that ended with a failure of the backend.",
        _by_backend(lambda candidate, _: candidate.failures),
    ),
    Metric(
        "backendpool.backend.in_flight",
        Kind.UP_DOWN_COUNTER,
        "{request}",
        "Leases of the backend that are held.",
        _by_backend(lambda candidate, _: candidate.in_flight),
    ),
    Metric(
        "backendpool.backend.ejections",
        Kind.COUNTER,
        "{ejection}",
        "How often the backend was ejected.",
        _by_backend(lambda candidate, _: candidate.ejections),
    ),
    Metric(
        "backendpool.backend.latency",
        Kind.GAUGE,
        "s",
        "Moving average of how long a request to the backend takes.",
        _by_backend(lambda candidate, _: candidate.latency),
    ),
)
