"""One address: what it may look like, and its canonical form."""

from __future__ import annotations

import ipaddress
import operator
import re
from typing import Final, NoReturn, Self

from backendpool_async.attributes import NONE, Attributes, checked_attributes, parse_attributes
from backendpool_async.errors import InvalidBackend
from backendpool_async.untracked import untracked

# Possessive, and decided by each character in turn: a number reads one way only.
_OCTET = r"(?:1[0-9]?+[0-9]?+|2(?:5[0-5]?+|[0-4][0-9]?+|[6-9])?+|[3-9][0-9]?+|0)"
IPV4: Final = rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}"
# Possessive: a label reads one way only, so giving back what was matched never helps.
_LABEL = r"(?=[a-z0-9_-]{1,63}[.:])[a-z0-9_]++(?:-++[a-z0-9_]++)*+"
_NOT_TOO_LONG = r"(?=[a-z0-9_.-]{1,253}\.?:)"
_LAST_LABEL_NOT_NUMERIC = r"(?!(?:[^.:\n]++\.)*[0-9]++\.?:)"
_NAME = rf"{_NOT_TOO_LONG}{_LAST_LABEL_NOT_NUMERIC}{_LABEL}(?:\.{_LABEL})*+\.?"
_FROM_6 = (
    r"6(?:5(?:5(?:3[0-5]?+|[0-2][0-9]?+|[4-9])?+|[0-4][0-9]{0,2}+|[6-9][0-9]?+)?+"
    r"|[0-4][0-9]{0,3}+|[6-9][0-9]{0,2}+)?+"
)
PORT: Final = rf"(?:[1-5][0-9]{{0,4}}+|[7-9][0-9]{{0,3}}+|{_FROM_6})"

_is_canonical = re.compile(rf"(?:{IPV4}|{_NAME}):{PORT}").fullmatch
_is_host = re.compile(rf"(?:{IPV4}|{_NAME}):").fullmatch
_is_port = re.compile(PORT).fullmatch
_is_zone = re.compile(r"[A-Za-z0-9._~-]+").fullmatch


@untracked
class Backend(str):
    """One ``host:port``: an immutable string in canonical form, checked when it is made.

    It equals, and hashes as, the plain string; weight and attributes are not part of the identity,
    so what is known about a backend survives their change. Raises `InvalidBackend`.

    A host is a DNS name (RFC 1035 lengths; letters, digits, ``-`` and ``_``; lower-cased, a
    trailing dot stays), an IPv4 address without leading zeros, or an IPv6 address in brackets
    (RFC 5952 form, a zone stays).

    >>> backend = Backend("API.internal:8080")
    >>> backend, backend.host, backend.port, backend.weight
    (Backend('api.internal:8080'), 'api.internal', 8080, 1)
    >>> backend == "api.internal:8080"
    True
    >>> Backend("10.0.0.1:8080", weight=3, zone="eu-1a").zone
    'eu-1a'
    """

    __slots__ = ()

    def __new__(cls, text: str, /, *, weight: int = 1, **attributes: str) -> Self:
        canonical = text if type(text) is str and _is_canonical(text) else _canonical(text)
        if weight == 1 and type(weight) is int and not attributes:
            return str.__new__(cls, canonical)
        checked = checked_attributes(canonical, weight, attributes)
        return AttributedBackend._of(canonical, *checked)  # type: ignore[return-value]  # a subclass of ours

    @classmethod
    def parse(cls, text: str) -> Backend:
        """Return the backend that an entry of a list names, or raise `InvalidBackend`.

        An entry is an address, and after it, divided by spaces, any ``name=value``.

        >>> Backend.parse("[2001:DB8::0]:80 weight=3 zone=eu-1a")
        Backend('[2001:db8::]:80', weight=3, zone='eu-1a')
        """
        if isinstance(text, Backend):
            return text
        if not isinstance(text, str) or "=" not in text:
            return Backend(text)
        address, weight, attributes = parse_attributes(text)
        try:
            canonical = _canonical(address)
        except InvalidBackend as error:
            raise InvalidBackend(text, error.reason) from None
        return AttributedBackend._of(canonical, weight, attributes)

    @property
    def host(self) -> str:
        """The name or the address, an IPv6 address without its brackets."""
        host = self.rpartition(":")[0]
        return host[1:-1] if host[0] == "[" else host

    @property
    def port(self) -> int:
        """The port, 1 to 65535."""
        return int(self.rpartition(":")[2])

    @property
    def weight(self) -> int:
        """The share of requests it asks for beside the others: 1 unless it was given."""
        return 1

    @property
    def attributes(self) -> Attributes:
        """What else its source says of it, by name; without the weight."""
        return NONE

    @property
    def zone(self) -> str | None:
        """The attribute of that name, None without one."""
        return self.attributes.get("zone")

    def __repr__(self) -> str:
        return f"Backend({str.__repr__(self)})"


