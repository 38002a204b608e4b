from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from ticking import Ticking, chosen, fail, succeed

from backendpool_async import (
    Backend,
    BackendPool,
    Balancer,
    Candidate,
    Chooser,
    OutlierEjection,
    PeakEwma,
    SuccessRate,
)
from backendpool_async.balance.view import ViewRules
from backendpool_async.snapshot import Snapshot

A, B, C, D = (f"10.0.0.{n}:80" for n in range(1, 5))


def test_what_changes_while_a_view_is_built_is_in_the_next_one() -> None:
    pool = BackendPool.static([A])
    prepared: list[Backend] = []

    class Pushing:
        def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
            first = candidates[0]
            prepared.append(first.backend)
            if first.backend == A:
                pool.update([B])
            return lambda _: first

    balancer = Balancer(pool, Pushing())
    assert [balancer.pick(), balancer.pick()] == [A, B]
    assert prepared == [A, B]


def test_a_policy_that_measures_learns_from_every_lease() -> None:
    clock = Ticking()
    balancer = Balancer(BackendPool.static([A, B]), PeakEwma(clock=clock), clock=clock)
    for entry, seconds in ((A, 0.01), (B, 1.0)):
        with balancer.lease(exclude={A, B} - {entry}):
            clock.advance(seconds)
    assert chosen(balancer) == {A}


def test_a_failure_that_comes_fast_does_not_look_like_speed() -> None:
    clock = Ticking()
    balancer = Balancer(BackendPool.static([A, B]), PeakEwma(clock=clock), clock=clock)
    with balancer.lease(exclude={B}):
        clock.advance(0.2)
    fail(balancer, B)
    assert chosen(balancer) == {A}


def test_a_failure_that_comes_fast_is_no_faster_than_what_its_backend_does_otherwise() -> None:
    clock = Ticking()
    balancer = Balancer(
        BackendPool.static([A, B]), PeakEwma(clock=clock), ejection=None, clock=clock
    )
    for entry in (B, A):
        with balancer.lease(exclude={A, B} - {entry}):
            clock.advance(40)
    clock.advance(0.1)
    fail(balancer, B)
    # Where a request takes 40 s, one of a second would look like speed.
    assert chosen(balancer) == {A}


@pytest.mark.virtual_time
async def test_the_second_of_two_ejected_backends_returns_in_its_own_time() -> None:
    clock = asyncio.get_running_loop().time
    async with Balancer(BackendPool.static([A, B, C, D]), clock=clock) as balancer:
        fail(balancer, A, 5)
        assert chosen(balancer) == {B, C, D}
        await asyncio.sleep(10)
        fail(balancer, B, 5)
        assert chosen(balancer) == {C, D}
        await asyncio.sleep(24)
        assert chosen(balancer) == {A, C, D}
        await asyncio.sleep(10)
        assert chosen(balancer) == {A, B, C, D}


async def test_a_long_list_is_explained_as_it_is_while_it_is_built_anew() -> None:
    clock = Ticking()
    many = [f"10.{n >> 8}.{n & 255}.1:80" for n in range(1_000)]
    async with Balancer(BackendPool.static(many), clock=clock) as balancer:
        fail(balancer, many[0], 5)
        while balancer.explain().available != 999:  # noqa: ASYNC110 - a thread decides when
            await asyncio.sleep(0)
        clock.advance(40)
        while balancer.explain().available != 1_000:  # noqa: ASYNC110 - a thread decides when
            await asyncio.sleep(0)


def test_a_backend_that_is_ejected_already_is_no_outlier_once_more() -> None:
    clock = Ticking()
    rules = OutlierEjection(success_rate=SuccessRate(deviations=0.5, minimum_requests=1))
    entries = [f"10.0.0.{n}:80" for n in range(6)]
    balancer = Balancer(BackendPool.static(entries), ejection=rules, clock=clock)
    for entry in entries[1:]:
        succeed(balancer, entry)
    fail(balancer, entries[0], 5)
    (before,) = [each for each in balancer.explain().backends if each.backend == entries[0]]
    clock.advance(10)
    succeed(balancer, entries[1])
    (after,) = [each for each in balancer.explain().backends if each.backend == entries[0]]
    assert (before.ejections, after.ejections) == (1, 1)
    assert after.ejected_because == "5 failures in a row"


