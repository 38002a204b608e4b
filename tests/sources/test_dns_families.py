"""Both families of a name: what is served when one of them fails, says none, or is late."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator

import pytest
from servers import until

from backendpool_async import BackendPool, EmptyAnswer, SourceError
from backendpool_async.sources import resolver_hub
from backendpool_async.sources.dns import DnsSource
from backendpool_async.sources.lookup import Family, Found
from backendpool_async.testing.dns_server import (
    FakeDnsServer,
    Step,
    nodata,
    nxdomain,
    records,
    refused,
    servfail,
    silence,
    slow,
)

A, AAAA = records("10.0.0.1", ttl=60), records("::1", ttl=60)
BOTH = ("10.0.0.1:80", "[::1]:80")


@pytest.fixture
async def server() -> AsyncIterator[FakeDnsServer]:
    async with FakeDnsServer() as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let c-ares give up after a fraction of the seconds that it waits otherwise."""
    monkeypatch.setattr(resolver_hub, "_QUERY_TIMEOUT", 0.05)


def source_of(nameserver: str) -> DnsSource:
    return DnsSource(
        "api.test", 80, family="any", nameservers=[nameserver], resolver="auto", min_ttl=5.0
    )


@pytest.fixture
def both(server: FakeDnsServer) -> DnsSource:
    return source_of(server.address)


def script(server: FakeDnsServer, *, a: Step, aaaa: Step) -> None:
    server.script("api.test", a, qtype="A")
    server.script("api.test", aaaa, qtype="AAAA")


async def fetched(source: DnsSource) -> tuple[tuple[str, ...], float | None]:
    # Closed each time, so that no resolver answers from its memory.
    try:
        answer = await source.fetch()
    finally:
        await source.aclose()
    return answer.backends, answer.ttl


@pytest.mark.parametrize("failure", [servfail(), silence()])
async def test_a_family_that_fails_keeps_its_addresses_and_is_asked_again_soon(
    server: FakeDnsServer, impatient: None, both: DnsSource, failure: Step
) -> None:
    script(server, a=A, aaaa=AAAA)
    assert await fetched(both) == (BOTH, 60)
    script(server, a=failure, aaaa=records("::2", ttl=60))
    assert await fetched(both) == (("10.0.0.1:80", "[::2]:80"), 5)
    script(server, a=records("10.0.0.3", ttl=60), aaaa=failure)
    assert await fetched(both) == (("10.0.0.3:80", "[::2]:80"), 5)
    script(server, a=A, aaaa=AAAA)
    assert await fetched(both) == (BOTH, 60)


async def test_a_family_that_never_answered_has_nothing_to_keep_and_is_asked_again_soon(
    server: FakeDnsServer, both: DnsSource
) -> None:
    script(server, a=servfail(), aaaa=AAAA)
    assert await fetched(both) == (("[::1]:80",), 5)


@pytest.mark.parametrize("empty", [nodata(), nxdomain(), nodata(soa=False)])
async def test_a_family_that_is_empty_is_just_empty(
    server: FakeDnsServer, both: DnsSource, empty: Step
) -> None:
    script(server, a=A, aaaa=AAAA)
    assert await fetched(both) == (BOTH, 60)
    script(server, a=empty, aaaa=AAAA)
    assert await fetched(both) == (("[::1]:80",), 60)
    # And what it had before does not come back with a failure.
    script(server, a=servfail(), aaaa=AAAA)
    assert await fetched(both) == (("[::1]:80",), 5)


async def test_a_family_that_fails_keeps_its_addresses_while_the_other_has_none(
    server: FakeDnsServer, both: DnsSource
) -> None:
    script(server, a=A, aaaa=AAAA)
    await fetched(both)
    script(server, a=servfail(), aaaa=nodata())
    assert await fetched(both) == (("10.0.0.1:80",), 5)


async def test_both_families_empty_is_a_none(server: FakeDnsServer, both: DnsSource) -> None:
    script(server, a=nodata(), aaaa=nxdomain())
    with pytest.raises(EmptyAnswer, match="A and AAAA lookup: neither has a record"):
        await fetched(both)


