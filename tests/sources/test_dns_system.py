"""Names as the system knows them: its configuration by c-ares, its own resolver, either."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiodns
import pycares
import pytest
from servers import Use, nobody, until

from backendpool_async import BackendPool, EmptyAnswer, SourceError
from backendpool_async.sources import resolver_hub
from backendpool_async.testing.dns_server import (
    FakeDnsServer,
    cname,
    nodata,
    nxdomain,
    records,
    refused,
    servfail,
)

ARES_AI_ENVHOSTS = 1 << 8


@pytest.fixture
async def server() -> AsyncIterator[FakeDnsServer]:
    async with FakeDnsServer() as server:
        yield server


def configure(patch: pytest.MonkeyPatch, directory: Path, nameserver: str) -> None:
    """Let c-ares see a nameserver and a hosts file of ours where it sees the system's.

    It takes the hosts file from CARES_HOSTS, under a flag. A resolv.conf of our own it would take
    as an option too, if pycares 5.2 did not free the path before it is read.
    """
    hosts = directory / "hosts"
    hosts.write_text("127.0.0.1 localhost\n10.9.9.9 hosted\n10.9.9.8 hosted\n2001:db8::9 hosted\n")
    patch.setenv("CARES_HOSTS", str(hosts))

    class Configured(aiodns.DNSResolver):
        def __init__(self, nameservers: list[str] | None = None, **options: Any) -> None:
            super().__init__(nameservers or [nameserver], **options)

        def getaddrinfo(self, host: str, *arguments: Any, **options: Any) -> Any:
            return super().getaddrinfo(host, **options, flags=ARES_AI_ENVHOSTS)

    patch.setattr(aiodns, "DNSResolver", Configured)
    patch.setattr(resolver_hub, "_QUERY_TIMEOUT", 0.05)


@pytest.fixture
def configured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: FakeDnsServer
) -> FakeDnsServer:
    """The server that the system is configured to ask."""
    configure(monkeypatch, tmp_path, server.address)
    return server


GetAddrInfo = Callable[..., list[Any]]


def answering(*addresses: str) -> GetAddrInfo:
    return lambda *_: [(socket.AF_INET, 1, 6, "", (address, 0)) for address in addresses]


def raising(error: BaseException) -> GetAddrInfo:
    def getaddrinfo(*_: object) -> list[Any]:
        raise error

    return getaddrinfo


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[GetAddrInfo], list[tuple[Any, ...]]]:
    """Let the system's resolver be a function; return the list of what it is asked."""

    def let(getaddrinfo: GetAddrInfo) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def record(*arguments: Any) -> list[Any]:
            calls.append(arguments)
            return getaddrinfo(*arguments)

        monkeypatch.setattr(socket, "getaddrinfo", record)
        return calls

    return let


Asked = Callable[[GetAddrInfo], list[tuple[Any, ...]]]


async def listed(host: str, **options: Any) -> list[str]:
    return list((await BackendPool.dns(host, 80, **options).refresh()).backends)


@pytest.mark.parametrize("resolver", ["auto", "c-ares"])
async def test_the_configured_nameserver_is_asked_and_its_ttl_counts(
    configured: FakeDnsServer, resolver: Any
) -> None:
    configured.answer("api.test", "10.0.0.10", "10.0.0.9", ttl=40)
    pool = BackendPool.dns("api.test", 80, resolver=resolver)
    answer = await pool._source.fetch()
    assert getattr(answer, "ttl", None) == 40
    assert (await pool.refresh()).backends == ("10.0.0.9:80", "10.0.0.10:80")


@pytest.mark.parametrize("resolver", ["auto", "c-ares"])
async def test_the_least_ttl_on_a_chain_of_aliases_counts(
    configured: FakeDnsServer, resolver: Any
) -> None:
    configured.script("api.test", cname("b.test", ttl=9))
    configured.answer("b.test", "10.0.0.1", ttl=40)
    pool = BackendPool.dns("api.test", 80, resolver=resolver)
    assert getattr(await pool._source.fetch(), "ttl", None) == 9
    await pool.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="it counts in /proc")
