from __future__ import annotations

import asyncio

import pytest
from ticking import Ticking

from backendpool_async import BackendPool, Balancer, Failure, NoBackends
from backendpool_async.balance.explanation import BackendState

A = "10.0.0.1:80"


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


@pytest.fixture
def balancer(clock: Ticking) -> Balancer:
    return Balancer(BackendPool.static([A]), clock=clock)


def state(balancer: Balancer) -> BackendState:
    (only,) = balancer.explain().backends
    return only


async def test_a_backend_is_in_flight_from_entering_to_leaving(balancer: Balancer) -> None:
    lease = balancer.lease()
    assert state(balancer).in_flight == 0
    async with lease:
        async with balancer.lease():
            assert state(balancer).in_flight == 2
        assert state(balancer).in_flight == 1
    assert state(balancer).in_flight == 0


def test_code_without_a_loop_leases_with_a_plain_with(balancer: Balancer) -> None:
    with balancer.lease() as lease:
        assert (lease.backend, state(balancer).in_flight) == (A, 1)
    assert (state(balancer).in_flight, state(balancer).requests) == (0, 1)


async def test_what_ends_well_is_measured_and_counted(balancer: Balancer, clock: Ticking) -> None:
    async with balancer.lease():
        clock.advance(0.25)
    assert (state(balancer).latency, state(balancer).requests) == (0.25, 1)
    async with balancer.lease():
        clock.advance(1.25)
    assert state(balancer).latency == pytest.approx(0.35)
    assert state(balancer).failures == 0


async def test_a_transports_exception_is_a_failure_of_the_backend(
    balancer: Balancer, clock: Ticking
) -> None:
    with pytest.raises(ConnectionResetError):
        async with balancer.lease():
            raise ConnectionResetError("by peer")
    clock.advance(3)
    assert (state(balancer).failures, state(balancer).requests) == (1, 1)
    assert state(balancer).last_failure == "ConnectionResetError: 'by peer'"
    assert state(balancer).last_failure_ago == 3


async def test_a_failure_can_be_said_by_hand_and_nothing_is_raised(balancer: Balancer) -> None:
    async with balancer.lease() as lease:
        lease.failed("503\n", kind=Failure.TRANSPORT)
    assert (state(balancer).failures, state(balancer).last_failure) == (1, r"503\n")


async def test_what_was_said_by_hand_counts_before_what_is_raised(balancer: Balancer) -> None:
    async def use() -> None:
        async with balancer.lease() as lease:
            lease.failed("503")
            raise ValueError("of the caller")

    with pytest.raises(ValueError, match="caller"):
        await use()
    assert (state(balancer).failures, state(balancer).last_failure) == (1, "503")


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError(), GeneratorExit()])
async def test_cancellation_and_the_callers_own_errors_are_neither_failure_nor_success(
    balancer: Balancer, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        async with balancer.lease():
            raise error
    assert (state(balancer).in_flight, state(balancer).requests, state(balancer).failures) == (
        0,
        0,
        0,
    )


async def test_a_cancelled_request_shows_that_it_takes_at_least_so_long(
    balancer: Balancer, clock: Ticking
) -> None:
    async def cancelled_after(seconds: float) -> None:
        async with balancer.lease():
            clock.advance(seconds)
            raise asyncio.CancelledError

    async with balancer.lease():
        clock.advance(0.1)
    for took in (0.05, 5.1):
        with pytest.raises(asyncio.CancelledError):
            await cancelled_after(took)
    assert state(balancer).latency == pytest.approx(0.1 + 5.0 / 10)


async def test_a_lease_is_given_back_wherever_its_task_is_cancelled(balancer: Balancer) -> None:
    async def use(steps: int) -> None:
        async with balancer.lease():
            for _ in range(steps):
                await asyncio.sleep(0)

    for cancelled_after in range(6):
        task = asyncio.create_task(use(3))
        for _ in range(cancelled_after):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert state(balancer).in_flight == 0


def test_a_lease_has_no_backend_before_it_is_entered(balancer: Balancer) -> None:
    with pytest.raises(RuntimeError, match="once it is entered"):
        _ = balancer.lease().backend


def test_a_lease_is_for_one_use(balancer: Balancer) -> None:
    with balancer.lease() as lease, pytest.raises(RuntimeError, match="for one use"):
        lease.__enter__()
    with pytest.raises(RuntimeError, match="for one use"), lease:
        pytest.fail("it was entered twice")
    assert state(balancer).in_flight == 0


def test_a_lease_that_was_not_entered_cannot_be_left(balancer: Balancer) -> None:
    with pytest.raises(RuntimeError, match="was not entered"):
        balancer.lease().__exit__(None, None, None)


async def test_a_lease_of_nothing_says_that_there_is_nothing() -> None:
    balancer = Balancer(BackendPool.env_prefix("NOT_SET"))
    with pytest.raises(NoBackends, match="env:NOT_SET: there is no backend to choose"):
        async with balancer.lease():
            pytest.fail("there was one")


def test_a_lease_acquired_and_released_by_hand_is_counted_once(balancer: Balancer) -> None:
    lease = balancer.lease().acquire()
    assert state(balancer).in_flight == 1
    lease.release(ConnectionResetError("by peer"))
    lease.release()
    assert (state(balancer).in_flight, state(balancer).requests) == (0, 1)
    assert state(balancer).failures == 1
    assert lease.backend == A
    with pytest.raises(RuntimeError, match="for one use"):
        lease.acquire()


def test_the_latency_of_a_use_that_goes_on_ends_with_its_answer() -> None:
    now = [0.0]
    balancer = Balancer(BackendPool.static([A]), clock=lambda: now[0])
    with balancer.lease() as lease:
        now[0] = 2.0
        lease.answered()
        now[0] = 3600.0
        assert state(balancer).in_flight == 1
    lease.answered()
    assert state(balancer).latency == 2.0


def test_a_clock_that_raises_leaves_nothing_in_flight() -> None:
    broken = False

    def clock() -> float:
        if broken:
            raise OSError("no clock")
        return 0.0

    balancer = Balancer(BackendPool.static([A]), clock=clock)
    balancer.pick()
    broken = True
    lease = balancer.lease()
    with pytest.raises(OSError, match="no clock"):
        lease.acquire()
    broken = False
    assert (state(balancer).in_flight, state(balancer).picks) == (0, 0)
    with lease:
        assert state(balancer).in_flight == 1
    assert state(balancer).in_flight == 0


def test_a_lease_from_before_a_fork_takes_nothing_from_what_is_counted_after_it(
    balancer: Balancer,
) -> None:
    with balancer.lease():
        # As in a forked child.
        balancer._builder._registry.reset()
        assert state(balancer).in_flight == 0
        after = balancer.lease().acquire()
    assert state(balancer).in_flight == 1
    after.release()
    assert state(balancer).in_flight == 0
