"""A DNS name: one backend an address."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, TypeVar

from backendpool_async.backend import Backend
from backendpool_async.errors import EmptyAnswer, InvalidBackend, SourceError, quote
from backendpool_async.logs import log
from backendpool_async.source import Answer
from backendpool_async.sources.lookup import (
    RECORD,
    CaresLookup,
    EitherLookup,
    Family,
    Found,
    Lookup,
    NameserverLookup,
    SystemLookup,
)

T = TypeVar("T")

FamilyName = Literal["ipv4", "ipv6", "any"]
ResolverName = Literal["auto", "c-ares", "system"]

_FAMILIES: Final[dict[str, tuple[Family, ...]]] = {
    "ipv4": (socket.AF_INET,),
    "ipv6": (socket.AF_INET6,),
    "any": (socket.AF_INET, socket.AF_INET6),
}
_RESOLVERS: Final[dict[str, Callable[[], Lookup]]] = {
    "auto": EitherLookup,
    "c-ares": CaresLookup,
    "system": SystemLookup,
}
# So long may one family be behind the addresses of the other. A nameserver that has to ask others
# first answers within it; c-ares gives up one that is silent only after seconds, and where there
# are several, only after the pool has given up both families.
_GRACE: Final = 0.5
_NOTHING: Final = Found(frozenset(), 0)


class DnsSource:
    """The A or AAAA records of a name, each with the same port; asked again after their TTL.

    NXDOMAIN and NODATA are negative answers (RFC 2308); everything else that is no address
    (SERVFAIL, REFUSED, silence) is a failure. With ``family="any"`` a family that fails, or comes
    half a second after the addresses of the other, keeps its last good ones while the other
    answers. An address instead of a name is its own answer.
    Raises `InvalidBackend` for a bad host or port, ValueError for the other arguments.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        family: FamilyName,
        nameservers: Sequence[str] | None,
        resolver: ResolverName,
        min_ttl: float,
    ) -> None:
        self._target = _target(host, port)
        self._families = _one_of("family", family, _FAMILIES)
        self._lookup = _lookup(_one_of("resolver", resolver, _RESOLVERS), resolver, nameservers)
        self._literal = _literal(self._target, self._families, family)
        if not 0 <= min_ttl < math.inf:
            raise ValueError(f"{min_ttl=} is no number of seconds")
        self._min_ttl = min_ttl
        self._last_good: dict[Family, Found] = {}
        self._failing: set[Family] = set()
        # What was answered last: most answers repeat the one before.
        self._addresses: frozenset[str] = frozenset()
        self._backends: tuple[Backend, ...] = ()

    async def fetch(self) -> Answer:
        if self._literal is not None:
            return self._literal
        if len(self._families) > 1:
            return await self._fetch_any()
        return self._answer([await self._lookup.addresses(self._target.host, self._families[0])])

    async def _fetch_any(self) -> Answer:
        found: list[Found] = []
        failures: dict[Family, Exception] = {}
        for family, outcome in (await self._outcomes()).items():
            if isinstance(outcome, Found):
                self._last_good[family] = outcome
                found.append(outcome)
            elif isinstance(outcome, EmptyAnswer):
                self._last_good.pop(family, None)
            else:
                failures[family] = outcome
                # Not vouched for any longer: it is asked again as soon as may be.
                found.append(self._last_good.get(family, _NOTHING)._replace(ttl=0))
        has_addresses = any(each.addresses for each in found)
        if len(failures) == len(self._families) or (failures and not has_addresses):
            raise next(iter(failures.values()))
        self._tell(failures)
        if not found:
            raise EmptyAnswer(str(self), "A and AAAA lookup: neither has a record")
        return self._answer(found)

    async def _outcomes(self) -> dict[Family, Found | Exception]:
        host = self._target.host
        outcomes: dict[Family, Found | Exception] = {}

        async def ask(family: Family) -> None:
            try:
                outcomes[family] = await self._lookup.addresses(host, family)
            except Exception as failure:  # noqa: BLE001 - one family's; the other may answer
                # With its traceback it would keep this frame alive, and this frame it.
                outcomes[family] = failure.with_traceback(None)
            else:
                if grace.when() is None:
                    grace.reschedule(asyncio.get_running_loop().time() + _GRACE)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as grace:
                # Not a task group: asyncio complains of its tasks when the loop is closed under
                # them. Cancelled, this one too ends only when both lookups have ended.
                await asyncio.gather(*map(ask, self._families), return_exceptions=True)
        reason = f"no answer within {_GRACE} s of the other family's"
        late = {
            each: SourceError(host, f"{RECORD[each]} lookup: {reason}") for each in self._families
        }
        return late | outcomes

    def _answer(self, found: Sequence[Found]) -> Answer:
        addresses = _NOTHING.addresses.union(*[each.addresses for each in found])
        if addresses != self._addresses:
            self._backends = _backends(addresses, self._target.port)
            self._addresses = addresses
        times = [each.ttl for each in found if each.ttl is not None]
        return Answer._of_parsed(self._backends, max(min(times), self._min_ttl) if times else None)

    def _tell(self, failures: Mapping[Family, Exception]) -> None:
        for family, failure in failures.items():
            if family not in self._failing:
                log(logging.WARNING, f"{self}: one family fails, its addresses stay: {failure}")
        for family in self._failing - failures.keys():
            log(
                logging.INFO,
                f"{self}: the family that failed answers again: {RECORD[family]} lookup",
            )
        self._failing = set(failures)

    async def aclose(self) -> None:
        """Give back the resolver."""
        await self._lookup.aclose()

    def __str__(self) -> str:
        return f"dns://{self._target}"