@pytest.mark.parametrize("resolver", ["auto", "c-ares"])
async def test_a_pool_that_is_closed_gives_its_resolver_back(
    configured: FakeDnsServer, resolver: Any
) -> None:
    configured.answer("api.test", "10.0.0.1")
    pool = BackendPool.dns("api.test", 80, resolver=resolver)
    await pool.start()
    assert Use.now().inotify == 1
    await pool.aclose()
    await until(lambda: Use.now().inotify == 0)
    assert pool.backends() == ("10.0.0.1:80",)


async def test_a_short_name_is_looked_for_in_the_search_domain_first(
    configured: FakeDnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALDOMAIN", "corp.test")
    configured.answer("api.corp.test", "10.0.0.1")
    configured.answer("api", "10.0.0.2")
    assert await listed("api") == ["10.0.0.1:80"]
    assert [query.name for query in configured.queries] == ["api.corp.test"]


@pytest.mark.parametrize(("host", "answering"), [("api.x", "api.x"), ("api.", "api")])
async def test_a_name_with_a_dot_is_looked_for_as_it_is_first(
    configured: FakeDnsServer, monkeypatch: pytest.MonkeyPatch, host: str, answering: str
) -> None:
    monkeypatch.setenv("LOCALDOMAIN", "corp.test")
    configured.answer(f"{answering}.corp.test", "10.0.0.1")
    configured.answer(answering, "10.0.0.2")
    assert await listed(host) == ["10.0.0.2:80"]


async def test_a_search_domain_that_fails_is_a_failure_although_the_others_say_none(
    configured: FakeDnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALDOMAIN", "corp.test")
    configured.script("api.corp.test", servfail())
    with pytest.raises(SourceError, match="A lookup: SERVFAIL") as caught:
        await listed("api", resolver="c-ares", empty_after=1)
    assert not isinstance(caught.value, EmptyAnswer)


async def test_the_hosts_file_answers_before_any_nameserver(configured: FakeDnsServer) -> None:
    configured.answer("hosted", "10.0.0.1")
    assert await listed("hosted") == ["10.9.9.8:80", "10.9.9.9:80"]
    assert await listed("hosted", family="ipv6") == ["[2001:db8::9]:80"]
    assert await listed("hosted", family="any") == [
        "10.9.9.8:80",
        "10.9.9.9:80",
        "[2001:db8::9]:80",
    ]
    assert configured.queries == []


@pytest.mark.parametrize("resolver", ["auto", "c-ares", "system"])
async def test_localhost_needs_no_nameserver(configured: FakeDnsServer, resolver: Any) -> None:
    assert await listed("localhost", resolver=resolver) == ["127.0.0.1:80"]
    assert configured.queries == []


@pytest.mark.parametrize("resolver", ["auto", "c-ares", "system"])
async def test_an_address_is_its_own_answer_for_every_resolver(
    configured: FakeDnsServer, asked: Asked, resolver: Any
) -> None:
    calls = asked(raising(AssertionError("nobody is to be asked")))
    assert await listed("10.0.0.1", resolver=resolver) == ["10.0.0.1:80"]
    assert (configured.queries, calls) == ([], [])


@pytest.mark.parametrize("none", [nxdomain(), nodata(), records("::1")])
async def test_a_none_of_c_ares_is_one_and_the_system_is_not_asked(
    configured: FakeDnsServer, asked: Asked, none: Any
) -> None:
    calls = asked(answering("10.0.0.2"))
    configured.outage = none
    with pytest.raises(EmptyAnswer, match=r"A lookup: (?:NXDOMAIN|NODATA)"):
        await listed("api.test")
    assert calls == []


@pytest.mark.parametrize("failure", [servfail(), refused()])
async def test_the_system_is_asked_where_c_ares_fails(
    configured: FakeDnsServer, asked: Asked, failure: Any
) -> None:
    calls = asked(answering("10.0.0.20", "10.0.0.3", "10.0.0.3"))
    configured.outage = failure
    assert await listed("api.test") == ["10.0.0.3:80", "10.0.0.20:80"]
    assert calls == [("api.test", None, socket.AF_INET, socket.SOCK_STREAM)]


async def test_the_system_is_asked_where_no_resolver_can_be_made(
    monkeypatch: pytest.MonkeyPatch, asked: Asked
) -> None:
    def refuse(**_: object) -> None:
        raise pycares.AresError("Failed to initialize c-ares channel")

    monkeypatch.setattr(aiodns, "DNSResolver", refuse)
    asked(answering("10.0.0.3"))
    assert await listed("api.test") == ["10.0.0.3:80"]
    with pytest.raises(SourceError, match="A lookup: Failed to initialize c-ares channel"):
        await listed("api.test", resolver="c-ares")
    with pytest.raises(SourceError, match="Failed to initialize"):
        await listed("api.test", nameservers=["127.0.0.1"])


@pytest.mark.parametrize(
    "system",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        OSError(errno.EMFILE, "Too many open files"),
    ],
)
async def test_what_the_system_says_after_a_failure_of_c_ares_is_no_none_but_that_failure(
    configured: FakeDnsServer, asked: Asked, system: OSError
) -> None:
    asked(raising(system))
    configured.outage = servfail()
    with pytest.raises(SourceError, match="A lookup: SERVFAIL") as caught:
        await listed("api.test", empty_after=1)
    assert not isinstance(caught.value, EmptyAnswer)


@pytest.mark.parametrize("arguments", [{"resolver": "c-ares"}, {"nameservers": True}])
async def test_the_system_is_not_asked_by_who_asked_for_c_ares_or_for_own_nameservers(
    configured: FakeDnsServer, asked: Asked, arguments: dict[str, Any]
) -> None:
    calls = asked(answering("10.0.0.3"))
    configured.outage = servfail()
    if "nameservers" in arguments:
        arguments = {"nameservers": [configured.address]}
    with pytest.raises(SourceError, match="SERVFAIL"):
        await listed("api.test", **arguments)
    assert calls == []


async def test_a_configured_nameserver_that_is_not_there_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure(monkeypatch, tmp_path, nobody())
    with pytest.raises(SourceError, match="no nameserver") as caught:
        await listed("api.test", resolver="c-ares")
    assert not isinstance(caught.value, EmptyAnswer)


async def test_the_system_answers_without_a_ttl_sorted_and_once(asked: Asked) -> None:
    asked(answering("10.0.0.20", "10.0.0.3", "10.0.0.20"))
    pool = BackendPool.dns("api.test", 80, resolver="system")
    answer: Any = await pool._source.fetch()
    assert answer.backends == ("10.0.0.3:80", "10.0.0.20:80")
    assert answer.ttl is None


async def test_the_system_is_asked_for_each_family_by_itself(asked: Asked) -> None:
    def by_family(name: str, port: None, family: int, kind: int) -> list[Any]:
        if family == socket.AF_INET:
            return [(family, kind, 6, "", ("10.0.0.1", 0))]
        return [(family, kind, 6, "", ("fe80::1%eth0", 0, 0, 2))]

    asked(by_family)
    found = await listed("api.test", resolver="system", family="any")
    assert found == ["10.0.0.1:80", "[fe80::1%eth0]:80"]


@pytest.mark.parametrize("name", ["EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY"])
async def test_a_none_of_the_system_is_negative(asked: Asked, name: str) -> None:
    asked(raising(socket.gaierror(getattr(socket, name), "No such thing")))
    with pytest.raises(EmptyAnswer, match="A lookup by the system: No such thing"):
        await listed("api.test", resolver="system")
    assert await listed("api.test", resolver="system", empty_after=1) == []


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_AGAIN, "Not now"),
        socket.gaierror(socket.EAI_FAIL, "Not now"),
        OSError(-socket.EAI_NONAME, "Not now"),
        OSError(socket.EAI_NONAME, "Not now"),
    ],
)
async def test_a_failure_of_the_system_is_no_none(asked: Asked, error: OSError) -> None:
    asked(raising(error))
    with pytest.raises(SourceError, match="A lookup by the system: Not now") as caught:
        await listed("api.test", resolver="system", empty_after=1)
    assert not isinstance(caught.value, EmptyAnswer)


async def test_no_address_in_the_systems_answer_is_negative(asked: Asked) -> None:
    asked(answering())
    with pytest.raises(EmptyAnswer):
        await listed("api.test", resolver="system")
