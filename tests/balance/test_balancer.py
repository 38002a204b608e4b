from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections import Counter
from collections.abc import Sequence

import pytest
from ticking import Ticking, chosen

from backendpool_async import (
    Backend,
    BackendPool,
    Balancer,
    Candidate,
    Chooser,
    NoBackends,
    Subset,
)
from backendpool_async.testing import ScriptedSource

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"


class ByKey:
    """Chooses by the length of the key, so that a test knows what comes."""

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        return lambda key: candidates[len(key or "") % len(candidates)]


def test_every_backend_of_the_list_is_chosen_in_turn() -> None:
    balancer = Balancer(BackendPool.static([A, B, C]))
    assert Counter(balancer.pick() for _ in range(30)) == {A: 10, B: 10, C: 10}
    assert type(balancer.pick()) is Backend


def test_choosing_from_nothing_says_so_and_why() -> None:
    balancer = Balancer(BackendPool.static([]))
    with pytest.raises(NoBackends, match="there is no backend to choose"):
        balancer.pick()
    with pytest.raises(NoBackends):
        balancer.pick("key", exclude=[A])


async def test_the_error_of_the_source_stands_in_the_error_of_choosing() -> None:
    pool = BackendPool(ScriptedSource(OSError("registry is down")))
    balancer = Balancer(pool)
    async with asyncio.timeout(5):
        with pytest.raises(Exception, match="down"):
            await pool.refresh()
    with pytest.raises(NoBackends, match="registry is down"):
        balancer.pick()


def test_a_pushed_list_counts_from_the_next_choice_on() -> None:
    pool = BackendPool.static([A])
    balancer = Balancer(pool)
    assert balancer.pick() == A
    pool.update([B])
    assert chosen(balancer) == {B}
    pool.update([])
    with pytest.raises(NoBackends):
        balancer.pick()
    pool.update([C])
    assert chosen(balancer) == {C}


def test_a_change_of_a_weight_alone_counts_too() -> None:
    pool = BackendPool.static([A, B])
    balancer = Balancer(pool)
    balancer.pick()
    pool.update([Backend(A, weight=3), B])
    assert Counter(balancer.pick() for _ in range(40)) == {A: 30, B: 10}


def test_what_is_excluded_is_not_chosen() -> None:
    balancer = Balancer(BackendPool.static([A, B, C]))
    assert {balancer.pick(exclude={A}) for _ in range(50)} == {B, C}
    assert {balancer.pick(exclude=[A, C]) for _ in range(50)} == {B}
    assert {balancer.pick(exclude=A) for _ in range(50)} == {B, C}
    with pytest.raises(NoBackends, match="none is left of 3"):
        balancer.pick(exclude=[A, B, C])


def test_a_key_goes_to_the_policy_and_falls_back_on_the_same_backend_each_time() -> None:
    balancer = Balancer(BackendPool.static([A, B, C]), ByKey())
    assert [balancer.pick(key) for key in ("", "x", "xx", "xxx")] == [A, B, C, A]
    first = balancer.pick("x", exclude={B})
    assert first != B
    assert {balancer.pick("x", exclude={B}) for _ in range(20)} == {first}
    assert {balancer.pick("x", exclude={B, first}) for _ in range(20)} == {A, B, C} - {B, first}


def test_a_key_whose_backend_is_excluded_asks_the_policy_once_more_under_another_name() -> None:
    asked: list[str | None] = []

    class Asked:
        def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
            def choose(key: str | None) -> Candidate:
                asked.append(key)
                return candidates[0] if key == "x" else candidates[2]

            return choose

    balancer = Balancer(BackendPool.static([A, B, C]), Asked())
    assert {balancer.pick("x", exclude={A}) for _ in range(20)} == {C}
    assert len(set(asked)) == 2
    assert balancer.pick("x", exclude={A, C}) == B


