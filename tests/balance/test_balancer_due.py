"""What the machine of random scripts found, and what is due without a loop."""

from __future__ import annotations

import contextlib

import pytest
from ticking import Ticking, chosen, fail

from backendpool_async import BackendPool, Balancer, NoBackends

A, B = "10.0.0.1:80", "10.0.0.2:80"


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


def test_what_is_in_flight_at_an_ejection_and_fails_too_does_not_count_after_its_return(
    clock: Ticking,
) -> None:
    balancer = Balancer(BackendPool.static([A, B]), clock=clock)
    with contextlib.ExitStack() as together:
        for _ in range(10):
            together.enter_context(balancer.lease(exclude=[B])).failed("503")
    assert chosen(balancer) == {B}
    clock.advance(34)
    fail(balancer, A, 4)
    assert chosen(balancer) == {A, B}
    fail(balancer, A)
    assert chosen(balancer) == {B}


def test_what_a_backend_did_before_a_long_absence_is_not_remembered(clock: Ticking) -> None:
    pool = BackendPool.static([A, B])
    balancer = Balancer(pool, clock=clock, forget_after=60)
    fail(balancer, A, 4)
    pool.update([B])
    balancer.pick()
    clock.advance(61)
    # Nothing happens to the list meanwhile.
    pool.update([A, B])
    fail(balancer, A)
    assert chosen(balancer) == {A, B}
    assert balancer.explain().backends[0].requests == 1


def test_without_a_loop_an_ejection_ends_also_when_nobody_was_left_to_choose(
    clock: Ticking,
) -> None:
    pool = BackendPool.static([A, B])
    balancer = Balancer(pool, clock=clock, panic_threshold=0)
    fail(balancer, A, 5)
    pool.update([A])
    with pytest.raises(NoBackends):
        balancer.pick()
    clock.advance(34)
    assert balancer.pick() == A


def test_without_a_loop_an_ejection_ends_also_for_whom_all_others_are_excluded(
    clock: Ticking,
) -> None:
    balancer = Balancer(BackendPool.static([A, B]), clock=clock)
    fail(balancer, A, 5)
    with pytest.raises(NoBackends):
        balancer.pick(exclude=[B])
    clock.advance(34)
    assert balancer.pick(exclude=[B]) == A


def test_without_a_loop_a_lease_that_is_cancelled_sees_to_it_that_another_returns(
    clock: Ticking,
) -> None:
    balancer = Balancer(BackendPool.static([A, B]), clock=clock)
    fail(balancer, A, 5)
    clock.advance(34)
    with contextlib.suppress(GeneratorExit), balancer.lease():
        raise GeneratorExit
    assert chosen(balancer) == {A, B}


def test_whoever_asks_is_told_of_the_present_also_without_a_loop(clock: Ticking) -> None:
    balancer = Balancer(BackendPool.static([A, B]), clock=clock)
    fail(balancer, A, 5)
    assert balancer.explain().available == 1
    clock.advance(34)
    assert balancer.explain().available == 2
    assert chosen(balancer) == {A, B}
