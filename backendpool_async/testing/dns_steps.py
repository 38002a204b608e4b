"""How a query is answered: the steps of a script for `FakeDnsServer`, and their encoding.

Needs dnspython, which the extra ``testing`` brings.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import Final, Literal

from backendpool_async.extras import missing

try:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.rcode
    import dns.rdatatype
    import dns.rrset
except ModuleNotFoundError as _error:
    raise missing("FakeDnsServer", "'backendpool-async[testing]'", _error) from _error

_NEGATIVE_TTL: Final = 30
TCP_SIZE: Final = 65_535


@dataclass(frozen=True, slots=True)
class Step:
    """How one query is answered. Made by the functions of this module, not by hand."""

    rrsets: tuple[tuple[str, tuple[str, ...], int], ...] = ()
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    negative_ttl: int | None = None
    delay: float = 0.0
    is_truncated: bool = False
    has_wrong_id: bool = False
    sends: Literal["message", "garbage", "nothing"] = "message"


def records(*values: str, ttl: int = 30) -> Step:
    """Return an answer with these addresses, `ttl` seconds long; ValueError for anything else.

    The type of each is inferred: an IPv4 address is an A, an IPv6 address an AAAA, and
    "priority weight port target" an SRV. A query gets those of its type, and NODATA when there
    are none.

    >>> step = records("10.0.0.1", "10.0.0.2", "::1", ttl=5)
    >>> service = records("0 5 8080 a.test", "0 5 8080 b.test")
    """
    by_type: dict[str, list[str]] = {}
    for value in values:
        by_type.setdefault(_type_of(value), []).append(value)
    rrsets = tuple((rdtype, tuple(texts), ttl) for rdtype, texts in by_type.items())
    return Step(rrsets, negative_ttl=_NEGATIVE_TTL)


def cname(target: str, ttl: int = 30) -> Step:
    """Return an alias: a CNAME, with the answer of `target` when the server has a script for it.

    >>> step = cname("other.test")
    """
    return Step((("CNAME", (target.rstrip(".") + ".",), ttl),))


def nxdomain(*, soa: bool = True, negative_ttl: int = _NEGATIVE_TTL) -> Step:
    """Return the answer "no such name", with a SOA that tells how many seconds it holds."""
    return Step(rcode=dns.rcode.NXDOMAIN, negative_ttl=negative_ttl if soa else None)


def nodata(*, soa: bool = True, negative_ttl: int = _NEGATIVE_TTL) -> Step:
    """Return the answer "no record of this type", with a SOA that tells how long it holds."""
    return Step(negative_ttl=negative_ttl if soa else None)


def servfail() -> Step:
    """Return the failure SERVFAIL."""
    return Step(rcode=dns.rcode.SERVFAIL)


def refused() -> Step:
    """Return the failure REFUSED."""
    return Step(rcode=dns.rcode.REFUSED)


def notimp() -> Step:
    """Return the failure NOTIMP."""
    return Step(rcode=dns.rcode.NOTIMP)


def formerr() -> Step:
    """Return the failure FORMERR."""
    return Step(rcode=dns.rcode.FORMERR)


def silence() -> Step:
    """Return no answer at all; over TCP the connection stays open."""
    return Step(sends="nothing")


def garbage() -> Step:
    """Return random bytes under the id of the query, the same ones in each run."""
    return Step(sends="garbage")


def wrong_id(step: Step) -> Step:
    """Return the answer of `step` under the id of another query, which a client must ignore."""
    return replace(step, has_wrong_id=True)


def slow(seconds: float, step: Step) -> Step:
    """Return the answer of `step`, `seconds` later.

    >>> step = slow(0.2, records("10.0.0.1"))
    """
    return replace(step, delay=step.delay + seconds)


def truncated(step: Step) -> Step:
    """Return no records but the TC flag over UDP, and the answer of `step` over TCP."""
    return replace(step, is_truncated=True)


def fill(
    response: dns.message.Message, name: dns.name.Name, qtype: str, step: Step
) -> dns.name.Name | None:
    """Add what a step says of a name; return the target when that is an alias."""
    response.set_rcode(step.rcode)
    for rdtype, texts, ttl in step.rrsets:
        if rdtype in (qtype, "CNAME"):
            response.answer.append(dns.rrset.from_text_list(name, ttl, "IN", rdtype, texts))
            return dns.name.from_text(texts[0]) if rdtype != qtype else None
    if step.negative_ttl is not None:
        ttl = step.negative_ttl
        soa = f"ns.test. hostmaster.test. 1 3600 600 86400 {ttl}"
        response.authority.append(dns.rrset.from_text(dns.name.root, ttl, "IN", "SOA", soa))
    return None


def encoded(response: dns.message.Message, step: Step, limit: int) -> bytes:
    """Return the message as sent, cut to `limit` bytes with the TC flag where it is longer."""
    if step.is_truncated and limit < TCP_SIZE:
        response.answer.clear()
        response.authority.clear()
        response.flags |= dns.flags.TC
    if step.has_wrong_id:
        response.id ^= 0x5555
    # In the order they were given; dnspython would shuffle them.
    return response.to_wire(max_size=limit, prefer_truncation=True, want_shuffle=False)


def _type_of(value: str) -> str:
    if len(value.split()) == 4:
        return "SRV"
    return "A" if ipaddress.ip_address(value).version == 4 else "AAAA"


def key_of(name: str) -> str:
    """Return the form under which a name's script is kept."""
    return name.rstrip(".").lower()
