"""The instruments of OpenTelemetry."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from backendpool_async.backend import Backend
from backendpool_async.extras import missing
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
    check_per_backend,
    named,
    pools_read,
)

try:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter_provider
except ModuleNotFoundError as _error:
    raise missing("instrument", "'backendpool-async[opentelemetry]'", _error) from _error

References = dict[str, "weakref.ref[Measured]"]
Scope = tuple[str, str | None, str]

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
    reader collects, in its thread. A meter may be given more of them later, and be asked for with
    ``get_meter`` each time, before and after ``set_meter_provider``.

    Raises TypeError for what is neither a balancer nor a pool, ValueError when two have one name.

    >>> from opentelemetry.metrics import get_meter
    >>> from backendpool_async import BackendPool, Balancer
    >>> api = Balancer(BackendPool.static(["10.0.0.1:8080"]))
    >>> instrument(get_meter("shop"), api=api)
    """
    check_per_backend(per_backend)
    _observed_by(meter).add(named(measured, by_name), per_backend=per_backend)


class _Observed:
    """What one meter was given to observe.

    An SDK takes the callbacks of the first of all instruments with one name in one scope, and
    `get_meter` returns another stand-in at each call until there is a provider. So instruments are
    made of each meter, and whichever are taken read what all meters were given that are one.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = weakref.ref(meter)
        self._scope = _scope_of(meter)
        self._everything: References = {}
        self._with_backends: References = {}

    @property
    def meter(self) -> Meter | None:
        """The meter, while it is used elsewhere."""
        return self._meter()

    def create_instruments(self) -> None:
        """Let the meter ask for everything from now on."""
        for pool_metric in POOL_METRICS:
            self._create(pool_metric, partial(_of_pools, pool_metric, self._all))
        for metric in BALANCER_METRICS:
            self._create(metric, partial(_of_balancers, metric, self._all))
        for metric in BACKEND_METRICS:
            self._create(metric, partial(_of_balancers, metric, self._all_with_backends))

    def add(self, observed: Mapping[str, Measured], *, per_backend: bool) -> None:
        """Observe these, too."""
        known = self._all()
        for name, each in observed.items():
            if known.get(name, each) is not each:
                raise ValueError(
                    f"the meter observes another one called {name!r}: name it by keyword,"
                    " as in api=balancer"
                )
        references = {name: weakref.ref(each) for name, each in observed.items()}
        self._everything |= references
        if per_backend:
            self._with_backends |= references

    def _all(self) -> dict[str, Measured]:
        return _alive(each._everything for each in self._one_with())

    def _all_with_backends(self) -> dict[str, Measured]:
        return _alive(each._with_backends for each in self._one_with())

    def _one_with(self) -> Iterator[_Observed]:
        """Return those whose meter is one with this one's in the provider, itself included."""
        yield self
        others = [each for each in _observed.get(self._scope, ()) if each is not self]
        if others and self._is_of_global_provider():
            yield from (each for each in others if each._is_of_global_provider())

    def _is_of_global_provider(self) -> bool:
        meter, provider = self.meter, get_meter_provider()
        if _is_stand_in(meter):
            return True
        # A stand-in for the provider would make and keep another meter.
        return not _is_stand_in(provider) and provider.get_meter(*self._scope) is meter

    def _create(
        self,
        metric: Metric[PoolReading] | Metric[BalancerReading],
        observe: Callable[[CallbackOptions], Iterable[Observation]],
    ) -> None:
        meter = self.meter
        assert meter is not None  # noqa: S101 - whoever instruments it holds it
        create = {
            Kind.COUNTER: meter.create_observable_counter,
            Kind.UP_DOWN_COUNTER: meter.create_observable_up_down_counter,
            Kind.GAUGE: meter.create_observable_gauge,
        }[metric.kind]
        create(metric.name, [observe], metric.unit, metric.description)


# Tuples are replaced, and never changed: readers take no lock.
_observed: dict[Scope, tuple[_Observed, ...]] = {}
_adding = threading.Lock()


def _observed_by(meter: Meter) -> _Observed:
    scope = _scope_of(meter)
    with _adding:
        known = tuple(each for each in _observed.get(scope, ()) if each.meter is not None)
        for each in known:
            if each.meter is meter:
                return each
        new = _Observed(meter)
        _observed[scope] = (*known, new)
    # Not under the lock: an SDK has locks of its own.
    new.create_instruments()
    return new


def _scope_of(meter: Meter) -> Scope:
    # That of an SDK has "" where a stand-in has None.
    return meter.name, meter.version, meter.schema_url or ""


def _is_stand_in(thing: object) -> bool:
    # What the API returns while there is no provider is told when there is one.
    return hasattr(thing, "on_set_meter_provider")


def _of_pools(
    metric: Metric[PoolReading], observed: Callable[[], Mapping[str, Measured]], _: CallbackOptions
) -> Iterator[Observation]:
    for reading in pools_read(observed()):
        for sample in metric.read(reading):
            yield _observation(reading.name, sample)


def _of_balancers(
    metric: Metric[BalancerReading],
    observed: Callable[[], Mapping[str, Measured]],
    _: CallbackOptions,
) -> Iterator[Observation]:
    for reading in balancers_read(observed()):
        for sample in metric.read(reading):
            yield _observation(reading.name, sample)


def _alive(several: Iterable[References]) -> dict[str, Measured]:
    alive: dict[str, Measured] = {}
    for references in several:
        # A copy in one step: another thread may add to it.
        for name, reference in list(references.items()):
            each = reference()
            if each is not None:
                alive[name] = each
    return alive


def _observation(name: str, sample: Sample) -> Observation:
    attributes: dict[str, str | int] = {"backendpool.pool.name": name}
    match sample.label:
        case (_, Backend() as backend):
            attributes |= {"server.address": backend.host, "server.port": backend.port}
        case (label, value):
            attributes[_ATTRIBUTES[label]] = value
    return Observation(sample.value, attributes)
