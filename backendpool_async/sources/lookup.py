"""Asking for the addresses of a name: by c-ares, by the system, by either."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import aiodns
import pycares

from backendpool_async.errors import EmptyAnswer, SourceError
from backendpool_async.sources.resolver_hub import ResolverHub
from backendpool_async.threads import FewThreads, in_thread

RECORD: Final = {socket.AF_INET: "A", socket.AF_INET6: "AAAA"}
_RECORD_TYPE: Final = {socket.AF_INET: 1, socket.AF_INET6: 28}
_NEGATIVE: Final = {1: "NODATA", 4: "NXDOMAIN"}
_FAILURE: Final = {
    2: "FORMERR",
    3: "SERVFAIL",
    5: "NOTIMP",
    6: "REFUSED",
    10: "a malformed answer",
    11: "no nameserver could be reached",
    12: "no nameserver answered",
    24: "the lookup was cancelled",
}
_SYSTEM_NEGATIVE: Final = {
    getattr(socket, name, None) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
}
# Each may hang for as long as the system's resolver likes, whatever our timeout: so few for the
# whole process, also when a thousand pools come here because c-ares fails.
_few: Final = FewThreads(4)

Family = socket.AddressFamily
_AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]


class Found(NamedTuple):
    """The addresses of one family, and the seconds for which they are vouched for."""

    addresses: frozenset[str]
    ttl: float | None


class Lookup(Protocol):
    """A way to ask. Raises `EmptyAnswer` for a negative answer, else what `SourceError` names."""

    def addresses(self, name: str, family: Family) -> Coroutine[Any, Any, Found]: ...

    async def aclose(self) -> None: ...


class CaresLookup:
    """Asks as the system is configured: hosts file, nameservers, search domains, ``localhost``."""

    nameservers: Sequence[str] = ()

    def __init__(self) -> None:
        self._hub: ResolverHub | None = None

    async def addresses(self, name: str, family: Family) -> Found:
        try:
            result = await self._joined().lookup(
                lambda resolver: resolver.getaddrinfo(name, family=family)
            )
        except (aiodns.error.DNSError, pycares.AresError) as error:
            raise _explained(error, name, family) from error
        times = [node.ttl for node in result.nodes] + [alias.ttl for alias in result.cnames]
        found = [node.addr[0].decode() for node in result.nodes if node.family == family]
        return _found(found, times, name, family)

    async def aclose(self) -> None:
        hub, self._hub = self._hub, None
        if hub is not None:
            await hub.leave()

    def _joined(self) -> ResolverHub:
        hub = self._hub
        if hub is None or hub.loop is not asyncio.get_running_loop():
            hub = self._hub = ResolverHub.join(self.nameservers)
        return hub


class NameserverLookup(CaresLookup):
    """Asks these nameservers and nobody else: no hosts file, no search domains."""

    def __init__(self, nameservers: Sequence[str]) -> None:
        super().__init__()
        self.nameservers = nameservers

    async def addresses(self, name: str, family: Family) -> Found:
        try:
            result = await self._joined().lookup(
                lambda resolver: resolver.query_dns(name, RECORD[family])
            )
        except (aiodns.error.DNSError, pycares.AresError) as error:
            raise _explained(error, name, family) from error
        # The aliases on the way stand in the answer too, and one that ends early ends it all.
        times = [record.ttl for record in result.answer]
        found = [
            record.data.addr
            for record in result.answer
            if record.type == _RECORD_TYPE[family]
            and isinstance(record.data, (pycares.ARecordData, pycares.AAAARecordData))
        ]
        return _found(found, times, name, family)


class SystemLookup:
    """Asks the system's own resolver, in a few threads: all that NSS knows, but no TTLs."""

    def __init__(self) -> None:
        self._asking: dict[Family, threading.Thread] = {}

    async def addresses(self, name: str, family: Family) -> Found:
        asking = self._asking.get(family)
        if asking is not None and asking.is_alive():
            # One name that hangs takes one thread, and leaves the others to the others.
            raise SourceError(name, "the system's resolver is still busy with the lookup before")
        try:
            infos = await in_thread(lambda: self._getaddrinfo(name, family), _few.start)
        except OSError as error:
            negative = isinstance(error, socket.gaierror) and error.errno in _SYSTEM_NEGATIVE
            kind = EmptyAnswer if negative else SourceError
            asked = f"{RECORD[family]} lookup by the system"
            raise kind(name, f"{asked}: {error.strerror}") from error
        return _found([str(info[4][0]) for info in infos], (), name, family)

    async def aclose(self) -> None:
        """Nothing is held; a thread ends with its call."""

    def _getaddrinfo(self, name: str, family: Family) -> list[_AddressInfo]:
        self._asking[family] = threading.current_thread()
        try:
            return socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
        finally:
            del self._asking[family]


class EitherLookup:
    """Asks c-ares, and the system where c-ares fails.

    The system tells a failure from a negative answer less well, so its "none" is not taken.
    """

    def __init__(self) -> None:
        self._first = CaresLookup()
        self._second = SystemLookup()

    async def addresses(self, name: str, family: Family) -> Found:
        try:
            return await self._first.addresses(name, family)
        except EmptyAnswer:
            raise
        except SourceError as failure:
            try:
                return await self._second.addresses(name, family)
            except SourceError:
                raise failure from failure.__cause__

    async def aclose(self) -> None:
        await self._first.aclose()


def _found(addresses: Iterable[str], times: Iterable[float], name: str, family: Family) -> Found:
    found = Found(frozenset(addresses), min(times, default=None))
    if not found.addresses:
        raise EmptyAnswer(name, f"{RECORD[family]} lookup: no such record in the answer")
    return found


def _explained(error: Exception, name: str, family: Family) -> SourceError:
    # No resolver could be made at all when it is no DNSError: its argument is no code.
    code = error.args[0]
    asked = f"{RECORD[family]} lookup"
    if code in _NEGATIVE:
        return EmptyAnswer(name, f"{asked}: {_NEGATIVE[code]}")
    return SourceError(name, f"{asked}: {_FAILURE.get(code, str(error))}")
