"""One resolver for many lookups: how few there are, how long they live, and how they end."""

from __future__ import annotations

import asyncio
import gc
import operator
import sys
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest
from servers import Use, nameserver_of_its_own, silent_nameserver, until

from backendpool_async import BackendPool, PoolClosed, SourceError
from backendpool_async.sources import resolver_hub
from backendpool_async.sources.resolver_hub import ResolverHub, _LoopThatMayClose
from backendpool_async.testing.dns_server import FakeDnsServer, silence

linux = pytest.mark.skipif(sys.platform != "linux", reason="it counts in /proc")


@pytest.fixture
async def server() -> AsyncIterator[FakeDnsServer]:
    async with FakeDnsServer() as server:
        yield server


def pool_of(server: FakeDnsServer, host: str = "api.test", **options: Any) -> BackendPool:
    return BackendPool.dns(host, 80, nameservers=[server.address], **options)


def pools_of(server: FakeDnsServer, count: int, **options: Any) -> list[BackendPool]:
    names = [f"api{index}.test" for index in range(count)]
    for name in names:
        server.answer(name, "10.0.0.1", ttl=1)
    return [pool_of(server, name, **options) for name in names]


async def address(hub: ResolverHub) -> str:
    answer = await hub.lookup(lambda resolver: resolver.query_dns("api.test", "A"))
    return str(getattr(answer.answer[0].data, "addr", None))


class Peak:
    """The most that was held at once, looked at again and again while it runs."""

    def __init__(self) -> None:
        self.before = self.most = Use.now()

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._looking.cancel()
        await asyncio.wait({self._looking})

    async def _look(self) -> None:
        while True:
            self.most = Use(*map(max, self.most, Use.now()))
            await asyncio.sleep(0.005)


@linux
async def test_a_thousand_pools_hold_four_threads_and_twenty_descriptors_and_one_inotify_more() -> (
    None
):
    with nameserver_of_its_own(1000) as nameserver:
        pools = [
            BackendPool.dns(f"api{index}.test", 80, nameservers=[nameserver], min_ttl=1.0)
            for index in range(1000)
        ]
        async with Peak() as peak:
            # A server may drop some of a thousand datagrams; the pools ask again.
            await asyncio.gather(*(pool.start(required=False) for pool in pools))
            await until(lambda: all(pool.backends() == ("10.0.0.1:80",) for pool in pools))
            first = time.monotonic()
            # Each asks again, by resolvers that were renewed in between.
            await until(lambda: all((p.snapshot.refreshed_at or 0) > first for p in pools))
            await asyncio.gather(*(pool.aclose() for pool in pools))
    assert peak.most.threads - peak.before.threads <= 4
    assert peak.most.descriptors - peak.before.descriptors <= 20
    # One, and one more while a resolver follows another.
    assert peak.most.inotify - peak.before.inotify <= 2


@linux
async def test_a_thousand_starts_and_closes_leave_nothing(server: FakeDnsServer) -> None:
    (pool,) = pools_of(server, 1)
    async with pool:
        pass
    await until(lambda: Use.now().inotify == 0)
    before = Use.now()
    for _ in range(1000):
        async with pool:
            pass
    await until(lambda: all(map(operator.le, Use.now(), before)))


async def test_the_lookups_of_two_hundred_pools_at_once_all_succeed(
    server: FakeDnsServer,
) -> None:
    pools = pools_of(server, 200)
    snapshots = await asyncio.gather(*(pool.refresh() for pool in pools))
    assert {snapshot.backends for snapshot in snapshots} == {("10.0.0.1:80",)}
    assert sorted(query.name for query in server.queries) == sorted(
        f"api{index}.test" for index in range(200)
    )