async def test_both_families_failing_is_a_failure_although_addresses_are_known(
    server: FakeDnsServer, both: DnsSource
) -> None:
    script(server, a=A, aaaa=AAAA)
    await fetched(both)
    script(server, a=servfail(), aaaa=refused())
    with pytest.raises(SourceError, match="A lookup: SERVFAIL"):
        await fetched(both)


async def test_one_family_failing_and_the_other_empty_is_a_failure_and_no_none(
    server: FakeDnsServer, both: DnsSource
) -> None:
    for a, aaaa in ((servfail(), nodata()), (nxdomain(), refused())):
        script(server, a=a, aaaa=aaaa)
        with pytest.raises(SourceError, match=r"SERVFAIL|REFUSED") as caught:
            await fetched(both)
        assert not isinstance(caught.value, EmptyAnswer)


async def test_a_family_that_fails_is_warned_of_once_and_its_recovery_told_once(
    server: FakeDnsServer, both: DnsSource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backendpool_async")
    for _ in range(2):
        script(server, a=A, aaaa=AAAA)
        for _ in range(2):
            await fetched(both)
        script(server, a=A, aaaa=servfail())
        for _ in range(3):
            await fetched(both)
    failing = (
        logging.WARNING,
        "dns://api.test:80: one family fails, its addresses stay: api.test: AAAA lookup: SERVFAIL",
    )
    recovered = (
        logging.INFO,
        "dns://api.test:80: the family that failed answers again: AAAA lookup",
    )
    assert [each[1:] for each in caplog.record_tuples] == [failing, recovered, failing]


async def test_a_family_that_failed_has_recovered_when_it_says_none(
    server: FakeDnsServer, both: DnsSource, caplog: pytest.LogCaptureFixture
) -> None:
    script(server, a=A, aaaa=servfail())
    await fetched(both)
    caplog.set_level(logging.INFO, "backendpool_async")
    script(server, a=A, aaaa=nodata())
    assert await fetched(both) == (("10.0.0.1:80",), 60)
    assert [record.levelno for record in caplog.records][-1] == logging.INFO


async def test_a_pool_lives_through_the_failure_of_one_family(server: FakeDnsServer) -> None:
    script(server, a=A, aaaa=AAAA)
    pool = BackendPool.dns("api.test", 80, family="any", nameservers=[server.address])
    assert (await pool.refresh()).backends == BOTH
    script(server, a=servfail(), aaaa=records("::2"))
    snapshot = await pool.refresh()
    assert (snapshot.backends, snapshot.error) == (("10.0.0.1:80", "[::2]:80"), None)


async def test_a_cancelled_lookup_of_both_families_leaves_nothing_behind(
    both: DnsSource, server: FakeDnsServer
) -> None:
    server.outage = silence()
    fetching = asyncio.create_task(both.fetch())
    await until(lambda: len(server.queries) == 2)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await both.aclose()


async def test_a_silent_family_holds_the_other_up_for_no_longer_than_its_grace(
    server: FakeDnsServer, both: DnsSource
) -> None:
    script(server, a=A, aaaa=AAAA)
    assert await fetched(both) == (BOTH, 60)
    for a, aaaa in ((A, silence()), (silence(), AAAA)):
        script(server, a=a, aaaa=aaaa)
        begun = time.monotonic()
        assert await fetched(both) == (BOTH, 5)
        # c-ares would take 2.8 s.
        assert 0.5 <= time.monotonic() - begun < 1.5


async def test_silence_of_one_family_at_three_nameservers_fails_no_refresh(
    server: FakeDnsServer,
) -> None:
    script(server, a=A, aaaa=silence())
    async with FakeDnsServer() as second, FakeDnsServer() as third:
        servers = [server, second, third]
        for each in servers:
            script(each, a=A, aaaa=silence())
        addresses = [each.address for each in servers]
        async with BackendPool.dns("api.test", 80, family="any", nameservers=addresses) as pool:
            assert pool.backends() == ("10.0.0.1:80",)
            assert pool.snapshot.error is None


async def test_a_slow_family_within_its_grace_is_waited_for(
    server: FakeDnsServer, both: DnsSource
) -> None:
    script(server, a=slow(0.2, A), aaaa=AAAA)
    assert await fetched(both) == (BOTH, 60)


Outcome = tuple[float, Found | Exception]


class Lookups:
    """Answers each family after so many seconds, and remembers whose lookup was cancelled."""

    def __init__(self) -> None:
        self.script: dict[Family, Outcome] = {}
        self.under_way = 0
        self.cancelled: set[str] = set()

    def says(self, a: Outcome, aaaa: Outcome) -> None:
        self.script = {socket.AF_INET: a, socket.AF_INET6: aaaa}

    async def addresses(self, name: str, family: Family) -> Found:
        delay, outcome = self.script[family]
        self.under_way += 1
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self.cancelled.add(family.name)
            # As the last user of a resolver that is to be closed: it takes a moment.
            await asyncio.sleep(0.01)
            raise
        finally:
            self.under_way -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """Nothing is held."""


FOUND_A, FOUND_AAAA = Found(frozenset({"10.0.0.1"}), 60), Found(frozenset({"::1"}), 60)
NONE = EmptyAnswer("api.test", "NODATA")
FAILURE = SourceError("api.test", "SERVFAIL")
virtual = pytest.mark.virtual_time


def scripted() -> tuple[DnsSource, Lookups]:
    source, lookups = source_of("127.0.0.1"), Lookups()
    source._lookup = lookups
    return source, lookups


async def took(source: DnsSource) -> tuple[float, tuple[str, ...], float | None]:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    answer = await source.fetch()
    return round(loop.time() - begun, 3), answer.backends, answer.ttl


@virtual
async def test_a_late_family_is_without_addresses_until_it_answers_and_keeps_them_then() -> None:
    source, lookups = scripted()
    lookups.says((1, FOUND_A), (9, FOUND_AAAA))
    assert await took(source) == (1.51, ("10.0.0.1:80",), 5)
    assert lookups.cancelled == {"AF_INET6"}
    lookups.says((1, FOUND_A), (1.4, FOUND_AAAA))
    assert await took(source) == (1.4, BOTH, 60)
    lookups.says((1, FOUND_A), (9, FOUND_AAAA))
    for _ in range(5):
        assert await took(source) == (1.51, BOTH, 5)


@virtual
async def test_a_late_family_is_warned_of_as_one_that_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source, lookups = scripted()
    lookups.says((1, FOUND_A), (9, FOUND_AAAA))
    await source.fetch()
    (message,) = caplog.messages
    assert message.startswith("dns://api.test:80: one family fails, its addresses stay: ")
    assert message.endswith(": AAAA lookup: no answer within 0.5 s of the other family's")


@virtual
@pytest.mark.parametrize("nothing_to_serve", [NONE, FAILURE, RuntimeError("no thread")])
async def test_a_family_is_waited_for_while_the_other_gives_nothing_to_serve(
    nothing_to_serve: Exception,
) -> None:
    source, lookups = scripted()
    lookups.says((4, FOUND_A), (1, nothing_to_serve))
    assert (await took(source))[:2] == (4, ("10.0.0.1:80",))
    source, lookups = scripted()
    lookups.says((1, nothing_to_serve), (4, FOUND_AAAA))
    assert (await took(source))[:2] == (4, ("[::1]:80",))
    assert lookups.cancelled == set()


@virtual
@pytest.mark.parametrize(
    ("after", "cancelled"),
    [
        pytest.param(0.3, {"AF_INET", "AF_INET6"}, id="neither-has-answered"),
        pytest.param(1.2, {"AF_INET6"}, id="in-the-grace"),
        pytest.param(1.505, {"AF_INET6"}, id="as-the-late-one-ends"),
    ],
)
async def test_a_fetch_that_is_cancelled_ends_its_lookups_before_it_ends(
    after: float, cancelled: set[str]
) -> None:
    source, lookups = scripted()
    lookups.says((1, FOUND_A), (9, FOUND_AAAA))
    fetching = asyncio.create_task(source.fetch())
    await asyncio.sleep(after)
    assert lookups.under_way == len(cancelled)
    fetching.cancel()
    await asyncio.wait({fetching})
    assert fetching.cancelled()
    assert (lookups.under_way, lookups.cancelled) == (0, cancelled)