def _target(host: str, port: int) -> Backend:
    if not isinstance(host, str):
        raise InvalidBackend(host, f"a host is a str, not {type(host).__name__}")
    return Backend(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _backends(addresses: Iterable[str], port: int) -> tuple[Backend, ...]:
    # Sorted: most servers rotate their answers, and a rotation is no change.
    entries = [
        f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        for address in sorted(addresses, key=_family_and_number)
    ]
    return Answer(entries).backends


def _family_and_number(address: str) -> tuple[bool, bytes]:
    is_ipv6 = ":" in address
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    return is_ipv6, socket.inet_pton(family, address.partition("%")[0])


def _one_of(name: str, value: str, choices: Mapping[str, T]) -> T:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is none of {', '.join(choices)}")
    return choices[value]


def _lookup(make: Callable[[], Lookup], resolver: str, nameservers: Sequence[str] | None) -> Lookup:
    if nameservers is None:
        return make()
    if resolver == "system":
        raise ValueError("nameservers are asked by c-ares: the system's resolver has its own")
    if isinstance(nameservers, str) or not isinstance(nameservers, Iterable) or not nameservers:
        raise ValueError(f"{nameservers=} is no list of 'address' or 'address:port'")
    return NameserverLookup([_nameserver(str(text)) for text in nameservers])


def _nameserver(text: str) -> str:
    address = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
    with_port = (
        address if address.rpartition(":")[2].isdigit() and ":" in address else f"{address}:53"
    )
    try:
        server = Backend(with_port)
        ipaddress.ip_address(server.host.partition("%")[0])
    except ValueError:
        raise ValueError(f"nameserver {quote(text)} is no 'address' or 'address:port'") from None
    return server


def _literal(target: Backend, families: Sequence[Family], family: str) -> Answer | None:
    try:
        version = ipaddress.ip_address(target.host.partition("%")[0]).version
    except ValueError:
        return None
    if (socket.AF_INET if version == 4 else socket.AF_INET6) not in families:
        raise ValueError(f"{target.host} is an IPv{version} address, but {family=}")
    return Answer([target])
