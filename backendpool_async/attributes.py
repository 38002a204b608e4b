"""What an entry of a list says of a backend beside its address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from backendpool_async.errors import InvalidBackend, quote

Attributes = Mapping[str, str]

NONE: Final[Attributes] = MappingProxyType({})

_HIGHEST_WEIGHT: Final = 65_535
_LONGEST_VALUE: Final = 255
_is_name = re.compile(r"[a-z][a-z0-9_.-]{0,62}").fullmatch
_is_value = re.compile(r"[!-~]+").fullmatch
_is_number = re.compile(r"[1-9][0-9]{0,9}").fullmatch
_divided = re.compile(r"[ \t]+").split


def parse_attributes(entry: str) -> tuple[str, int, Attributes]:
    """Divide an entry into address, weight and other attributes; raise `InvalidBackend`.

    >>> parse_attributes("10.0.0.1:80 weight=3 zone=eu-1a")
    ('10.0.0.1:80', 3, mappingproxy({'zone': 'eu-1a'}))
    """
    address, *pairs = _divided(entry)
    attributes: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidBackend(entry, f"{quote(pair)} is no name=value")
        if name in attributes:
            raise InvalidBackend(entry, f"attribute {quote(name)} is given twice")
        attributes[name] = _value(entry, name, value)
    given = attributes.pop("weight", "1")
    weight = _weight(entry, int(given) if _is_number(given) else given)
    return address, weight, MappingProxyType(attributes) if attributes else NONE


def checked_attributes(
    address: str, weight: object, attributes: Mapping[str, str]
) -> tuple[int, Attributes]:
    """Return what a caller gave, or raise `InvalidBackend`."""
    for name, value in attributes.items():
        _value(address, name, value)
    return _weight(address, weight), MappingProxyType(dict(attributes)) if attributes else NONE


def _weight(entry: str, weight: object) -> int:
    if type(weight) is not int or not 1 <= weight <= _HIGHEST_WEIGHT:
        raise InvalidBackend(
            entry, f"weight {quote(weight)} is no whole number from 1 to {_HIGHEST_WEIGHT}"
        )
    return weight


def _value(entry: str, name: str, value: object) -> str:
    if not _is_name(name):
        raise InvalidBackend(
            entry,
            f"attribute {quote(name)} has no good name: small letters, digits, '-', '_' and '.',"
            " a letter first",
        )
    if not isinstance(value, str) or not _is_value(value) or len(value) > _LONGEST_VALUE:
        raise InvalidBackend(
            entry,
            f"attribute {name} is {quote(value)}: 1 to {_LONGEST_VALUE} visible ASCII characters"
            " are expected",
        )
    return value
