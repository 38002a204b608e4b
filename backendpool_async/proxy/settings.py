"""What a reverse proxy is told when it is made, checked there and then."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from backendpool_async.backend import Backend
from backendpool_async.errors import InvalidBackend
from backendpool_async.keywords import count, seconds, statuses
from backendpool_async.proxy.grammar import HOST, LONGEST_HOST, TOKEN
from backendpool_async.proxy.networks import Networks
from backendpool_async.proxy.request import ProxyRequest
from backendpool_async.retries import Retries, checked_retries

# What a request is hashed by (`Maglev`); None: it is not.
Key = Callable[[ProxyRequest], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLimits:
    """How much of anything the proxy takes, of its clients and of backends.

    * `header_size`: bytes of all header lines of a request (431 beyond it) or an answer (502).
    * `body_size`: bytes of a request's body (413 beyond it); None: as many as come.
    * `message_size`: bytes of one WebSocket message, in either direction (1009 beyond it).
    * `connect_timeout`: seconds until a connection to a backend has to be there.
    * `idle_timeout`: seconds in which nothing may move in either direction, before the answer
      (504) and while it passes (it is broken off). The head of an answer moves when it is whole. A
      body moves when some of it comes, and when a peer takes some, however little, where that is
      to be seen: of backends always, of clients under uvicorn (unless a framework is around the
      proxy) and in aiohttp.web. Where it is not, and on other systems than Linux, a body moves
      when there is room for more of it: the server and the kernel hold some hundred KiB, for which
      a slow client may need longer than this.
    * `total_timeout`: seconds for a request and its whole answer, but not for a WebSocket; None: as
      long as it takes.
    * `concurrent_requests`: how many may be under way at once (503 beyond it).

    Raises TypeError or ValueError for a number out of range.

    >>> ProxyLimits(idle_timeout=30).idle_timeout
    30.0
    """

    header_size: int = 65_536
    body_size: int | None = None
    message_size: int = 16_777_216
    connect_timeout: float = 5.0
    idle_timeout: float = 60.0
    total_timeout: float | None = None
    concurrent_requests: int = 10_000

    def __post_init__(self) -> None:
        count("header_size", self.header_size)
        count("message_size", self.message_size)
        if self.body_size is not None:
            count("body_size", self.body_size)
        for name in ("connect_timeout", "idle_timeout", "total_timeout"):
            value = getattr(self, name)
            if value is not None or name != "total_timeout":
                object.__setattr__(self, name, seconds(name, value))
        count("concurrent_requests", self.concurrent_requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """All keywords of a reverse proxy, checked and made ready for use.

    `host_header` is what backends get as Host: None the client's own, ``b""`` their address, else
    this name.
    """

    limits: ProxyLimits
    retries: Retries
    failure_statuses: frozenset[int]
    trusted_proxies: Networks
    allow_networks: Networks | None
    host_header: bytes | None
    via: bytes
    retry_after: int
    tls: ssl.SSLContext | None
    tls_name: str | None
    key: Key | None


def checked_settings(
    *,
    host: str,
    trusted_proxies: Iterable[str],
    allow_networks: Iterable[str] | None,
    limits: ProxyLimits | None,
    retries: Retries | None,
    failure_statuses: Collection[int],
    via: str,
    retry_after: int,
    tls: ssl.SSLContext | None,
    tls_name: str | None,
    key: Key | None,
) -> ProxySettings:
    """Return the settings. Raises TypeError or ValueError that names the keyword."""
    if limits is not None and not isinstance(limits, ProxyLimits):
        raise TypeError(f"limits={limits!r} is no ProxyLimits")
    if tls is not None and not isinstance(tls, ssl.SSLContext):
        raise TypeError(f"tls={tls!r} is no ssl.SSLContext")
    if key is not None and not callable(key):
        raise TypeError(f"key={key!r} cannot be called")
    return ProxySettings(
        limits=ProxyLimits() if limits is None else limits,
        retries=checked_retries(retries),
        failure_statuses=statuses("failure_statuses", failure_statuses),
        trusted_proxies=Networks("trusted_proxies", trusted_proxies),
        allow_networks=(
            None if allow_networks is None else Networks("allow_networks", allow_networks)
        ),
        host_header=_host_header(host),
        via=_pseudonym(via),
        retry_after=count("retry_after", retry_after),
        tls=tls,
        tls_name=_tls_name(tls_name, tls),
        key=key,
    )


def _host_header(host: str) -> bytes | None:
    if not isinstance(host, str):
        raise TypeError(f"host={host!r} is no text")
    if host == "preserve":
        return None
    if host == "backend":
        return b""
    name = host.encode("ascii", "replace")
    if not name or name.translate(None, HOST) or len(name) > LONGEST_HOST:
        raise ValueError(f"host={host!r} is neither 'preserve' nor 'backend' nor a name")
    return name


def _tls_name(name: str | None, context: ssl.SSLContext | None) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"tls_name={name!r} is no text")
    if context is None:
        raise ValueError(f"tls_name={name!r} is of no use without tls")
    try:
        return Backend.parse(f"{name}:443").host
    except InvalidBackend:
        raise ValueError(f"tls_name={name!r} is no name of a host") from None


def _pseudonym(via: str) -> bytes:
    if not isinstance(via, str):
        raise TypeError(f"via={via!r} is no text")
    name = via.encode("ascii", "replace")
    if not name or name.translate(None, TOKEN):
        raise ValueError(f"via={via!r} is no name (RFC 9110, token)")
    return name
