"""Looking up names that hang, without harm to others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from backendpool_async.balance.health.addresses import addresses


class Resolver:
    """The system's resolver: names that end in ``.hangs`` are not answered until they may be."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.begun = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.fails = False
        self.real = socket.getaddrinfo

    def __call__(self, host: str, port: int, *, flags: int = 0, **keywords: Any) -> Any:
        if flags:
            return self.real(host, port, flags=flags, **keywords)
        self.asked[host] += 1
        self.begun.release()
        if host.endswith(".hangs"):
            assert self.may_answer.wait(30)
        if self.fails:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return self.real("127.0.0.1", port, **keywords)

    async def has_begun(self, lookups: int) -> None:
        for _ in range(lookups):
            assert await asyncio.to_thread(self.begun.acquire, timeout=5)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.may_answer.set()


async def given_up(host: str, resolver: Resolver, lookups: int = 1) -> None:
    """Ask, and wait no longer once it hangs."""
    asking = asyncio.create_task(addresses(host, 80))
    await resolver.has_begun(lookups)
    asking.cancel()
    await asyncio.wait({asking})
    assert asking.cancelled()


def test_a_loop_that_is_closed_during_a_lookup_is_not_kept(resolver: Resolver) -> None:
    async def given_up_and_left() -> None:
        await given_up("one.hangs", resolver)

    closed = asyncio.new_event_loop()
    closed.run_until_complete(given_up_and_left())
    closed.close()
    left = weakref.ref(closed)
    del closed
    resolver.may_answer.set()
    asyncio.run(ended())
    asyncio.run(_looked_up("two.test"))
    gc.collect()
    assert left() is None


async def _looked_up(host: str) -> None:
    await addresses(host, 80)


async def ended() -> None:
    while any(thread.name == "backendpool" for thread in threading.enumerate()):  # noqa: ASYNC110 - threads decide when
        await asyncio.sleep(0.001)


async def test_a_name_is_looked_up_once_at_a_time_however_often_it_is_asked_for(
    resolver: Resolver,
) -> None:
    await given_up("one.hangs", resolver)
    for _ in range(20):
        await given_up("one.hangs", resolver, lookups=0)
    asking = [asyncio.create_task(addresses("one.hangs", port)) for port in (80, 81)]
    await asyncio.sleep(0)
    assert resolver.asked == {"one.hangs": 1}
    resolver.may_answer.set()
    found = await asyncio.gather(*asking)
    assert [infos[0][4] for infos in found] == [("127.0.0.1", 80), ("127.0.0.1", 81)]
    assert (await addresses("one.hangs", 82))[0][4] == ("127.0.0.1", 82)
    assert resolver.asked == {"one.hangs": 2}
    await ended()


async def test_names_that_hang_do_not_keep_another_from_its_lookup(resolver: Resolver) -> None:
    for number in range(20):
        await given_up(f"{number}.hangs", resolver)
    async with asyncio.timeout(5):
        assert (await addresses("well.example", 80))[0][4] == ("127.0.0.1", 80)
    resolver.may_answer.set()
    await ended()


async def test_what_a_lookup_fails_with_is_raised_to_all_who_wait(resolver: Resolver) -> None:
    resolver.fails = True
    asking = [asyncio.create_task(addresses("one.hangs", port)) for port in (80, 81)]
    await resolver.has_begun(1)
    resolver.may_answer.set()
    await asyncio.wait(asking)
    assert all(isinstance(each.exception(), socket.gaierror) for each in asking)
    resolver.fails = False
    assert await addresses("one.hangs", 80)
    await ended()


async def test_a_lookup_that_fails_with_nobody_waiting_says_nothing(resolver: Resolver) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, it: complaints.append(it))
    resolver.fails = True
    await given_up("one.hangs", resolver)
    resolver.may_answer.set()
    await ended()
    await asyncio.sleep(0)
    assert not complaints


def test_a_lookup_that_outlasts_its_event_loop_harms_nobody(resolver: Resolver) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(given_up("one.hangs", resolver))
    second = asyncio.new_event_loop()
    asking = second.create_task(addresses("one.hangs", 80))
    second.run_until_complete(resolver.has_begun(1))
    resolver.may_answer.set()
    assert second.run_until_complete(asking)[0][4] == ("127.0.0.1", 80)
    second.run_until_complete(ended())
    second.run_until_complete(second.shutdown_default_executor())
    second.close()
