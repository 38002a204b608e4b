"""The text that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from backendpool_async.balance.pauses import collected
from backendpool_async.metrics.metric import (
    BACKEND_METRICS,
    BALANCER_METRICS,
    POOL_METRICS,
    Kind,
    Metric,
)
from backendpool_async.metrics.reading import (
    Measured,
    balancers_read,
    check_per_backend,
    named,
    pools_read,
)

PROMETHEUS_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of `prometheus_text`."""


class Named(Protocol):
    """A reading of any kind."""

    name: str


N = TypeVar("N", bound=Named)


def prometheus_text(*measured: Measured, per_backend: bool = True, **by_name: Measured) -> str:
    """Return the metrics of balancers and pools in Prometheus's text format, version 0.0.4.

    The label ``pool`` is the keyword, or else what errors and logs call the source: two of the same
    name need keywords. Of a balancer, its pool's metrics are there, too. A metric that has no value
    is left out, as the age of a list that was never refreshed. From any thread.

    Each backend has up to seven lines, which takes about 0.1 s for 10,000 of them: then call it in
    a thread, or leave them out with ``per_backend=False``, which takes 5 ms. What a backend counted
    goes with it when it leaves the list; the balancer's own counters keep it. While a policy
    raises, its balancer is told as it was before.

    Raises TypeError for what is neither a balancer nor a pool, ValueError when two have one name.

    >>> from backendpool_async import BackendPool
    >>> print(prometheus_text(api=BackendPool.static(["10.0.0.1:8080"])))
    # HELP backendpool_backends Backends in the list.
    # TYPE backendpool_backends gauge
    backendpool_backends{pool="api"} 1
    # HELP backendpool_list_changes_total How often the list changed.
    ...
    """
    check_per_backend(per_backend)
    return text_of(named(measured, by_name), per_backend=per_backend)


def text_of(measured: Mapping[str, Measured], *, per_backend: bool) -> str:
    """Return `prometheus_text` of what is named already, whatever the names."""
    pools, balancers = pools_read(measured), balancers_read(measured)
    lines: list[str] = []
    for pool_metric in POOL_METRICS:
        lines += collected(_lines(pool_metric, pools))
    for metric in (*BALANCER_METRICS, *(BACKEND_METRICS if per_backend else ())):
        lines += collected(_lines(metric, balancers))
    return "".join(lines)


def _lines(metric: Metric[N], of: Sequence[N]) -> Iterator[str]:
    name = _name(metric)
    is_first = True
    for reading in of:
        pool = f'{name}{{pool="{_escaped(reading.name)}"'
        for sample in metric.read(reading):
            if is_first:
                is_first = False
                yield from _head(metric, name)
            if sample.label is None:
                yield f"{pool}}} {sample.value}\n"
            else:
                yield f'{pool},{sample.label[0]}="{_escaped(sample.label[1])}"}} {sample.value}\n'


def _name(metric: Metric[N]) -> str:
    # As the OpenTelemetry specification has it, "Prometheus and OpenMetrics Compatibility".
    name = metric.name.replace(".", "_")
    if metric.unit == "s":
        name += "_seconds"
    return f"{name}_total" if metric.kind is Kind.COUNTER else name


def _head(metric: Metric[N], name: str) -> Iterable[str]:
    kind = "counter" if metric.kind is Kind.COUNTER else "gauge"
    return f"# HELP {name} {metric.description}\n", f"# TYPE {name} {kind}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
