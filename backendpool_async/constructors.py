"""The class methods that the asyncio pool and its sync facade share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Self, TypedDict, Unpack

from backendpool_async.bulk import DEFAULT_MAX_BACKENDS
from backendpool_async.sources.dns import DnsSource, FamilyName, ResolverName
from backendpool_async.sources.environment import EnvironmentSource
from backendpool_async.sources.file import FileSource
from backendpool_async.sources.static import StaticSource
from backendpool_async.url import naming, parse_url


class PoolOptions(TypedDict, total=False):
    """The keywords that every constructor takes; `BackendPool` says what they mean."""

    poll_interval: float
    timeout: float
    empty_after: int | None
    max_backends: int
    initial: Iterable[str]
    max_shrink: float | None


class Constructors:
    """Makes pools of the sources of our own."""

    __slots__ = ()

    def __init__(self, source: Any, **options: Unpack[PoolOptions]) -> None:
        raise NotImplementedError  # pragma: no cover - every pool has its own

    @classmethod
    def static(cls, backends: Iterable[str], **options: Unpack[PoolOptions]) -> Self:
        """Return a pool of a fixed list, readable at once; only `update()` changes it.

        Raises `InvalidBackend` naming the entry.

        >>> from backendpool_async import BackendPool
        >>> BackendPool.static(["10.0.0.1:8080", "10.0.0.2:8080"]).backends()
        (Backend('10.0.0.1:8080'), Backend('10.0.0.2:8080'))
        """
        return cls(StaticSource(backends), **options)

    @classmethod
    def env_prefix(cls, prefix: str, **options: Unpack[PoolOptions]) -> Self:
        """Return a pool of ``PREFIX_0``, ``PREFIX_1``, ... up to the first that is not set.

        No ``PREFIX_0`` is a negative answer; an empty value is invalid; a variable beyond a gap
        is warned of once. Only this process's own environment is seen. Raises ValueError for a
        prefix that no variable can have.

        >>> from backendpool_async import BackendPool
        >>> pool = BackendPool.env_prefix("API_BACKEND", poll_interval=60)
        """
        return cls(EnvironmentSource(prefix), **options)

    @classmethod
    def file(
        cls, path: str | os.PathLike[str], *, watch: bool = False, **options: Unpack[PoolOptions]
    ) -> Self:
        """Return a pool of the lines of a file: one ``host:port`` each, ``#`` comments ignored.

        With `watch` its directory is watched too and a change is seen in milliseconds; that needs
        the extra ``watch`` and raises ImportError without it. A relative path is taken from the
        directory that is current at each read. An empty file is a negative answer, an unreadable
        or malformed one a failure. Raises ValueError for a path that no file can have.

        >>> from backendpool_async import BackendPool
        >>> pool = BackendPool.file("backends.txt", poll_interval=30)
        """
        limit = options.get("max_backends", DEFAULT_MAX_BACKENDS)
        make = _watched_file_source() if watch else FileSource
        return cls(make(path, max_entries=limit), **options)

    @classmethod
    def dns(
        cls,
        host: str,
        port: int,
        *,
        family: FamilyName = "ipv4",
        nameservers: Sequence[str] | None = None,
        resolver: ResolverName = "auto",
        min_ttl: float = 5.0,
        **options: Unpack[PoolOptions],
    ) -> Self:
        """Return a pool of the addresses of a DNS name, each with `port`.

        `family`: "ipv4" asks for A, "ipv6" for AAAA, "any" for both. `nameservers`: addresses to
        ask instead of the system's, with or without a port. `resolver`: "c-ares", "system" (all
        that NSS knows, no TTLs), or "auto": c-ares, and the system where c-ares fails. It asks
        again after the TTL of the answer, at the soonest after `min_ttl` seconds, at the latest
        after `poll_interval`. NXDOMAIN and NODATA are negative answers. Raises `InvalidBackend`
        for a bad host or port, ValueError for another bad argument.

        >>> from backendpool_async import BackendPool
        >>> pool = BackendPool.dns("api.internal", 8080, poll_interval=30)
        """
        source = DnsSource(
            host, port, family=family, nameservers=nameservers, resolver=resolver, min_ttl=min_ttl
        )
        return cls(source, **options)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the pool that a URL describes; its query takes the constructor's keywords.

        ``static:10.0.0.1:80,10.0.0.2:80``, ``env:PREFIX``, ``file:backends.txt?watch=true``,
        ``dns://api.internal:8080?poll_interval=10&family=any``. Lists are separated by commas;
        ``empty_after=none`` is never. In a file's path ``%3F`` stands for a question mark. Raises
        ValueError (`InvalidBackend` for a bad entry) naming the URL and what is wrong with it.

        >>> from backendpool_async import BackendPool
        >>> BackendPool.from_url("static:10.0.0.1:80,10.0.0.2:80").backends()
        (Backend('10.0.0.1:80'), Backend('10.0.0.2:80'))
        """
        parsed = parse_url(url)
        make = {"static": cls.static, "env": cls.env_prefix, "file": cls.file, "dns": cls.dns}
        with naming(url):
            return make[parsed.scheme](*parsed.arguments, **parsed.options)  # type: ignore[operator,no-any-return]  # parse_url checked them


def _watched_file_source() -> type[FileSource]:
    try:
        from backendpool_async.sources.watched_file import WatchedFileSource
    except ImportError as error:
        raise ImportError(
            "watch=True needs asyncinotify (Linux): pip install 'backendpool-async[watch]'"
        ) from error
    return WatchedFileSource
