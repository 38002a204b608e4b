"""A request as it came, byte by byte, and what of its first line is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from backendpool_async.proxy.forwarded import Pair
from backendpool_async.proxy.grammar import TOKEN
from backendpool_async.proxy.refusal import Refusal

# Not even percent-encoded bytes are looked at; these would end the target, or the line.
_ENDS_TARGET: Final = bytes([*range(33), 127]) + b"#"
# A tunnel to anywhere; and what the proxy adds is not for the client to see (RFC 9110, 9.3.8).
_REFUSED_METHODS: Final = frozenset({b"CONNECT", b"TRACE"})
# A target with a host, RFC 9112, section 3.2.2; who names a user in it is refused.
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#@]+)([/?].*)?", re.DOTALL)
_MOST_DIGITS: Final = 9
# What may stand in a path as it is (RFC 3986, section 3.3).
_IN_PATHS: Final = "/:@!$&'()*+,;=~"


class ProxyRequest(NamedTuple):
    """What a client asks for.

    `target`: path and query as they came. `headers`: names in lower case. `client`: the peer's
    address, None where there is none (a Unix socket). `scheme`: "http" or "https"; `version` of
    HTTP: "1.0", "1.1", "2".
    """

    method: bytes
    target: bytes
    headers: Iterable[Pair]
    client: str | None
    scheme: str
    version: str


def request_line(method: bytes, target: bytes) -> bytes:
    """Return the first line for a backend. Raises `Refusal` for what cannot be passed on.

    >>> request_line(b"GET", b"/a%2Fb?")
    b'GET /a%2Fb? HTTP/1.1\\r\\n'
    """
    if method in _REFUSED_METHODS:
        raise Refusal(405, "the method is not for this server")
    if not method or method.translate(None, TOKEN):
        raise Refusal(400, "the method is malformed")
    if len(target.translate(None, _ENDS_TARGET)) != len(target):
        raise Refusal(400, "the target is malformed")
    # The form with a host in it would have the client choose who is asked.
    if target[:1] != b"/" and not (target == b"*" and method == b"OPTIONS"):
        raise Refusal(400, "the target is no path")
    return b"%b %b HTTP/1.1\r\n" % (method, target)


def with_own_target(request: ProxyRequest) -> ProxyRequest:
    """Return the request as it reads with a path for its target (RFC 9112, section 3.2.2).

    A target with a host in it is split: what it says of the host is the Host that counts. What
    cannot be split is as it was, for `request_line` to refuse.

    >>> with_own_target(
    ...     ProxyRequest(b"GET", b"http://api/x?y", [(b"host", b"b")], None, "http", "1.1")
    ... )[1:3]
    (b'/x?y', [(b'host', b'api')])
    """
    found = _ABSOLUTE.fullmatch(request.target)
    if found is None:
        return request
    host, rest = found.groups()
    if not rest:
        # RFC 9112, section 3.2.4.
        rest = b"*" if request.method == b"OPTIONS" else b"/"
    elif rest[:1] == b"?":
        rest = b"/" + rest
    # As many as there were: one too many, or none, is refused as ever.
    headers = [(name, host if name == b"host" else value) for name, value in request.headers]
    return request._replace(target=rest, headers=headers)


def forwarded_once(request: ProxyRequest) -> ProxyRequest:
    """Return an OPTIONS request with one less in Max-Forwards (RFC 9110, section 7.6.2).

    Raises `Refusal`: 200, the answer of the last who may have it; 400 for what is no number.
    """
    headers = []
    for name, value in request.headers:
        if name == b"max-forwards":
            if not value.isdigit() or len(value) > _MOST_DIGITS:
                raise Refusal(400, "a malformed Max-Forwards")
            if not int(value):
                raise Refusal(200, "this proxy was asked, and nobody behind it")
            value = b"%d" % (int(value) - 1)
        headers.append((name, value))
    return request._replace(headers=headers)


def asgi_target(scope: Mapping[str, Any]) -> bytes:
    """Return path and query of an ASGI scope as they came, without the `root_path` of a mount.

    An empty query (``/path?``) is not told from none by ASGI.

    >>> asgi_target({"raw_path": b"/api/a%2Fb", "root_path": "/api", "query_string": b"x=%20"})
    b'/a%2Fb?x=%20'
    """
    path: bytes | None = scope.get("raw_path")
    if path is None:
        path = quote(scope["path"], safe=_IN_PATHS).encode()
    root: str = scope.get("root_path", "")
    if root:
        path = without_prefix(path, root)
    query: bytes = scope.get("query_string", b"")
    return b"%b?%b" % (path, query) if query else path


def without_prefix(path: bytes, prefix: str) -> bytes:
    """Return a path without the prefix that it begins with, decoded or not; else as it is.

    Where the slash after the prefix is encoded, frameworks take it for one, and backends do not:
    what is returned begins with no slash then, and is refused.

    >>> without_prefix(b"/%61pi/x%2Fy", "/api")
    b'/x%2Fy'
    """
    decoded = prefix.rstrip("/").encode("utf-8", "surrogateescape")
    end = len(decoded) if path.startswith(decoded) else _end_of_decoded(path, decoded)
    rest = path[end:]
    # A server may have set it for the sake of links, and the path came without it.
    if rest[:1] not in (b"", b"/"):
        return rest if rest[:3].lower() == b"%2f" and rest != path else path
    return rest or b"/"


def _end_of_decoded(path: bytes, prefix: bytes) -> int:
    """Return where that part of a path ends which reads as the prefix once decoded; 0: nowhere."""
    at = 0
    for byte in prefix:
        if path[at : at + 1] == b"%":
            try:
                read, width = int(path[at + 1 : at + 3], 16), 3
            except ValueError:
                return 0
        else:
            read, width = (path[at] if at < len(path) else -1), 1
        if read != byte:
            return 0
        at += width
    return at