def test_the_rates_of_too_few_backends_say_nothing() -> None:
    clock = Ticking()
    rules = OutlierEjection(consecutive_failures=None, success_rate=SuccessRate(minimum_requests=1))
    balancer = Balancer(BackendPool.static([A, B, C, D]), ejection=rules, clock=clock)
    for entry in (B, C, D):
        succeed(balancer, entry)
    fail(balancer, A, 50)
    clock.advance(10)
    succeed(balancer, B)
    assert chosen(balancer) == {A, B, C, D}


def test_a_candidate_and_a_state_read_well() -> None:
    clock = Ticking()
    seen: list[Candidate] = []

    class Noting:
        def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
            seen.extend(candidates)
            return lambda _: candidates[0]

    balancer = Balancer(BackendPool.static([Backend(A, weight=2)]), Noting(), clock=clock)
    with balancer.lease():
        clock.advance(0.0125)
        assert repr(seen[0]) == "<Candidate 10.0.0.1:80, weight 2, 1 in flight>"
    assert "weight 2, 0 in flight, 12.5 ms, 0 of 1 failed" in str(balancer.explain())


def test_shares_of_leases_follow_the_weights() -> None:
    balancer = Balancer(BackendPool.static([Backend(A, weight=3), B]))
    counts: Counter[Backend] = Counter()
    for _ in range(400):
        with balancer.lease() as lease:
            counts[lease.backend] += 1
    assert counts == {A: 300, B: 100}


def test_a_request_that_is_cancelled_late_tells_a_measuring_policy_that_it_was_slow() -> None:
    clock = Ticking()
    balancer = Balancer(BackendPool.static([A, B]), PeakEwma(clock=clock), clock=clock)
    for entry, seconds in ((A, 0.01), (B, 0.01)):
        with balancer.lease(exclude={A, B} - {entry}):
            clock.advance(seconds)

    def cancelled_late() -> None:
        with balancer.lease(exclude={B}):
            clock.advance(2)
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        cancelled_late()
    assert chosen(balancer) == {B}


def test_an_ejection_ends_also_when_every_lease_ends_by_cancellation() -> None:
    clock = Ticking()
    balancer = Balancer(BackendPool.static([A, B]), clock=clock)
    fail(balancer, A, 5)
    assert chosen(balancer) == {B}
    clock.advance(34)
    with pytest.raises(asyncio.CancelledError), balancer.lease():
        raise asyncio.CancelledError
    assert chosen(balancer) == {A, B}


def test_a_backend_that_was_found_well_again_returns_slowly_also_without_ejection() -> None:
    clock = Ticking()
    pool = BackendPool.static([A, B])
    balancer = Balancer(pool, ejection=None, slow_start=100, clock=clock)
    balancer.pick()
    well, other = balancer._view.listed
    well.is_healthy, well.healthy_since = True, clock.now
    balancer._builder.invalidate()
    balancer.pick()
    assert (well.weight, other.weight) == (1, 10)
    clock.advance(10.5)
    succeed(balancer, B)
    balancer.pick()
    assert (well.weight, other.weight) == (2, 10)


def test_the_next_step_of_a_return_is_never_now_however_numbers_are_rounded() -> None:
    rules = ViewRules(panic_threshold=0.5, slow_start=30, zone=None, zone_threshold=0.7)
    one, other = Candidate(Backend(A)), Candidate(Backend(B))
    one.is_healthy, numbers = True, random.Random(1)
    for _ in range(4_000):
        since = one.healthy_since = numbers.uniform(0, 100)
        for step in range(1, 10):
            for now in (math.nextafter(since + 3 * step, 0), since + 3 * step):
                # Else whoever waits for it builds, and looks, for ever.
                assert rules.view(Snapshot(), [one, other], now).changes_at > now
