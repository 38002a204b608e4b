"""What is a "none", what a failure, and what stays of a list through either."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from servers import nobody, silent_nameserver, until

from backendpool_async import BackendPool, EmptyAnswer, SourceError, SourceTimeout
from backendpool_async.sources import resolver_hub
from backendpool_async.testing.dns_server import (
    FakeDnsServer,
    Step,
    formerr,
    garbage,
    nodata,
    notimp,
    nxdomain,
    records,
    refused,
    servfail,
    silence,
    slow,
    wrong_id,
)

KNOWN = ("10.0.0.1:80",)


@pytest.fixture
async def server() -> AsyncIterator[FakeDnsServer]:
    async with FakeDnsServer() as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let c-ares give up after a fraction of the seconds that it waits otherwise."""
    monkeypatch.setattr(resolver_hub, "_QUERY_TIMEOUT", 0.05)


def pool_of(server: FakeDnsServer, **options: Any) -> BackendPool:
    return BackendPool.dns("api.test", 80, nameservers=[server.address], **options)


async def pool_that_knows(server: FakeDnsServer, **options: Any) -> BackendPool:
    server.answer("api.test", "10.0.0.1", ttl=1)
    pool = pool_of(server, **options)
    assert (await pool.refresh()).backends == KNOWN
    return pool


def serves(pool: BackendPool, *backends: str) -> bool:
    return pool.backends() == backends


NEGATIVE = [
    pytest.param(nxdomain(), "NXDOMAIN", id="nxdomain"),
    pytest.param(nxdomain(soa=False), "NXDOMAIN", id="nxdomain-without-soa"),
    pytest.param(nodata(), "NODATA", id="nodata"),
    pytest.param(nodata(soa=False), "NODATA", id="nodata-without-soa"),
    pytest.param(records("::1"), "NODATA", id="only-the-other-family"),
]
FAILURES = [
    pytest.param(servfail(), "SERVFAIL", id="servfail"),
    pytest.param(refused(), "REFUSED", id="refused"),
    pytest.param(notimp(), "NOTIMP", id="notimp"),
    pytest.param(formerr(), "FORMERR", id="formerr"),
    pytest.param(silence(), "no nameserver answered", id="silence"),
    pytest.param(garbage(), "a malformed answer", id="garbage"),
    pytest.param(wrong_id(records("10.0.0.9")), "no nameserver answered", id="wrong-id"),
    pytest.param(slow(30, records("10.0.0.9")), "no nameserver answered", id="slow"),
]


@pytest.mark.parametrize(("answer", "reason"), NEGATIVE)
async def test_a_none_is_believed_the_third_time_in_a_row(
    server: FakeDnsServer, answer: Step, reason: str
) -> None:
    pool = await pool_that_knows(server)
    server.outage = answer
    for count in (1, 2):
        with pytest.raises(EmptyAnswer, match=rf"A lookup: {reason} \(negative answer {count}"):
            await pool.refresh()
        assert pool.backends() == KNOWN
    snapshot = await pool.refresh()
    assert (snapshot.backends, snapshot.error) == ((), None)


@pytest.mark.parametrize(("answer", "reason"), NEGATIVE)
async def test_a_none_is_believed_at_once_where_the_pool_says_so(
    server: FakeDnsServer, answer: Step, reason: str
) -> None:
    pool = await pool_that_knows(server, empty_after=1)
    server.outage = answer
    assert (await pool.refresh()).backends == ()


@pytest.mark.parametrize(("answer", "reason"), FAILURES)
async def test_a_failure_is_never_believed_and_the_list_stays(
    server: FakeDnsServer, impatient: None, answer: Step, reason: str
) -> None:
    pool = await pool_that_knows(server, empty_after=1)
    server.outage = answer
    with pytest.raises(SourceError, match=f"A lookup: (?:{reason})") as caught:
        await pool.refresh()
    assert not isinstance(caught.value, EmptyAnswer)
    assert str(caught.value).startswith("dns://api.test:80: A lookup: ")
    assert pool.snapshot.error is not None
    assert pool.backends() == KNOWN

    server.outage = None
    server.answer("api.test", "10.0.0.2")
    snapshot = await pool.refresh()
    assert (snapshot.backends, snapshot.error) == (("10.0.0.2:80",), None)


