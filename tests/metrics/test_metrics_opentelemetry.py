"""The instruments of OpenTelemetry, collected by its SDK."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.metrics import Meter, _internal, get_meter, set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData, Sum
from opentelemetry.util._once import Once

import backendpool_async.metrics
from backendpool_async import BackendPool, Balancer, Candidate, Chooser
from backendpool_async.metrics import instrument
from backendpool_async.sync import BackendPool as SyncBackendPool
from backendpool_async.testing import ScriptedSource

A, B = "10.0.0.1:80", "[fe80::1]:80"


class Collected:
    def __init__(self, reader: InMemoryMetricReader) -> None:
        data = reader.get_metrics_data()
        assert data is None or isinstance(data, MetricsData)
        self.metrics = {
            metric.name: metric
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[tuple[dict[str, Any], float]]:
        metric = self.metrics.get(name)
        if metric is None:
            return []
        return [
            (dict(point.attributes or {}), getattr(point, "value"))  # noqa: B009 - no histogram
            for point in metric.data.data_points
        ]

    def is_monotonic(self, name: str) -> bool:
        data = self.metrics[name].data
        assert isinstance(data, Sum)
        return data.is_monotonic

    def pools(self, name: str) -> set[str]:
        return {attributes["backendpool.pool.name"] for attributes, _ in self.points(name)}


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def meter(reader: InMemoryMetricReader) -> Iterator[Meter]:
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield provider.get_meter("test")
    provider.shutdown()


async def test_a_pool_is_observed(meter: Meter, reader: InMemoryMetricReader) -> None:
    pool = BackendPool(ScriptedSource([A]))
    instrument(meter, api=pool)
    await pool.refresh()
    collected = Collected(reader)
    api = {"backendpool.pool.name": "api"}
    assert collected.points("backendpool.backends") == [(api, 1)]
    assert (api | {"backendpool.refresh.outcome": "good"}, 1) in collected.points(
        "backendpool.refreshes"
    )
    assert collected.metrics["backendpool.list.age"].unit == "s"
    assert collected.metrics["backendpool.refreshes"].unit == "{refresh}"
    assert collected.is_monotonic("backendpool.refreshes")
    assert not collected.is_monotonic("backendpool.backends")
    assert collected.points("backendpool.balancer.picks") == []


def test_a_balancer_is_observed_with_each_backend(
    meter: Meter, reader: InMemoryMetricReader
) -> None:
    balancer = Balancer(BackendPool.static([A, B]))
    instrument(meter, api=balancer)
    with balancer.lease(exclude=[B]):
        collected = Collected(reader)
    api = {"backendpool.pool.name": "api"}
    assert collected.points("backendpool.balancer.picks") == [(api, 1)]
    assert collected.points("backendpool.balancer.in_flight") == [(api, 1)]
    assert (api | {"backendpool.backend.state": "available"}, 2) in collected.points(
        "backendpool.balancer.backends"
    )
    assert collected.points("backendpool.backend.picks") == [
        (api | {"server.address": "10.0.0.1", "server.port": 80}, 1),
        (api | {"server.address": "fe80::1", "server.port": 80}, 0),
    ]


def test_each_backend_can_be_left_out(meter: Meter, reader: InMemoryMetricReader) -> None:
    few, many = Balancer(BackendPool.static([A])), Balancer(BackendPool.static([A]))
    instrument(meter, few=few)
    instrument(meter, many=many, per_backend=False)
    collected = Collected(reader)
    assert collected.pools("backendpool.balancer.picks") == {"few", "many"}
    assert collected.pools("backendpool.backend.picks") == {"few"}


def test_a_meter_is_given_more_of_them_later(
    meter: Meter, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = SyncBackendPool.static([A]), Balancer(BackendPool.static([A, B]))
    with caplog.at_level(logging.WARNING):
        instrument(meter, first)
        instrument(meter, first, second=second)
    assert not caplog.records
    assert Collected(reader).pools("backendpool.backends") == {"static", "second"}


def test_another_one_of_the_same_name_is_refused_while_the_first_is_used(
    meter: Meter, reader: InMemoryMetricReader
) -> None:
    first = BackendPool.static([A])
    instrument(meter, first)
    with pytest.raises(ValueError, match="observes another one called 'static'"):
        instrument(meter, BackendPool.static([B]))
    del first
    gc.collect()
    second = BackendPool.static([A, B])
    instrument(meter, second)
    (point,) = Collected(reader).points("backendpool.backends")
    assert point[1] == 2


def test_a_balancer_that_is_dropped_is_observed_no_longer(
    meter: Meter, reader: InMemoryMetricReader
) -> None:
    kept, dropped = Balancer(BackendPool.static([A])), Balancer(BackendPool.static([A]))
    instrument(meter, kept=kept, dropped=dropped)
    assert Collected(reader).pools("backendpool.balancer.picks") == {"kept", "dropped"}
    del dropped
    gc.collect()
    for name in ("backends", "balancer.picks", "backend.picks"):
        assert Collected(reader).pools(f"backendpool.{name}") == {"kept"}


@pytest.fixture
def becomes_global(
    reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], MeterProvider]]:
    """As in a process that has no provider yet; sets one."""
    # The API sets one only once in a process, and has no way back.
    monkeypatch.setattr(_internal, "_METER_PROVIDER", None)
    monkeypatch.setattr(_internal, "_METER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(_internal, "_PROXY_METER_PROVIDER", _internal._ProxyMeterProvider())
    provider = MeterProvider([reader], shutdown_on_exit=False)

    def set_it() -> MeterProvider:
        set_meter_provider(provider)
        return provider

    yield set_it
    provider.shutdown()


def test_each_module_may_ask_for_the_meter_before_and_after_there_is_a_provider(
    becomes_global: Callable[[], MeterProvider], reader: InMemoryMetricReader
) -> None:
    first, second, third, fourth = [Balancer(BackendPool.static([A])) for _ in range(4)]
    kept = get_meter("shop")
    instrument(kept, first=first)
    instrument(get_meter("shop"), second=second)
    with pytest.raises(ValueError, match="observes another one called 'first'"):
        instrument(get_meter("shop"), first=second)
    becomes_global()
    instrument(get_meter("shop"), third=third)
    instrument(kept, fourth=fourth, per_backend=False)
    collected = Collected(reader)
    three = {"first", "second", "third"}
    for name in ("backends", "balancer.picks"):
        assert collected.pools(f"backendpool.{name}") == three | {"fourth"}
        assert len(collected.points(f"backendpool.{name}")) == 4
    assert collected.pools("backendpool.backend.picks") == three


def test_a_provider_may_become_the_global_one_when_its_meter_observes_already(
    becomes_global: Callable[[], MeterProvider], reader: InMemoryMetricReader
) -> None:
    provider = MeterProvider([later := InMemoryMetricReader()], shutdown_on_exit=False)
    first, second, third = [Balancer(BackendPool.static([A])) for _ in range(3)]
    instrument(provider.get_meter("shop", ""), first=first)
    instrument(get_meter("shop"), second=second)
    assert Collected(later).pools("backendpool.backends") == {"first"}
    set_meter_provider(provider)
    instrument(get_meter("shop"), third=third)
    assert Collected(later).pools("backendpool.backends") == {"first", "second", "third"}
    provider.shutdown()


@pytest.mark.parametrize(
    "scope",
    [{"name": "cart"}, {"name": "shop", "version": "2"}, {"name": "shop", "schema_url": "x:y"}],
)
def test_meters_of_another_scope_or_provider_observe_their_own(
    scope: dict[str, Any],
    becomes_global: Callable[[], MeterProvider],
    reader: InMemoryMetricReader,
) -> None:
    first, second, third = [BackendPool.static([A]) for _ in range(3)]
    instrument(get_meter("shop"), api=first)
    instrument(get_meter(**scope), api=second)
    other = MeterProvider([elsewhere := InMemoryMetricReader()], shutdown_on_exit=False)
    instrument(other.get_meter("shop", ""), api=third)
    becomes_global()
    data = reader.get_metrics_data()
    assert isinstance(data, MetricsData)
    (resource,) = data.resource_metrics
    for each in resource.scope_metrics:
        (backends,) = [metric for metric in each.metrics if metric.name == "backendpool.backends"]
        assert len(backends.data.data_points) == 1
    assert len(resource.scope_metrics) == 2
    assert len(Collected(elsewhere).points("backendpool.backends")) == 1
    other.shutdown()


def test_a_policy_that_raises_hides_nothing_of_the_others(
    meter: Meter, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
            raise ZeroDivisionError

    broken, whole = Balancer(BackendPool.static([A]), Broken()), Balancer(BackendPool.static([A]))
    instrument(meter, broken=broken, whole=whole)
    collected = Collected(reader)
    assert collected.pools("backendpool.balancer.picks") == {"broken", "whole"}
    assert collected.pools("backendpool.backend.picks") == {"whole"}
    assert not caplog.records


def test_something_else_is_refused(meter: Meter) -> None:
    wrong: Any = "dns://api:80"
    with pytest.raises(TypeError, match="is neither a Balancer nor a BackendPool"):
        instrument(meter, wrong)


def test_without_opentelemetry_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "backendpool_async.metrics.opentelemetry")
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(ImportError, match=r"pip install 'backendpool-async\[opentelemetry\]'"):
        backendpool_async.metrics.instrument  # noqa: B018 - that is the test


def test_another_name_of_the_module_is_missing_as_ever() -> None:
    with pytest.raises(AttributeError, match="no attribute 'instruments'"):
        backendpool_async.metrics.instruments  # noqa: B018 - that is the test


def test_a_pool_cannot_be_called_like_a_keyword(meter: Meter) -> None:
    pool: Any = BackendPool.static([A])
    with pytest.raises(TypeError, match="per_backend is a bool, not <BackendPool static"):
        instrument(meter, per_backend=pool)