class AttributedBackend(Backend):
    """A backend with a weight other than 1, or other attributes; `Backend` makes it.

    The slots live here and not there: a list of 100,000 pays for them only where they are used.
    """

    __slots__ = ("_attributes", "_weight")
    _attributes: Attributes
    _weight: int

    @classmethod
    def _of(cls, canonical: str, weight: int, attributes: Attributes) -> Backend:
        if weight == 1 and not attributes:
            return Backend(canonical)
        self = str.__new__(cls, canonical)
        object.__setattr__(self, "_weight", weight)
        object.__setattr__(self, "_attributes", attributes)
        return self

    @property
    def weight(self) -> int:
        """The share of requests it asks for beside the others, 1 to 65535."""
        return self._weight

    @property
    def attributes(self) -> Attributes:
        """What else its source says of it, by name; without the weight."""
        return self._attributes

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Backend is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Backend is immutable: cannot delete {name!r}")

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (str(self), self._weight, dict(self._attributes))

    def __repr__(self) -> str:
        given = [f"weight={self._weight}"] if self._weight != 1 else []
        given += [f"{name}={value!r}" for name, value in self._attributes.items()]
        return f"Backend({', '.join([str.__repr__(self), *given])})"


def same(ours: tuple[Backend, ...], theirs: tuple[Backend, ...]) -> bool:
    """Whether two lists agree in addresses, order and attributes."""
    if ours is theirs:
        return True
    return ours == theirs and (
        all(map(operator.is_, ours, theirs)) or all(map(_same_attributes, ours, theirs))
    )


def _same_attributes(ours: Backend, theirs: Backend) -> bool:
    if type(ours) is Backend and type(theirs) is Backend:
        return True
    return ours.weight == theirs.weight and ours.attributes == theirs.attributes


def _restore(text: str, weight: int, attributes: dict[str, str]) -> Backend:
    return Backend(text, weight=weight, **attributes)


def _canonical(text: object) -> str:
    if not isinstance(text, str):
        raise InvalidBackend(text, f"not a string but {type(text).__name__}")
    # A subclass may have changed every method (and `str()` of an enum's member is its name).
    text = str.__str__(text)
    lowered = text.lower() if text.isascii() else text
    if _is_canonical(lowered):
        return lowered
    if text.startswith("[") and (end := text.find("]:")) > 0 and _is_port(text[end + 2 :]):
        return f"[{_canonical_ipv6(text, text[1:end])}]:{text[end + 2 :]}"
    raise InvalidBackend(text, _what_is_wrong(lowered))


def _canonical_ipv6(entry: str, text: str) -> str:
    address, percent, zone = text.partition("%")
    if percent and not _is_zone(zone):
        raise InvalidBackend(entry, "the zone after '%' is empty or has an odd character")
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        raise InvalidBackend(entry, "no IPv6 address between the brackets") from None
    # Python 3.13 writes a mapped address as RFC 5952 does, 3.11 in hexadecimal.
    mapped = parsed.ipv4_mapped
    return (f"::ffff:{mapped}" if mapped else parsed.compressed) + percent + zone


def _what_is_wrong(text: str) -> str:
    for found, reason in (
        (not text, "empty"),
        (not text.isascii(), "not ASCII; write an international name in its xn-- form"),
        (not text.isprintable(), "it has a control character"),
        (" " in text, "it has a space"),
        ("," in text, "it has a comma; one host:port is expected"),
        ("://" in text, "it has a scheme; only host:port is expected"),
        ("@" in text, "it has a user; only host:port is expected"),
        ("/" in text or "?" in text or "#" in text, "it has a path; only host:port is expected"),
    ):
        if found:
            return reason
    host, colon, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        host, colon = text, ""
    if not colon:
        return "no port; host:port is expected"
    if not host:
        return "no host before the port"
    if host.startswith("["):
        return _what_is_wrong_with_port(port) if host.endswith("]") else "a bracket is not closed"
    if ":" in host:
        return "an IPv6 address stands in brackets: [address]:port"
    if not _is_host(f"{host}:"):
        return _what_is_wrong_with_host(host)
    return _what_is_wrong_with_port(port)


def _what_is_wrong_with_port(port: str) -> str:
    if not port:
        return "no port after the colon"
    if not (port.isascii() and port.isdigit()):
        return f"port {port[:20]!r} is not a number"
    if port.startswith("0"):
        return f"port {port[:20]!r} is zero or has a leading zero"
    return f"port {port[:20]} is not from 1 to 65535"


def _what_is_wrong_with_host(host: str) -> str:
    labels = host.removesuffix(".").split(".")
    if not all(labels):
        return "the host has an empty label"
    if len(host.removesuffix(".")) > 253:
        return "the host is longer than 253 characters"
    if any(len(label) > 63 for label in labels):
        return "a label of the host is longer than 63 characters"
    if any(label[0] == "-" or label[-1] == "-" for label in labels):
        return "a label of the host begins or ends with '-'"
    if labels[-1].isdigit():
        return (
            "a host that ends in a number is an IPv4 address:"
            " four numbers from 0 to 255 without leading zeros"
        )
    return "the host has a character other than letters, digits, '-', '_' and '.'"
