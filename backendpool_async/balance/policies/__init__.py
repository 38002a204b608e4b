"""The policies: how one backend of several is chosen."""

from backendpool_async.balance.policies.least_request import LeastRequest
from backendpool_async.balance.policies.maglev import Maglev
from backendpool_async.balance.policies.peak_ewma import PeakEwma
from backendpool_async.balance.policies.random import Random
from backendpool_async.balance.policies.round_robin import RoundRobin

__all__ = ["LeastRequest", "Maglev", "PeakEwma", "Random", "RoundRobin"]
