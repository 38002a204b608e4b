"""Other ways to choose one of several, made alike: `make(addresses)`, then one method."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import cycle
from typing import Any
from zlib import crc32


class Slotted:
    """The limit: the least that a method returning what an object holds can cost."""

    __slots__ = ("_held",)

    def __init__(self, held: object) -> None:
        self._held = held

    def pick(self) -> object:
        return self._held


class Cycle:
    """Round robin as it is written by hand."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._turns = cycle(addresses)

    def pick(self) -> str:
        return next(self._turns)


class Choice:
    """Random as it is written by hand."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    def pick(self) -> str:
        return random.choice(self._addresses)


class Jump:
    """Jump consistent hashing; the library takes numbers, so a key is hashed as Maglev does."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._count = len(addresses)
        self._hash: Callable[[int, int], int] = import_module("jump").hash

    def pick(self, key: str) -> str:
        return self._addresses[self._hash(crc32(key.encode()), self._count)]


def unkeyed_libraries(addresses: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Return those that are installed: how a pick is written, and what it is called on."""
    found = {}
    if (proxy := _installed("fastapi_reverse_proxy.load_balance")) is not None:
        found["fastapi-reverse-proxy: get()"] = (
            "held.get()",
            proxy.LoadBalancer([f"http://{each}" for each in addresses]),
        )
    return found


def keyed_libraries(addresses: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Return those that are installed: how a pick is written, and what it is called on."""
    found: dict[str, tuple[str, Any]] = {}
    if (ring := uhashring_of(addresses)) is not None:
        found["uhashring: get_node(key)"] = ("held.get_node({key!r})", ring)
    if (hashring := _installed("hashring")) is not None:
        ring = hashring.HashRing(list(addresses))
        found["hashring: get_node(key)"] = ("held.get_node({key!r})", ring)
    if _installed("jump") is not None:
        found["jump-consistent-hash, of crc32"] = ("held.pick({key!r})", Jump(addresses))
    return found


def uhashring_of(addresses: Sequence[str]) -> Any:
    """Return a ring of these; None where the library is not installed."""
    module = _installed("uhashring")
    return None if module is None else module.HashRing(nodes=list(addresses))


def _installed(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        print(f"  ({module} is not installed: left out)")
        return None