async def test_failures_between_two_nones_neither_count_nor_reset(
    server: FakeDnsServer, impatient: None
) -> None:
    pool = await pool_that_knows(server, empty_after=2)
    for outage in (nxdomain(), servfail(), refused()):
        server.outage = outage
        with pytest.raises(SourceError):
            await pool.refresh()
        assert pool.backends() == KNOWN
    server.outage = nodata()
    assert (await pool.refresh()).backends == ()


async def test_a_good_answer_between_two_nones_resets_the_count(server: FakeDnsServer) -> None:
    pool = await pool_that_knows(server, empty_after=2)
    for _ in range(3):
        server.outage = nxdomain()
        with pytest.raises(EmptyAnswer, match="negative answer 1 of 2"):
            await pool.refresh()
        server.outage = None
        assert (await pool.refresh()).backends == KNOWN


async def test_a_server_that_nobody_runs_is_a_failure(impatient: None) -> None:
    pool = BackendPool.dns("api.test", 80, nameservers=[nobody()], empty_after=1)
    with pytest.raises(SourceError, match="no nameserver") as caught:
        await pool.refresh()
    assert not isinstance(caught.value, EmptyAnswer)


async def test_silence_is_given_up_after_the_pools_timeout_however_long_c_ares_would_wait() -> None:
    with silent_nameserver() as address:
        pool = BackendPool.dns("api.test", 80, nameservers=[address], timeout=0.2)
        begun = time.monotonic()
        with pytest.raises(SourceTimeout, match=r"no answer within 0\.2 s"):
            await pool.refresh()
        assert time.monotonic() - begun < 1


async def test_an_answer_under_a_foreign_id_is_ignored_and_the_right_one_taken(
    server: FakeDnsServer, impatient: None
) -> None:
    server.script("api.test", wrong_id(records("10.0.0.9")), records("10.0.0.1"))
    assert (await pool_of(server).refresh()).backends == KNOWN


async def test_one_bad_answer_is_asked_again_before_it_is_a_failure(
    server: FakeDnsServer, impatient: None
) -> None:
    for bad in (servfail(), silence(), garbage()):
        server.script("api.test", bad, records("10.0.0.1"))
        assert (await pool_of(server).refresh()).backends == KNOWN


async def test_a_flapping_server_never_empties_the_list_and_is_caught_up_with(
    server: FakeDnsServer, impatient: None
) -> None:
    pool = await pool_that_knows(server, min_ttl=0.05, poll_interval=0.1)
    async with pool:
        for last, outage in enumerate([servfail(), silence(), refused(), garbage()], start=2):
            server.outage = outage
            await until(lambda: pool.snapshot.error)
            assert pool.backends()
            server.answer("api.test", f"10.0.0.{last}", ttl=0)
            server.outage = None
            await until(partial(serves, pool, f"10.0.0.{last}:80"))
            assert pool.snapshot.error is None


async def test_a_nodata_without_soa_is_asked_again_by_a_resolver_that_does_not_remember_it(
    server: FakeDnsServer,
) -> None:
    server.script("api.test", nodata(soa=False))
    pool = pool_of(server, poll_interval=0.2, empty_after=None)
    async with pool_of(server, poll_interval=600, initial=KNOWN):
        # The other pool keeps the hub in use: it is time that renews the resolver, nothing else.
        await pool.start(required=False)
        server.answer("api.test", "10.0.0.2")
        await until(lambda: pool.backends() == ("10.0.0.2:80",))
        await pool.aclose()


async def test_a_first_lookup_that_fails_fails_the_start(server: FakeDnsServer) -> None:
    server.outage = refused()
    pool = pool_of(server)
    with pytest.raises(SourceError, match="REFUSED; there is nothing to serve"):
        await pool.start()
