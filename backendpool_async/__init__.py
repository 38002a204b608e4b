"""Client-side service discovery for asyncio: the live list of a service's backends.

>>> from backendpool_async import BackendPool
>>> pool = BackendPool.static(["10.0.0.1:8080", "10.0.0.2:8080"])
>>> pool.backends()[0].host
'10.0.0.1'
"""

from __future__ import annotations

import logging

from backendpool_async.backend import Backend
from backendpool_async.balance.balancer import Balancer
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.ejection import FailurePercentage, OutlierEjection, SuccessRate
from backendpool_async.balance.explanation import Explanation
from backendpool_async.balance.failures import Failure, transport_failure
from backendpool_async.balance.health import Check, HealthChecks, HttpCheck, TcpCheck
from backendpool_async.balance.lease import Lease
from backendpool_async.balance.policies import LeastRequest, Maglev, PeakEwma, Random, RoundRobin
from backendpool_async.balance.policy import Chooser, Policy
from backendpool_async.balance.subset import Subset
from backendpool_async.errors import (
    BackendPoolError,
    EmptyAnswer,
    InvalidBackend,
    NoBackends,
    PoolClosed,
    ShrunkAnswer,
    SourceError,
    SourceTimeout,
)
from backendpool_async.pool import BackendPool
from backendpool_async.snapshot import Snapshot
from backendpool_async.source import Answer, Source

__all__ = [
    "Answer",
    "Backend",
    "BackendPool",
    "BackendPoolError",
    "Balancer",
    "Candidate",
    "Check",
    "Chooser",
    "EmptyAnswer",
    "Explanation",
    "Failure",
    "FailurePercentage",
    "HealthChecks",
    "HttpCheck",
    "InvalidBackend",
    "Lease",
    "LeastRequest",
    "Maglev",
    "NoBackends",
    "OutlierEjection",
    "PeakEwma",
    "Policy",
    "PoolClosed",
    "Random",
    "RoundRobin",
    "ShrunkAnswer",
    "Snapshot",
    "Source",
    "SourceError",
    "SourceTimeout",
    "Subset",
    "SuccessRate",
    "TcpCheck",
    "transport_failure",
]

__version__ = "0.1.0"

# A library speaks when the application lets it: without this, warnings reach stderr unasked.
logging.getLogger("backendpool_async").addHandler(logging.NullHandler())
