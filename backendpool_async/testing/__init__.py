"""Drive pools from async tests: scripted sources, a pool fed by hand, virtual time.

Two more rooms are imported by their own names, because each needs more than the library itself:
`backendpool_async.testing.dns_server`, a DNS server that answers by a script, needs dnspython
(the extra ``testing``), and `backendpool_async.testing.pytest_plugin`, the marker
``virtual_time``, needs pytest-asyncio.
"""

from backendpool_async.testing.fed import FedSource, fed_pool
from backendpool_async.testing.scripted import (
    HintingSource,
    ScriptedSource,
    after,
    gated,
    hang,
    stubborn,
)
from backendpool_async.testing.virtual_time import DeadlockError, VirtualTimeLoop

__all__ = [
    "DeadlockError",
    "FedSource",
    "HintingSource",
    "ScriptedSource",
    "VirtualTimeLoop",
    "after",
    "fed_pool",
    "gated",
    "hang",
    "stubborn",
]
