"""Active health checks: asking the backends themselves whether they are well."""

from backendpool_async.balance.health.check import Check, CheckFailed
from backendpool_async.balance.health.check_runner import CheckRunner
from backendpool_async.balance.health.http import HttpCheck
from backendpool_async.balance.health.monitor import HealthMonitor
from backendpool_async.balance.health.settings import HealthChecks
from backendpool_async.balance.health.tcp import TcpCheck

__all__ = [
    "Check",
    "CheckFailed",
    "CheckRunner",
    "HealthChecks",
    "HealthMonitor",
    "HttpCheck",
    "TcpCheck",
]