def test_what_is_known_survives_refreshes_reorderings_and_a_brief_absence() -> None:
    clock = Ticking()
    pool = BackendPool.static([A, B])
    balancer = Balancer(pool, clock=clock, forget_after=60)
    with balancer.lease(exclude={B}):
        pool.update([Backend(B), Backend(A, weight=5)])
        pool.update([B])
        balancer.pick()
        clock.advance(59)
        pool.update([B, A])
        (in_flight,) = [each.in_flight for each in balancer.explain().backends if each.backend == A]
        assert in_flight == 1
    (requests,) = [each.requests for each in balancer.explain().backends if each.backend == A]
    assert requests == 1


def test_what_is_known_is_dropped_after_a_long_absence() -> None:
    clock = Ticking()
    pool = BackendPool.static([A, B])
    balancer = Balancer(pool, clock=clock, forget_after=60)
    with balancer.lease(exclude={B}):
        clock.advance(1)
    pool.update([B])
    balancer.pick()
    clock.advance(61)
    pool.update([B, C])
    balancer.pick()
    pool.update([A, B])
    (requests,) = [each.requests for each in balancer.explain().backends if each.backend == A]
    assert requests == 0


def test_what_is_in_flight_is_not_forgotten() -> None:
    clock = Ticking()
    pool = BackendPool.static([A, B])
    balancer = Balancer(pool, clock=clock, forget_after=60)
    with balancer.lease(exclude={B}):
        for wait, entries in ((0, [B]), (100, [B, C]), (0, [A, B])):
            clock.advance(wait)
            pool.update(entries)
            balancer.pick()
        assert balancer.explain().backends[0].in_flight == 1
    assert balancer.explain().backends[0].in_flight == 0


def test_one_zone_is_preferred_while_enough_of_it_is_there() -> None:
    near = [Backend(f"10.0.1.{n}:80", zone="near") for n in range(3)]
    far = [Backend(f"10.0.2.{n}:80", zone="far") for n in range(3)]
    pool = BackendPool.static([*far, *near, A])
    assert chosen(Balancer(pool, zone="near")) == set(near)
    assert chosen(Balancer(pool, zone="nowhere")) == {*near, *far, A}
    assert chosen(Balancer(pool)) == {*near, *far, A}


def test_a_subset_is_chosen_among_only() -> None:
    pool = BackendPool.static([f"10.0.0.{n}:80" for n in range(10)])
    balancer = Balancer(pool, subset=Subset(client=3, size=2))
    assert chosen(balancer) == set(Subset(client=3, size=2).of(pool.backends()))
    assert len(chosen(balancer)) == 2


class Gated:
    """A policy that prepares slowly, and only when the test lets it."""

    prepares_slowly = True

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        self.threads.append(threading.current_thread())
        assert self.gate.acquire(timeout=10)
        first = candidates[0]
        return lambda _: first


async def test_the_old_view_is_in_use_while_a_slow_policy_prepares_in_a_thread() -> None:
    policy = Gated()
    pool = BackendPool.static([A])
    policy.gate.release()
    async with Balancer(pool, policy) as balancer:
        assert balancer.pick() == A
        pool.update([B])
        assert balancer.pick() == A
        pool.update([C])
        assert balancer.pick() == A
        policy.gate.release(2)
        while balancer.pick() != C:  # noqa: ASYNC110 - a thread decides when
            await asyncio.sleep(0)
        assert threading.current_thread() not in policy.threads


async def test_closing_waits_for_the_thread_that_builds() -> None:
    policy = Gated()
    pool = BackendPool.static([A])
    policy.gate.release()
    async with Balancer(pool, policy):
        pool.update([B])
        asyncio.get_running_loop().call_soon(policy.gate.release)
    assert not any(thread.is_alive() for thread in policy.threads)


