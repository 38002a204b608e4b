"""The system's resolver when it does not come back: how much it may take with it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from servers import until

from backendpool_async import BackendPool, SourceError, SourceTimeout

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 0))]


class Resolver:
    """Stands in for ``socket.getaddrinfo``: hangs as long as it is told to, then answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.delay = 0.0
        self.released = threading.Event()

    def __call__(self, name: str, *_: object) -> list[Any]:
        self.asked.append(name)
        time.sleep(self.delay)
        assert self.released.wait(60)
        return FOUND


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """One that hangs until the test has ended, or releases it."""
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    try:
        yield resolver
    finally:
        resolver.released.set()
        for thread in resolving():
            thread.join(10)


def resolving() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("backendpool")]


def pool_of(host: str = "api.test", **options: Any) -> BackendPool:
    return BackendPool.dns(host, 80, resolver="system", **options)


async def test_a_lookup_that_hangs_is_given_up_and_not_piled_upon(resolver: Resolver) -> None:
    pool = pool_of(timeout=0.05)
    with pytest.raises(SourceTimeout):
        await pool.refresh()
    for _ in range(4):
        with pytest.raises(SourceError, match="still busy with the lookup before"):
            await pool.refresh()
    assert (resolver.asked, len(resolving())) == (["api.test"], 1)


async def test_a_name_that_hangs_leaves_threads_to_the_other_names(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceTimeout):
        await pool_of(timeout=0.05).refresh()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: FOUND)
    assert (await pool_of("b.test").refresh()).backends == ("10.0.0.1:80",)


async def test_a_lookup_that_was_given_up_before_its_turn_is_never_made(
    resolver: Resolver,
) -> None:
    pools = [pool_of(f"{letter}.test", timeout=0.1) for letter in "abcdef"]
    await asyncio.gather(*(pool.refresh() for pool in pools), return_exceptions=True)
    resolver.released.set()
    await until(lambda: not resolving())
    assert sorted(resolver.asked) == ["a.test", "b.test", "c.test", "d.test"]


async def test_a_thousand_pools_whose_resolver_hangs_hold_four_threads(
    resolver: Resolver,
) -> None:
    pools = [pool_of(f"api{index}.test", timeout=0.3) for index in range(1000)]
    outcomes = await asyncio.gather(*(pool.refresh() for pool in pools), return_exceptions=True)
    assert all(isinstance(outcome, SourceTimeout) for outcome in outcomes)
    assert len(resolving()) == 4


async def test_lookups_that_wait_for_a_thread_are_served_when_one_is_free(
    resolver: Resolver,
) -> None:
    resolver.released.set()
    resolver.delay = 0.005
    pools = [pool_of(f"api{index}.test") for index in range(50)]
    snapshots = await asyncio.gather(*(pool.refresh() for pool in pools))
    assert [snapshot.backends for snapshot in snapshots] == [("10.0.0.1:80",)] * 50
    await until(lambda: not resolving())


async def test_after_it_hung_the_system_is_asked_again(resolver: Resolver) -> None:
    pool = pool_of(timeout=0.05)
    with pytest.raises(SourceTimeout):
        await pool.refresh()
    resolver.released.set()
    await until(lambda: not resolving())
    assert (await pool.refresh()).backends == ("10.0.0.1:80",)


async def test_a_resolver_that_hangs_does_not_hold_up_the_close(resolver: Resolver) -> None:
    pool = pool_of(timeout=30, initial=["10.0.0.9:80"])
    starting = asyncio.create_task(pool.start())
    await until(lambda: resolver.asked)
    begun = time.monotonic()
    await pool.aclose()
    assert time.monotonic() - begun < 5
    await asyncio.wait({starting})
    assert starting.exception() is not None


def test_an_answer_after_the_end_of_the_loop_is_dropped(
    resolver: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.new_event_loop()
    with pytest.raises(SourceTimeout):
        loop.run_until_complete(pool_of(timeout=0.05).refresh())
    loop.close()
    caplog.clear()
    resolver.released.set()
    for thread in resolving():
        thread.join(10)
    assert caplog.records == []
