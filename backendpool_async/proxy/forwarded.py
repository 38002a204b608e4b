"""Who the client is, for those behind the proxy: X-Forwarded-*, Forwarded and Via."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backendpool_async.proxy.networks import Networks, ip_address

Pair = tuple[bytes, bytes]

# What a proxy before us says of the client: believed only of those that are trusted.
CLAIMS: Final = frozenset(
    {
        b"forwarded",
        b"cf-connecting-ip",
        b"fastly-client-ip",
        b"true-client-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-forwarded",
        b"x-real-ip",
        b"x-rewrite-url",
    }
)
CLAIM_PREFIXES: Final = (b"x-forwarded-", b"x-original-")
_GROWING: Final = frozenset({b"x-forwarded-for", b"forwarded"})
# What a trusted proxy has said is not said again: it knows the client's own scheme and host.
_SAID_ONCE: Final = frozenset({b"x-forwarded-proto", b"x-forwarded-host"})
_SCHEMES: Final = {"http": b"http", "https": b"https", "ws": b"http", "wss": b"https"}
_REMEMBERED: Final = 1024


class Forwarded:
    """Makes the lines that say who asks.

    >>> forwarded = Forwarded(Networks("trusted_proxies", ["10.0.0.0/8"]))
    >>> for name, value in forwarded.lines("2001:db8::1", "https", b"api", ()):
    ...     print(name.decode(), value.decode())
    x-forwarded-for 2001:db8::1
    x-forwarded-proto https
    x-forwarded-host api
    forwarded for="[2001:db8::1]";host="api";proto=https
    """

    __slots__ = ("_known", "_trusted")

    def __init__(self, trusted: Networks) -> None:
        self._trusted = trusted
        self._known: dict[tuple[str | None, str, bytes], list[Pair]] = {}

    def lines(
        self, client: str | None, scheme: str, host: bytes, claims: Sequence[Pair]
    ) -> list[Pair]:
        """Return the lines for a backend; not to be changed.

        `claims` are the lines of this kind that came with the request: dropped unless `client`, the
        peer's address, is trusted.
        """
        own = self._known.get((client, scheme, host))
        if own is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            own = self._known[client, scheme, host] = _own(
                client, _SCHEMES.get(scheme, b"http"), host
            )
        if claims and client in self._trusted:
            return _added(claims, own)
        return own


def _own(client: str | None, scheme: bytes, host: bytes) -> list[Pair]:
    address = ip_address(client)
    shown = b"" if address is None else str(address).encode()
    node = b"unknown" if not shown else (b'"[%b]"' % shown if b":" in shown else shown)
    lines = [(b"x-forwarded-for", shown or b"unknown"), (b"x-forwarded-proto", scheme)]
    # A Host has no character that would have to be escaped.
    if host:
        lines.append((b"x-forwarded-host", host))
        lines.append((b"forwarded", b'for=%b;host="%b";proto=%b' % (node, host, scheme)))
    else:
        lines.append((b"forwarded", b"for=%b;proto=%b" % (node, scheme)))
    return lines


def _added(claims: Sequence[Pair], own: Sequence[Pair]) -> list[Pair]:
    said = {name for name, _ in claims}
    lines = [claim for claim in claims if claim[0] not in _GROWING]
    for name, value in own:
        if name in _GROWING:
            before = [theirs for claimed, theirs in claims if claimed == name]
            lines.append((name, b", ".join([*before, value])))
        elif not (name in _SAID_ONCE and name in said):
            lines.append((name, value))
    return lines
