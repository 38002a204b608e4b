"""A reverse proxy for HTTP and WebSockets that reads the live list at each request."""

from __future__ import annotations

from backendpool_async.extras import missing

try:
    from backendpool_async.proxy.asgi import ReverseProxy
    from backendpool_async.proxy.refusal import BrokenOff
    from backendpool_async.proxy.request import ProxyRequest
    from backendpool_async.proxy.settings import ProxyLimits
except ModuleNotFoundError as _error:
    raise missing(__name__, "'backendpool-async[proxy]'", _error) from _error

__all__ = ["BrokenOff", "ProxyLimits", "ProxyRequest", "ReverseProxy"]
