"""Who asked first, as far as trusted proxies say so."""

from __future__ import annotations

from backendpool_async.proxy.networks import Networks
from backendpool_async.proxy.request import ProxyRequest


def client_address(request: ProxyRequest, trusted: Networks) -> str | None:
    """Return the address of the client that the trusted proxies before this one speak for.

    The peer's, unless that is trusted; then, from the last to the first of X-Forwarded-For, the
    first that is not trusted, or the outermost. None without a peer's address.

    >>> headers = [(b"x-forwarded-for", b"198.51.100.1, 203.0.113.7, 10.0.0.2")]
    >>> request = ProxyRequest(b"GET", b"/", headers, "10.0.0.1", "http", "1.1")
    >>> client_address(request, Networks("trusted_proxies", ["10.0.0.0/8"]))
    '203.0.113.7'
    """
    client = request.client
    if client not in trusted:
        return client
    lines = [value for name, value in request.headers if name == b"x-forwarded-for"]
    for hop in reversed(b",".join(lines).decode("latin-1").split(",")):
        client = hop.strip() or client
        if client not in trusted:
            break
    return client
