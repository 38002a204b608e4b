"""The instruments of OpenTelemetry."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from backendpool_async.backend import Backend
from backendpool_async.metrics.metric import (
    BACKEND_METRICS,
    BALANCER_METRICS,
    POOL_METRICS,
    Kind,
    Metric,
    Sample,
)
from backendpool_async.metrics.reading import (
    BalancerReading,
    Measured,
    PoolReading,
    balancers_read,
    named,
    pools_read,
)

References = dict[str, "weakref.ref[Measured]"]

_ATTRIBUTES: Final = {
    "outcome": "backendpool.refresh.outcome",
    "state": "backendpool.backend.state",
}


def instrument(
    meter: Meter, /, *measured: Measured, per_backend: bool = True, **by_name: Measured
) -> None:
    """Let a meter observe balancers and pools, until they are no longer used elsewhere.

    The attribute ``backendpool.pool.name`` is the keyword, or else what errors and logs call the
    source: two of the same name need keywords. Backends are told apart by ``server.address`` and
    ``server.port``; ``per_backend=False`` leaves what is said of each of them out, as may be right
    for thousands. There is nothing to close: they are referenced weakly, and read when the meter's
    reader collects, in its thread. A meter may be given more of them later.

    Raises TypeError for what is neither a balancer nor a pool, ValueError when two have one name.

    >>> from opentelemetry.metrics import get_meter
    >>> from backendpool_async import BackendPool, Balancer
    >>> api = Balancer(BackendPool.static(["10.0.0.1:8080"]))
    >>> instrument(get_meter("shop"), api=api)
    """
    observed = named(measured, by_name)
    if meter not in _observed:
        _observed[meter] = _Observed(meter)
    _observed[meter].add(observed, per_backend=per_backend)


class _Observed:
    """What one meter observes. Its instruments are made once: later callbacks would be ignored."""

    def __init__(self, meter: Meter) -> None:
        self._all: References = {}
        self._per_backend: References = {}
        for pool_metric in POOL_METRICS:
            _create(meter, pool_metric, partial(_of_pools, pool_metric, self._all))
        for metric in BALANCER_METRICS:
            _create(meter, metric, partial(_of_balancers, metric, self._all))
        for metric in BACKEND_METRICS:
            _create(meter, metric, partial(_of_balancers, metric, self._per_backend))

    def add(self, observed: Mapping[str, Measured], *, per_backend: bool) -> None:
        """Observe these, too."""
        for name, each in observed.items():
            known = self._all.get(name)
            if known is not None and known() not in (None, each):
                raise ValueError(
                    f"the meter observes another one called {name!r}: name it by keyword,"
                    " as in api=balancer"
                )
        references = {name: weakref.ref(each) for name, each in observed.items()}
        self._all |= references
        if per_backend:
            self._per_backend |= references


_observed: weakref.WeakKeyDictionary[Meter, _Observed] = weakref.WeakKeyDictionary()


def _create(
    meter: Meter,
    metric: Metric[PoolReading] | Metric[BalancerReading],
    observe: Callable[[CallbackOptions], Iterable[Observation]],
) -> None:
    create = {
        Kind.COUNTER: meter.create_observable_counter,
        Kind.UP_DOWN_COUNTER: meter.create_observable_up_down_counter,
        Kind.GAUGE: meter.create_observable_gauge,
    }[metric.kind]
    create(metric.name, [observe], metric.unit, metric.description)


def _of_pools(
    metric: Metric[PoolReading], references: References, _: CallbackOptions
) -> Iterator[Observation]:
    for reading in pools_read(_alive(references)):
        for sample in metric.read(reading):
            yield _observation(reading.name, sample)


def _of_balancers(
    metric: Metric[BalancerReading], references: References, _: CallbackOptions
) -> Iterator[Observation]:
    for reading in balancers_read(_alive(references)):
        for sample in metric.read(reading):
            yield _observation(reading.name, sample)


def _alive(references: References) -> dict[str, Measured]:
    # A copy in one step: another thread may add to it.
    referenced = {name: reference() for name, reference in list(references.items())}
    return {name: each for name, each in referenced.items() if each is not None}


def _observation(name: str, sample: Sample) -> Observation:
    attributes: dict[str, str | int] = {"backendpool.pool.name": name}
    match sample.label:
        case (_, Backend() as backend):
            attributes |= {"server.address": backend.host, "server.port": backend.port}
        case (label, value):
            attributes[_ATTRIBUTES[label]] = value
    return Observation(sample.value, attributes)
