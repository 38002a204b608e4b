"""For aiohttp: a client that asks a balancer, and an application that keeps one running."""

from __future__ import annotations

from backendpool_async.extras import missing

try:
    from backendpool_async.aiohttp.application import balancer_context
    from backendpool_async.aiohttp.connector import BackendConnector
    from backendpool_async.aiohttp.middleware import backend_middleware
except ModuleNotFoundError as _error:
    raise missing(__name__, "'backendpool-async[aiohttp]'", _error) from _error

__all__ = ["BackendConnector", "backend_middleware", "balancer_context"]
