"""How often backends are checked, and how many results it takes to believe them."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from backendpool_async.balance.health.check import Check
from backendpool_async.errors import quote
from backendpool_async.keywords import count, seconds


@dataclass(frozen=True, slots=True)
class HealthChecks:
    """Which check every backend of the list has to pass, and how often.

    * `interval`: seconds between two checks of a backend, give or take 10 %. A new one is checked
      at once.
    * `timeout`: seconds; a check that takes longer has failed. One that swallows its cancellation
      too has failed again every interval until it ends; never two of one backend run at once.
    * `fall`: so many failures in a row make a backend unhealthy.
    * `rise`: so many successes in a row make it healthy again.
    * `concurrency`: the most checks under way at once; the others wait, first due first.

    The first result of a backend decides at once, whatever `fall` and `rise` are: so does Envoy's
    ("during startup, only a single successful health check is required", and until then a host
    counts as unhealthy; here it gets requests until a check fails). `fall`, `rise`, their defaults
    and the 2xx of `HttpCheck` are as known from HAProxy and Consul. Raises TypeError or ValueError.

    >>> from backendpool_async.balance.health.tcp import TcpCheck
    >>> HealthChecks(TcpCheck(), interval=5).timeout
    2.0
    """

    check: Check
    _: KW_ONLY
    interval: float = 10.0
    timeout: float = 2.0
    fall: int = 3
    rise: int = 2
    concurrency: int = 64

    def __post_init__(self) -> None:
        if isinstance(self.check, type):
            name = self.check.__name__
            raise TypeError(f"a check is an instance: pass {name}(), not the class")
        if not isinstance(self.check, Check):
            raise TypeError(
                f"a check has 'async def check(backend)', not {quote(repr(self.check))}:"
                " TcpCheck(), HttpCheck('/health') or one of your own"
            )
        seconds("interval", self.interval)
        seconds("timeout", self.timeout)
        count("fall", self.fall)
        count("rise", self.rise)
        count("concurrency", self.concurrency)
