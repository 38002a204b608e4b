"""HttpCheck: does it answer a request well?"""

from __future__ import annotations

import re
import ssl
from collections.abc import Container
from typing import TYPE_CHECKING, Final, Literal

from backendpool_async.backend import Backend
from backendpool_async.balance.health.addresses import checked_port
from backendpool_async.balance.health.check import CheckFailed
from backendpool_async.errors import quote

if TYPE_CHECKING:
    from backendpool_async.balance.health.http_client import HttpClient

# What may stand in a request line as it is: visible ASCII, and no fragment.
_is_path = re.compile(r"/[!\"$-~]*").fullmatch
_is_host = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?").fullmatch
_SUCCESSFUL: Final = range(200, 300)


class HttpCheck:
    """Sends a GET request to a backend, and looks at the status of the answer.

    * `path`: with the query, percent-encoded as it is to be sent.
    * `port`: connect to it instead of the backend's own; None: its own.
    * `host`: the Host header, and with ``https`` the name that the certificate is to be for; None:
      the backend itself.
    * `scheme`: ``http`` or ``https``.
    * `expect`: the statuses of a backend that is well; 2xx as Consul has it. A redirect is a
      status like any other: where it leads to is not asked.
    * `tls`: how ``https`` is verified; None: as by default.

    The status is the verdict, and the body is not waited for. Every check connects anew, as
    HAProxy's do and Envoy's do not by default: over a connection that is kept, a server that
    accepts no other one looks well. No proxy of the environment is used and no cookie is kept.

    Needs aiohttp, the extra ``health``: raises ImportError without it, TypeError or ValueError for
    a bad keyword. One check may serve several balancers and event loops; closing the one fails
    what is under way for another of the same loop.

    >>> HttpCheck("/health", expect={200, 204})
    HttpCheck('/health')
    """

    __slots__ = ("_client", "_expect", "_path")

    def __init__(
        self,
        path: str = "/",
        *,
        port: int | None = None,
        host: str | None = None,
        scheme: Literal["http", "https"] = "http",
        expect: Container[int] = _SUCCESSFUL,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not _is_path(path):
            raise ValueError(f"path={quote(path)} is no path of visible ASCII that begins with '/'")
        if host is not None and not _is_host(host):
            raise ValueError(f"host={quote(host)} is no Host header")
        if scheme not in ("http", "https"):
            raise ValueError(f"scheme={quote(scheme)} is neither 'http' nor 'https'")
        if not isinstance(expect, Container) or isinstance(expect, (str, bytes)):
            raise TypeError(
                f"expect={quote(repr(expect))} is no set of statuses, like {{200, 204}}"
            )
        self._path = path
        self._expect = expect
        self._client: HttpClient = _http_client()(scheme, path, host, checked_port(port), tls)

    async def check(self, backend: Backend) -> None:
        """Return when its status is expected; else raise `CheckFailed` or what aiohttp does."""
        status = await self._client.status(backend)
        if status not in self._expect:
            raise CheckFailed(f"status {status}")

    async def aclose(self) -> None:
        """Close what it holds on this event loop; it may be used again."""
        await self._client.aclose()

    def __repr__(self) -> str:
        return f"HttpCheck({self._path!r})"


def _http_client() -> type[HttpClient]:
    try:
        from backendpool_async.balance.health.http_client import HttpClient
    except ImportError as error:
        raise ImportError(
            "HttpCheck needs aiohttp: pip install 'backendpool-async[health]'"
        ) from error
    return HttpClient
