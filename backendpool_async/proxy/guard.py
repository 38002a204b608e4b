"""Where discovery may lead: an address outside is never connected to."""

from __future__ import annotations

import socket
from typing import Final

from aiohttp import DefaultResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from backendpool_async.backend import Backend
from backendpool_async.proxy.networks import Networks, ip_address


class OutsideNetworks(ConnectionRefusedError):
    """A backend is, or resolves to, an address outside `allow_networks`; nothing was sent."""


def refuse_literal_outside(backend: Backend, allowed: Networks) -> None:
    """Raise `OutsideNetworks` for a backend that is an address, and one outside."""
    host = backend.host
    if host not in allowed and ip_address(host) is not None:
        raise OutsideNetworks(f"{host} is outside {allowed!r}")


class GuardedResolver(AbstractResolver):
    """Resolves names to the allowed ones of their addresses.

    The connector connects to what it gets from here, so there is no moment between the check and
    the use. A name with no allowed address is refused.
    """

    def __init__(self, allowed: Networks) -> None:
        self._allowed: Final = allowed
        self._resolver: Final[AbstractResolver] = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return what the system's resolver returns, without what is not allowed."""
        found = await self._resolver.resolve(host, port, family)
        inside = [each for each in found if each["host"] in self._allowed]
        if found and not inside:
            raise OutsideNetworks(f"{host} has no address inside {self._allowed!r}")
        return inside

    async def close(self) -> None:
        """Release what the resolver holds."""
        await self._resolver.close()
