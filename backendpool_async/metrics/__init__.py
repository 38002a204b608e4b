"""What pools and balancers count, for Prometheus and OpenTelemetry.

Nothing is counted for it: it is read off the pools and balancers when somebody asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backendpool_async.metrics.prometheus import PROMETHEUS_CONTENT_TYPE, prometheus_text

if TYPE_CHECKING:
    from backendpool_async.metrics.opentelemetry import instrument

__all__ = ["PROMETHEUS_CONTENT_TYPE", "instrument", "prometheus_text"]


def __getattr__(name: str) -> object:
    # Who uses one of the two needs nothing of the other.
    if name != "instrument":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from backendpool_async.metrics.opentelemetry import instrument

    return instrument
