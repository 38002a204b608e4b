"""Sets of IP networks, and whether an address is in one."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

_REMEMBERED: Final = 4096

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Networks:
    """Some IP networks; ``host in networks`` for an address as text.

    What is no address (a name, a path of a socket, None) is in none. An IPv4 address that is
    mapped into IPv6 is the IPv4 address. Raises TypeError or ValueError naming the keyword.

    >>> "10.1.2.3" in Networks("trusted_proxies", ["10.0.0.0/8"])
    True
    >>> "::ffff:10.1.2.3" in Networks("trusted_proxies", ["10.0.0.0/8"])
    True
    >>> "localhost" in Networks("trusted_proxies", ["127.0.0.1"])
    False
    """

    __slots__ = ("_known", "_networks")

    def __init__(self, name: str, networks: Iterable[str]) -> None:
        if isinstance(networks, (str, bytes)):
            raise TypeError(f"{name}={networks!r} is one text, not a list of networks")
        self._networks: tuple[_Network, ...] = tuple(_parse(name, each) for each in networks)
        # The same few peers ask again and again.
        self._known: dict[str | None, bool] = {}

    def __contains__(self, host: str | None) -> bool:
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[host] = self._look_up(host)
        return known

    def __repr__(self) -> str:
        return f"[{', '.join(map(str, self._networks))}]"

    def _look_up(self, host: str | None) -> bool:
        address = ip_address(host)
        if address is None:
            return False
        return any(address in network for network in self._networks)


def ip_address(host: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a text is, without a zone; None when it is none."""
    if host is None:
        return None
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _parse(name: str, network: str) -> _Network:
    if not isinstance(network, str):
        raise TypeError(f"{name}: {network!r} is no text")
    try:
        return ipaddress.ip_network(network)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