async def test_a_long_list_is_gone_through_in_a_thread() -> None:
    many = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80" for n in range(5_000)]
    pool = BackendPool.static(many)
    async with Balancer(pool) as balancer:
        assert balancer.pick() in set(many)
        pool.update(many[:4_000])
        while len(balancer.explain().backends) != 4_000:  # noqa: ASYNC110 - a thread decides when
            await asyncio.sleep(0)


async def test_starting_starts_the_pool_and_closing_closes_it() -> None:
    source = ScriptedSource([A], [B])
    pool = BackendPool(source, poll_interval=60)
    async with Balancer(pool) as balancer:
        assert balancer.pick() == A
        await pool.refresh()
        assert balancer.pick() == B
    assert (source.closings, balancer.pick()) == (1, B)
    await balancer.start()
    await balancer.aclose()
    await balancer.aclose()


async def test_a_backend_that_cannot_be_reached_makes_the_pool_ask_early() -> None:
    source = ScriptedSource([A], [B])
    pool = BackendPool(source, poll_interval=3600)
    async with Balancer(pool) as balancer:
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                async with balancer.lease():
                    raise ConnectionRefusedError
        async for snapshot in pool.watch():
            if snapshot.backends == (B,):
                break
        assert (source.calls, balancer.pick()) == (2, B)


async def test_a_request_that_breaks_off_does_not_make_the_pool_ask_early() -> None:
    source = ScriptedSource([A], [B])
    async with Balancer(BackendPool(source, poll_interval=3600)) as balancer:
        with pytest.raises(ConnectionResetError):
            async with balancer.lease():
                raise ConnectionResetError
        for _ in range(10):
            await asyncio.sleep(0)
        assert source.calls == 1


def test_a_pool_does_not_keep_its_balancers() -> None:
    pool = BackendPool.static([A])
    for _ in range(10):
        Balancer(pool).pick()
    gc.collect()
    assert len(pool._wakers) == 0


def test_what_is_known_is_plain_data_and_reads_well() -> None:
    clock = Ticking()
    pool = BackendPool.static([Backend(A, weight=3, zone="near"), B])
    balancer = Balancer(pool, clock=clock)
    balancer.pick()
    pool.update([Backend(A, weight=3, zone="near"), C])
    with balancer.lease(exclude={C}) as lease:
        lease.failed("503")
    clock.advance(7)
    explanation = balancer.explain()
    data = json.loads(json.dumps(explanation.as_dict()))
    first = data["backends"][0]
    assert (first["backend"], first["weight"], first["zone"]) == (A, 3, "near")
    assert (first["failures"], first["last_failure"], first["last_failure_ago"]) == (1, "503", 7)
    assert data["changes"][-1]["added"] == [C]
    assert data["changes"][-1]["removed"] == [B]
    text = str(explanation)
    assert text.startswith("static, RoundRobin: 2 of 2 backends available\n")
    assert "10.0.0.1:80" in text
    assert "1 of 1 failed, last failure 7 s ago: 503" in text
    assert f"+{C} -{B}" in text
    assert repr(balancer) == "<Balancer static: RoundRobin, 2 of 2 backends available>"


def test_a_change_of_the_order_alone_is_told_as_such_and_a_long_one_is_cut() -> None:
    many = [f"10.0.0.{n}:80" for n in range(40)]
    pool = BackendPool.static(many)
    balancer = Balancer(pool)
    balancer.pick()
    pool.update(many[::-1])
    *_, last = str(balancer.explain()).splitlines()
    assert last.endswith("order or attributes")
    pool.update([])
    *_, last = str(balancer.explain()).splitlines()
    assert last.endswith("and 30 more")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"panic_threshold": 1.5}, "panic_threshold=1.5"),
        ({"slow_start": -1}, "slow_start=-1"),
        ({"zone_threshold": 0}, "zone_threshold=0"),
        ({"forget_after": 0}, "forget_after=0"),
    ],
)
def test_a_number_out_of_range_is_named(keywords: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Balancer(BackendPool.static([A]), **keywords)  # type: ignore[arg-type]  # a test's table
