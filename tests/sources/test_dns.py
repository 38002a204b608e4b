"""What a DNS name answers, and when it is asked again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from servers import nobody, until

from backendpool_async import BackendPool, EmptyAnswer, InvalidBackend
from backendpool_async.sources.dns import DnsSource
from backendpool_async.testing.dns_server import (
    FakeDnsServer,
    Query,
    cname,
    records,
    slow,
    truncated,
)


@pytest.fixture
async def server() -> AsyncIterator[FakeDnsServer]:
    async with FakeDnsServer() as server:
        yield server


def pool_of(server: FakeDnsServer, host: str = "api.test", **options: Any) -> BackendPool:
    return BackendPool.dns(host, 80, nameservers=[server.address], **options)


def source_of(*nameservers: str, host: str = "api.test", **options: Any) -> DnsSource:
    defaults: dict[str, Any] = {"family": "ipv4", "resolver": "auto", "min_ttl": 5.0}
    return DnsSource(host, 80, nameservers=nameservers or None, **(defaults | options))


async def listed(server: FakeDnsServer, **options: Any) -> list[str]:
    return list((await pool_of(server, **options).refresh()).backends)


async def ttl(server: FakeDnsServer, **options: Any) -> float | None:
    source = source_of(server.address, **options)
    try:
        return (await source.fetch()).ttl
    finally:
        await source.aclose()


async def test_every_address_is_a_backend_with_the_pools_port(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.1", "10.0.0.2")
    async with pool_of(server) as pool:
        assert [(backend.host, backend.port) for backend in pool.backends()] == [
            ("10.0.0.1", 80),
            ("10.0.0.2", 80),
        ]
        assert pool.snapshot.error is None


async def test_addresses_are_sorted_as_numbers_and_given_once(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.10", "9.0.0.1", "10.0.0.9", "9.0.0.1")
    assert await listed(server) == ["9.0.0.1:80", "10.0.0.9:80", "10.0.0.10:80"]


async def test_ipv6_addresses_are_sorted_as_numbers_too(server: FakeDnsServer) -> None:
    server.answer("api.test", "2001:db8::10", "2001:db8::9", "::ffff:10.0.0.1")
    assert await listed(server, family="ipv6") == [
        "[::ffff:10.0.0.1]:80",
        "[2001:db8::9]:80",
        "[2001:db8::10]:80",
    ]


async def test_an_answer_that_rotates_is_no_change(server: FakeDnsServer) -> None:
    server.script("api.test", records("10.0.0.1", "10.0.0.2"), records("10.0.0.2", "10.0.0.1"))
    pool = pool_of(server)
    first = await pool.refresh()
    second = await pool.refresh()
    assert len(server.queries) == 2
    assert (first.generation, first.backends) == (second.generation, second.backends)


@pytest.mark.parametrize(
    ("family", "asked", "expected"),
    [
        ("ipv4", {"A"}, ["10.0.0.1:80"]),
        ("ipv6", {"AAAA"}, ["[::1]:80"]),
        ("any", {"A", "AAAA"}, ["10.0.0.1:80", "[::1]:80"]),
    ],
)
async def test_a_family_is_the_type_of_record_that_is_asked_for(
    server: FakeDnsServer, family: str, asked: set[str], expected: list[str]
) -> None:
    server.answer("api.test", "10.0.0.1", "::1")
    assert await listed(server, family=family) == expected
    assert sorted(query.qtype for query in server.queries) == sorted(asked)


async def test_only_ipv4_is_asked_for_when_no_family_is_named(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.1", "::1")
    await listed(server)
    assert server.queries == [Query("api.test", "A", "udp")]


async def test_aliases_are_followed_to_the_addresses(server: FakeDnsServer) -> None:
    server.script("api.test", cname("b.test"))
    server.script("b.test", cname("c.test"))
    server.answer("c.test", "10.0.0.1", "10.0.0.2")
    assert await listed(server) == ["10.0.0.1:80", "10.0.0.2:80"]


@pytest.mark.parametrize("end", ["nowhere.test", "api.test"])
async def test_an_alias_that_leads_to_no_address_is_a_negative_answer(
    server: FakeDnsServer, end: str
) -> None:
    server.script("api.test", cname(end))
    with pytest.raises(EmptyAnswer, match=r"no such record|NODATA|NXDOMAIN"):
        await listed(server)


async def test_300_records_arrive_whole_by_tcp(server: FakeDnsServer) -> None:
    addresses = [f"10.0.{index // 250}.{index % 250}" for index in range(300)]
    server.answer("api.test", *reversed(addresses))
    assert await listed(server) == [f"{address}:80" for address in addresses]
    assert [query.transport for query in server.queries] == ["udp", "tcp"]


async def test_a_truncated_answer_is_asked_for_again_by_tcp(server: FakeDnsServer) -> None:
    server.script("api.test", truncated(records("10.0.0.1")))
    assert await listed(server) == ["10.0.0.1:80"]
    assert [query.transport for query in server.queries] == ["udp", "tcp"]


async def test_a_slow_answer_within_the_timeout_counts(server: FakeDnsServer) -> None:
    server.script("api.test", slow(0.3, records("10.0.0.1")))
    assert await listed(server) == ["10.0.0.1:80"]


async def test_the_next_nameserver_is_asked_when_one_is_not_there(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.1")
    pool = BackendPool.dns("api.test", 80, nameservers=[nobody(), server.address])
    assert (await pool.refresh()).backends == ("10.0.0.1:80",)


async def test_own_nameservers_are_asked_for_the_name_as_it_is(
    server: FakeDnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALDOMAIN", "corp.test")
    server.answer("localhost", "10.0.0.1")
    assert await listed(server, host="localhost") == ["10.0.0.1:80"]
    with pytest.raises(EmptyAnswer):
        await listed(server, host="api")
    assert {query.name for query in server.queries} == {"localhost", "api"}


async def test_a_name_may_end_in_the_root_dot(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.1")
    assert await listed(server, host="api.test.") == ["10.0.0.1:80"]


@pytest.mark.parametrize(
    ("given", "min_ttl", "expected"),
    [(30, 5.0, 30), (1, 5.0, 5), (0, 5.0, 5), (0, 0.0, 0), (1, 0.25, 1), (0, 0.25, 0.25)],
)
async def test_the_ttl_of_an_answer_counts_from_the_floor_up(
    server: FakeDnsServer, given: int, min_ttl: float, expected: float
) -> None:
    server.answer("api.test", "10.0.0.1", ttl=given)
    assert await ttl(server, min_ttl=min_ttl) == expected


async def test_the_least_ttl_on_a_chain_of_aliases_counts(server: FakeDnsServer) -> None:
    server.script("api.test", cname("b.test", ttl=9))
    server.answer("b.test", "10.0.0.1", ttl=40)
    assert await ttl(server) == 9


async def test_the_least_ttl_of_the_families_counts(server: FakeDnsServer) -> None:
    server.script("api.test", records("10.0.0.1", ttl=40), qtype="A")
    server.script("api.test", records("::1", ttl=9), qtype="AAAA")
    assert await ttl(server, family="any") == 9


async def test_the_longest_ttl_there_is_does_no_harm_and_the_poll_interval_limits_it(
    server: FakeDnsServer,
) -> None:
    server.answer("api.test", "10.0.0.1", ttl=4294967295)
    assert await ttl(server) in (4294967295, 0x7FFFFFFF)
    server.queries.clear()
    # A resolver is shared for a second, and what it caches with it.
    async with pool_of(server, poll_interval=1.2) as pool:
        server.answer("api.test", "10.0.0.2", ttl=4294967295)
        await until(lambda: pool.backends() == ("10.0.0.2:80",))


async def test_the_name_is_asked_again_after_its_ttl_and_not_before(
    server: FakeDnsServer,
) -> None:
    server.answer("api.test", "10.0.0.1", ttl=1)
    begun = time.monotonic()
    async with pool_of(server, min_ttl=0.05, poll_interval=600) as pool:
        server.answer("api.test", "10.0.0.2", ttl=600)
        await until(lambda: len(server.queries) > 1)
        assert time.monotonic() - begun >= 1
        await until(lambda: pool.backends() == ("10.0.0.2:80",))


async def test_a_ttl_of_zero_is_asked_again_after_the_floor_and_not_before(
    server: FakeDnsServer,
) -> None:
    server.answer("api.test", "10.0.0.1", ttl=0)
    begun = time.monotonic()
    async with pool_of(server, min_ttl=0.3, poll_interval=600):
        await until(lambda: len(server.queries) > 2)
        assert time.monotonic() - begun >= 0.6


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "any"])
@pytest.mark.parametrize(
    ("host", "version", "expected"),
    [
        ("10.0.0.1", "ipv4", "10.0.0.1:80"),
        ("2001:DB8::1", "ipv6", "[2001:db8::1]:80"),
        ("fe80::1%eth0", "ipv6", "[fe80::1%eth0]:80"),
    ],
)
async def test_an_address_is_its_own_answer_and_nobody_is_asked(
    server: FakeDnsServer, host: str, version: str, expected: str, family: str
) -> None:
    if family in (version, "any"):
        assert await listed(server, host=host, family=family) == [expected]
        assert await ttl(server, host=host, family=family) is None
        assert server.queries == []
    else:
        with pytest.raises(ValueError, match=f"IPv{version[-1]} address, but family='{family}'"):
            pool_of(server, host, family=family)


def test_a_source_is_named_as_a_url() -> None:
    assert str(source_of(host="API.test")) == "dns://api.test:80"


@pytest.mark.parametrize(
    "host", ["", "a b", "-a", "a..b", "1.2.3", "a/b", "[::1]", "é", None, "a:1"]
)
def test_a_host_that_is_no_name_is_refused(host: Any) -> None:
    with pytest.raises(InvalidBackend):
        BackendPool.dns(host, 80)


@pytest.mark.parametrize("port", [0, 65536, -1, "http", None, 80.0, True, "080"])
def test_a_port_that_is_none_is_refused(port: Any) -> None:
    with pytest.raises(InvalidBackend):
        BackendPool.dns("api.test", port)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "ipv5"}, "family='ipv5' is none of ipv4, ipv6, any"),
        ({"family": None}, "family=None is none of"),
        ({"resolver": "bind"}, "resolver='bind' is none of auto, c-ares, system"),
        ({"min_ttl": -1}, "min_ttl=-1 is no number of seconds"),
        ({"min_ttl": float("nan")}, "min_ttl=nan is no number"),
        ({"min_ttl": float("inf")}, "min_ttl=inf is no number"),
        ({"nameservers": []}, r"nameservers=\[\] is no list of"),
        ({"nameservers": "127.0.0.1"}, "nameservers='127.0.0.1' is no list of"),
        ({"nameservers": 5}, "nameservers=5 is no list of 'address' or 'address:port'"),
        ({"nameservers": 0}, "nameservers=0 is no list of"),
        ({"nameservers": ["dns.test"]}, "nameserver 'dns.test' is no 'address'"),
        ({"nameservers": ["127.0.0.1:0"]}, "nameserver '127.0.0.1:0' is no"),
        ({"nameservers": ["127.0.0.1:"]}, "nameserver '127.0.0.1:' is no"),
        ({"nameservers": ["[::1"]}, "nameserver"),
        ({"nameservers": [""]}, "nameserver '' is no"),
        ({"nameservers": [None]}, "nameserver 'None' is no"),
        ({"nameservers": ["127.0.0.1", "x\ny"]}, r"nameserver 'x\\ny' is no"),
        ({"nameservers": ["127.0.0.1"], "resolver": "system"}, "asked by c-ares"),
    ],
)
def test_another_bad_argument_is_refused_with_its_name(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BackendPool.dns("api.test", 80, **arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", "127.0.0.1:53"),
        ("127.0.0.1:5301", "127.0.0.1:5301"),
        ("::1", "[::1]:53"),
        ("[::1]", "[::1]:53"),
        ("[::1]:5301", "[::1]:5301"),
        ("fe80::1%eth0", "[fe80::1%eth0]:53"),
    ],
)
def test_a_nameserver_may_be_an_address_of_either_family_with_or_without_a_port(
    text: str, expected: str
) -> None:
    assert source_of(text)._lookup.nameservers == [expected]  # type: ignore[attr-defined]  # port 53 is not ours to listen on


async def test_one_pool_serves_one_event_loop_after_another(server: FakeDnsServer) -> None:
    pool = pool_of(server)

    async def use() -> tuple[str, ...]:
        async with pool:
            return pool.backends()

    for address in ("10.0.0.1", "10.0.0.2"):
        server.answer("api.test", address)
        assert await asyncio.to_thread(asyncio.run, use()) == (f"{address}:80",)


async def test_a_source_that_was_not_closed_on_its_event_loop_answers_on_another(
    server: FakeDnsServer,
) -> None:
    source = source_of(server.address)

    async def ask() -> tuple[str, ...]:
        return (await source.fetch()).backends

    for address in ("10.0.0.1", "10.0.0.2"):
        server.answer("api.test", address)
        assert await asyncio.to_thread(asyncio.run, ask()) == (f"{address}:80",)
    server.answer("api.test", "10.0.0.3")
    assert await ask() == ("10.0.0.3:80",)
    await source.aclose()
