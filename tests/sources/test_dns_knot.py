"""The same once more against a name server that others wrote and run: knot."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from servers import Knot, running_knot, until

from backendpool_async import BackendPool, EmptyAnswer, SourceError
from backendpool_async.sources.dns import DnsSource


@pytest.fixture(scope="module")
def knot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knot]:
    with running_knot(tmp_path_factory.mktemp("knot")) as knot:
        yield knot


def pool_of(knot: Knot, name: str, **options: Any) -> BackendPool:
    return BackendPool.dns(f"{name}.{knot.ZONE}", 80, nameservers=[knot.address], **options)


async def listed(knot: Knot, name: str, **options: Any) -> list[str]:
    return list((await pool_of(knot, name, **options).refresh()).backends)


async def ttl(knot: Knot, name: str) -> float | None:
    source = DnsSource(
        f"{name}.{knot.ZONE}",
        80,
        family="ipv4",
        nameservers=[knot.address],
        resolver="auto",
        min_ttl=5.0,
    )
    try:
        return (await source.fetch()).ttl
    finally:
        await source.aclose()


async def test_addresses_of_either_family_come_sorted_with_their_ttl(knot: Knot) -> None:
    knot.records("api", "A", "10.0.0.10", "10.0.0.9", ttl=40)
    knot.records("api", "AAAA", "2001:db8::1")
    assert await listed(knot, "api") == ["10.0.0.9:80", "10.0.0.10:80"]
    assert await listed(knot, "api", family="ipv6") == ["[2001:db8::1]:80"]
    assert await listed(knot, "api", family="any") == [
        "10.0.0.9:80",
        "10.0.0.10:80",
        "[2001:db8::1]:80",
    ]
    assert await ttl(knot, "api") == 40


@pytest.mark.parametrize(("given", "expected"), [(0, 5), (1, 5), (2**31 - 1, 2**31 - 1)])
async def test_a_ttl_counts_from_the_floor_up(knot: Knot, given: int, expected: int) -> None:
    knot.records("ttl", "A", "10.0.0.1", ttl=given)
    assert await ttl(knot, "ttl") == expected


async def test_aliases_are_followed_and_the_least_ttl_counts(knot: Knot) -> None:
    knot.records("one", "CNAME", "two", ttl=300)
    knot.records("two", "CNAME", "three", ttl=9)
    knot.records("three", "A", "10.0.0.3", ttl=60)
    assert await listed(knot, "one") == ["10.0.0.3:80"]
    assert await ttl(knot, "one") == 9


async def test_300_records_arrive_whole(knot: Knot) -> None:
    addresses = [f"10.0.{index // 250}.{index % 250}" for index in range(300)]
    knot.records("many", "A", *addresses)
    assert await listed(knot, "many") == [f"{address}:80" for address in addresses]


async def test_a_name_that_does_not_exist_is_a_none(knot: Knot) -> None:
    with pytest.raises(EmptyAnswer, match="A lookup: NXDOMAIN"):
        await listed(knot, "nowhere")


async def test_a_name_without_a_record_of_the_family_is_a_none(knot: Knot) -> None:
    knot.records("four", "A", "10.0.0.1")
    with pytest.raises(EmptyAnswer, match="AAAA lookup: NODATA"):
        await listed(knot, "four", family="ipv6")
    assert await listed(knot, "four", family="any") == ["10.0.0.1:80"]


async def test_an_alias_out_of_the_zone_leads_nowhere_and_is_a_none(knot: Knot) -> None:
    knot.records("out", "CNAME", "elsewhere.test.")
    with pytest.raises(EmptyAnswer):
        await listed(knot, "out")


async def test_a_name_of_a_zone_it_does_not_serve_is_refused_and_a_failure(knot: Knot) -> None:
    pool = BackendPool.dns("api.foreign.test", 80, nameservers=[knot.address], empty_after=1)
    with pytest.raises(SourceError, match="A lookup: REFUSED") as caught:
        await pool.refresh()
    assert not isinstance(caught.value, EmptyAnswer)


async def test_a_record_that_changes_is_seen_after_its_ttl(knot: Knot) -> None:
    knot.records("live", "A", "10.0.0.1", ttl=1)
    begun = time.monotonic()
    async with pool_of(knot, "live", min_ttl=0.05, poll_interval=600) as pool:
        assert pool.backends() == ("10.0.0.1:80",)
        knot.records("live", "A", "10.0.0.2", "10.0.0.3", ttl=1)
        await until(lambda: pool.backends() == ("10.0.0.2:80", "10.0.0.3:80"))
        assert time.monotonic() - begun >= 1


async def test_a_name_that_is_removed_empties_the_list_only_when_believed_and_comes_back(
    knot: Knot,
) -> None:
    knot.records("gone", "A", "10.0.0.1", ttl=1)
    pool = pool_of(knot, "gone", empty_after=2)
    assert (await pool.refresh()).backends == ("10.0.0.1:80",)
    knot.remove("gone")
    with pytest.raises(EmptyAnswer, match="negative answer 1 of 2"):
        await pool.refresh()
    assert pool.backends() == ("10.0.0.1:80",)
    assert (await pool.refresh()).backends == ()
    knot.records("gone", "A", "10.0.0.2", ttl=1)
    assert (await pool.refresh()).backends == ("10.0.0.2:80",)


async def test_the_list_outlives_the_server_and_follows_its_return(tmp_path: Path) -> None:
    with running_knot(tmp_path) as mortal:
        mortal.records("api", "A", "10.0.0.1", ttl=1)
        pool = pool_of(mortal, "api", min_ttl=0.05, poll_interval=0.5, timeout=0.5)
        async with pool:
            mortal.stop()
            await until(lambda: pool.snapshot.error)
            assert pool.backends() == ("10.0.0.1:80",)
            mortal.start_again()
            mortal.records("api", "A", "10.0.0.2", ttl=1)
            await until(lambda: pool.backends() == ("10.0.0.2:80",))
            assert pool.snapshot.error is None


@pytest.mark.parametrize(
    ("required", "outcome"), [("1", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_a_server_that_is_not_installed_skips_unless_it_is_required(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, required: str, outcome: type[Exception]
) -> None:
    monkeypatch.setenv("BACKENDPOOL_REQUIRE_SERVERS", required)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(outcome, match="knotd is not installed"), running_knot(tmp_path):
        raise AssertionError("it runs")


def test_a_port_that_was_taken_meanwhile_is_not_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free = servers._free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(servers, "_free_port", lambda: next(ports))
        with running_knot(tmp_path) as other:
            assert other.address == f"127.0.0.1:{free}"