async def test_lookups_that_hang_do_not_hold_up_the_ones_behind_them(
    server: FakeDnsServer,
) -> None:
    hanging = pools_of(server, 64, timeout=10)
    for index in range(64):
        server.script(f"api{index}.test", silence())
    waiting = [asyncio.create_task(pool.refresh()) for pool in hanging]
    await until(lambda: len(server.queries) >= 16)
    server.answer("prompt.test", "10.0.0.1")
    begun = time.monotonic()
    await pool_of(server, "prompt.test").refresh()
    assert time.monotonic() - begun < 0.9
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_no_more_than_sixteen_lookups_begin_at_once(server: FakeDnsServer) -> None:
    hub = ResolverHub.join([server.address])
    begun = 0
    ended = asyncio.Event()

    async def ask(_: object) -> None:
        nonlocal begun
        begun += 1
        await ended.wait()

    lookups = [asyncio.create_task(hub.lookup(ask)) for _ in range(40)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert begun == 16
    # The next ones begin although none of these ends.
    await until(lambda: begun == 40)
    ended.set()
    await asyncio.wait(lookups)
    await hub.leave()


async def test_a_lookup_that_is_cancelled_in_the_queue_takes_no_turn(
    server: FakeDnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_hub, "_BEGIN_AGAIN_AFTER", 600)
    server.answer("api.test", "10.0.0.1")
    hub = ResolverHub.join([server.address])
    ended = asyncio.Event()
    held = [asyncio.create_task(hub.lookup(lambda _: ended.wait())) for _ in range(16)]
    queued = [asyncio.create_task(hub.lookup(lambda _: ended.wait())) for _ in range(40)]
    await asyncio.sleep(0)
    for task in queued:
        task.cancel()
    await asyncio.wait(queued)
    ended.set()
    await asyncio.wait(held)
    assert await asyncio.wait_for(address(hub), 5) == "10.0.0.1"
    await hub.leave()


@pytest.mark.parametrize("order", [(7, 16), (16, 7)], ids=["ends-first", "cancelled-first"])
async def test_a_lookup_that_is_cancelled_as_its_turn_comes_passes_it_on(
    server: FakeDnsServer, monkeypatch: pytest.MonkeyPatch, order: tuple[int, int]
) -> None:
    monkeypatch.setattr(resolver_hub, "_BEGIN_AGAIN_AFTER", 600)
    hub = ResolverHub.join([server.address])
    ended = asyncio.Event()
    begun: list[int] = []

    async def ask(number: int) -> None:
        begun.append(number)
        await ended.wait()

    async def look_up(number: int) -> None:
        await hub.lookup(lambda _: ask(number))

    lookups = [asyncio.create_task(look_up(number)) for number in range(18)]
    await until(lambda: len(begun) == 16)
    for lookup in lookups[:7]:
        lookup.cancel()
    await asyncio.wait(lookups[:7])
    # In one moment the eighth ends, which is half, and the one whose turn it is is cancelled.
    for number in order:
        lookups[number].cancel()
    await until(lambda: 17 in begun)
    assert 16 not in begun
    ended.set()
    await asyncio.wait(lookups)
    await hub.leave()


async def test_lookups_within_a_second_share_a_resolver_and_later_ones_have_another(
    server: FakeDnsServer,
) -> None:
    hub = ResolverHub.join([server.address])
    seen: list[Any] = []

    async def ask(resolver: object) -> None:
        seen.append(resolver)

    begun = time.monotonic()
    while len(set(seen)) < 2:
        await hub.lookup(ask)
        await asyncio.sleep(0.01)
        assert time.monotonic() - begun < 20
    assert time.monotonic() - begun >= 1
    assert seen.count(seen[0]) > 1
    assert [resolver._closed for resolver in (seen[0], seen[-1])] == [True, False]
    await hub.leave()
    assert seen[-1]._closed


async def test_a_resolver_that_is_replaced_finishes_what_it_was_asked(
    server: FakeDnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_hub, "_SHARED_FOR", 0.0)
    hub = ResolverHub.join([server.address])
    ended = asyncio.Event()
    seen: list[Any] = []

    async def ask(resolver: object) -> None:
        seen.append(resolver)
        await ended.wait()

    first = asyncio.create_task(hub.lookup(ask))
    await until(lambda: seen)
    second = asyncio.create_task(hub.lookup(ask))
    await until(lambda: len(seen) == 2)
    assert [resolver._closed for resolver in seen] == [False, False]
    ended.set()
    await asyncio.wait({first, second})
    assert [resolver._closed for resolver in seen] == [True, False]
    await hub.leave()
    assert [resolver._closed for resolver in seen] == [True, True]


async def test_there_is_no_third_resolver_as_long_as_a_lookup_waits_for_the_first(
    server: FakeDnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_hub, "_SHARED_FOR", 0.0)
    hub = ResolverHub.join([server.address])
    ended = asyncio.Event()
    seen: list[object] = []

    async def hang(resolver: object) -> None:
        seen.append(resolver)
        await ended.wait()

    async def ask(resolver: object) -> None:
        seen.append(resolver)

    hanging = asyncio.create_task(hub.lookup(hang))
    await until(lambda: seen)
    for _ in range(3):
        await hub.lookup(ask)
    assert [resolver is seen[1] for resolver in seen] == [False, True, True, True]
    ended.set()
    await hanging
    await hub.lookup(ask)
    assert seen[-1] not in seen[:-1]
    await hub.leave()


async def test_pools_with_the_same_nameservers_share_a_hub_and_others_do_not(
    server: FakeDnsServer,
) -> None:
    hubs = [ResolverHub.join(nameservers) for nameservers in (["a:53"], ["a:53"], ["b:53"], [])]
    assert hubs[0] is hubs[1]
    assert len(set(hubs)) == 3
    for hub in hubs:
        await hub.leave()


@linux
async def test_a_hub_lives_until_its_last_user_leaves(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.1")
    one, other = pool_of(server), pool_of(server)
    await one.start()
    await other.start()
    await one.aclose()
    assert Use.now().inotify == 1
    await other.aclose()
    await until(lambda: Use.now().inotify == 0)


@linux
async def test_a_hub_that_nobody_gave_back_goes_with_its_users(server: FakeDnsServer) -> None:
    server.answer("api.test", "10.0.0.1")
    hub = ResolverHub.join([server.address])
    assert await address(hub) == "10.0.0.1"
    gone = weakref.ref(hub)
    del hub
    gc.collect()
    assert gone() is None
    await until(lambda: Use.now().inotify == 0)


@linux
async def test_a_pool_that_is_closed_while_it_asks_gives_the_resolver_back(
    server: FakeDnsServer,
) -> None:
    server.outage = silence()
    pool = pool_of(server, timeout=30)
    starting = asyncio.create_task(pool.start())
    await until(lambda: server.queries)
    begun = time.monotonic()
    await pool.aclose()
    assert time.monotonic() - begun < 2
    with pytest.raises(PoolClosed):
        await starting
    await until(lambda: Use.now().inotify == 0)


async def test_closing_one_pool_leaves_the_lookups_of_the_others_alone(
    server: FakeDnsServer,
) -> None:
    server.answer("prompt.test", "10.0.0.1")
    server.script("api.test", silence())
    asking = pool_of(server, timeout=30)
    waiting = asyncio.create_task(asking.refresh())
    await until(lambda: server.queries)
    async with pool_of(server, "prompt.test"):
        pass
    server.answer("api.test", "10.0.0.2")
    assert (await waiting).backends == ("10.0.0.2:80",)


@linux
async def test_a_pool_whose_lookups_time_out_does_not_gather_resolvers() -> None:
    with silent_nameserver() as nameserver:
        pool = BackendPool.dns("api.test", 80, nameservers=[nameserver], timeout=0.05)
        await pool.start(required=False)
        for _ in range(10):
            with pytest.raises(SourceError):
                await pool.refresh()
        assert Use.now().inotify == 1
        await pool.aclose()


def test_a_late_answer_of_a_resolver_falls_silent_when_its_loop_is_closed() -> None:
    loop = asyncio.new_event_loop()
    for_resolver = _LoopThatMayClose(loop)
    assert for_resolver.is_closed() is False  # type: ignore[operator]  # the loop's own method
    loop.close()
    for_resolver.call_soon_threadsafe(pytest.fail, "it was called")
    assert for_resolver.is_closed() is True  # type: ignore[operator]  # the loop's own method
