"""Reading the URL of a pool."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from backendpool_async.backend import Backend
from backendpool_async.errors import InvalidBackend, quote

Keywords = dict[str, Callable[[str], Any]]


class PoolUrl(NamedTuple):
    """Which constructor a URL asks for, and with what."""

    scheme: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def parse_url(url: str) -> PoolUrl:
    """Take a URL apart; raise ValueError saying what is wrong with it.

    >>> parse_url("dns://api.internal:8080?min_ttl=1")
    PoolUrl(scheme='dns', arguments=('api.internal', 8080), options={'min_ttl': 1.0})
    """
    if not isinstance(url, str):
        raise TypeError(f"the URL of a pool is a string, not {type(url).__name__}")
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in _SCHEMES:
        known = ", ".join(f"{name}:" for name in _SCHEMES)
        raise ValueError(f"{quote(url)}: it begins with none of {known}")
    arguments, extra = _SCHEMES[scheme]
    body, _, query = rest.partition("?")
    with naming(url):
        return PoolUrl(scheme, arguments(body), _options(query, _COMMON | extra))


@contextlib.contextmanager
def naming(url: str) -> Iterator[None]:
    """Let an error that the arguments in a URL cause begin with the URL; its type stays.

    >>> with naming("dns://api:80?timeout=-1"):
    ...     raise ValueError("timeout=-1.0: it is not positive")
    Traceback (most recent call last):
    ValueError: 'dns://api:80?timeout=-1': timeout=-1.0: it is not positive
    """
    try:
        yield
    except InvalidBackend as error:
        raise _InvalidBackendInUrl(url, error.entry, error.reason, error.place) from error
    except ValueError as error:
        raise ValueError(f"{quote(url)}: {error}") from error
    except TypeError as error:
        raise TypeError(f"{quote(url)}: {error}") from error


class _InvalidBackendInUrl(InvalidBackend):
    """An `InvalidBackend` that names the URL in which it stood."""

    def __init__(self, url: str, entry: object, reason: str, place: str | None) -> None:
        super().__init__(entry, reason, place)
        # What a copy is made of.
        self.args = (url, entry, reason, place)
        self._url = url

    def __str__(self) -> str:
        return f"{quote(self._url)}: {super().__str__()}"


def _options(query: str, known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
        if name not in known:
            raise ValueError(f"it has no keyword {quote(name)}, but {', '.join(known)}")
        if name in options:
            raise ValueError(f"{name} is given twice")
        try:
            options[name] = known[name](text)
        except ValueError as error:
            raise ValueError(f"{name}={quote(text)}: {error}") from None
    return options


def _static(body: str) -> tuple[list[str]]:
    # The space before an attribute, and nothing else: a "%" can begin the zone of an address.
    return (_list(body.replace("%20", " ")),)


def _env(body: str) -> tuple[str]:
    if not body:
        raise ValueError("no prefix after env:")
    return (body,)


def _file(body: str) -> tuple[str]:
    if body.startswith("//"):
        host, _, path = body[2:].partition("/")
        if host not in {"", "localhost"}:
            raise ValueError(f"a file lies on this machine, not on {quote(host)}")
        body = f"/{path}"
    if not body:
        raise ValueError("no path after file:")
    return (unquote(body),)


def _dns(body: str) -> tuple[str, int]:
    if not body.startswith("//"):
        raise ValueError("dns://host:port is expected")
    target = Backend(body[2:])
    return target.host, target.port


def _list(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",")] if text.strip() else []


def _count_or_none(text: str) -> int | None:
    return None if text.lower() == "none" else _whole_number(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("it is no number") from None


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("it is no whole number") from None


def _switch(text: str) -> bool:
    switches = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in switches:
        raise ValueError("it is neither true nor false")
    return switches[text.lower()]


_COMMON: Final[Keywords] = {
    "poll_interval": _number,
    "timeout": _number,
    "empty_after": _count_or_none,
    "max_backends": _whole_number,
    "initial": _list,
    "max_shrink": _number,
}
_SCHEMES: Final[dict[str, tuple[Callable[[str], tuple[Any, ...]], Keywords]]] = {
    "static": (_static, {}),
    "env": (_env, {}),
    "file": (_file, {"watch": _switch}),
    "dns": (
        _dns,
        {"family": str, "nameservers": _list, "resolver": str, "min_ttl": _number},
    ),
}
