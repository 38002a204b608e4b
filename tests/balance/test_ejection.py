from __future__ import annotations

import asyncio
import logging
import threading

import pytest
from ticking import Ticking, chosen, fail, succeed

from backendpool_async import (
    Backend,
    BackendPool,
    Balancer,
    Candidate,
    FailurePercentage,
    OutlierEjection,
    SuccessRate,
)
from backendpool_async.balance import ejection as ejection_module
from backendpool_async.balance.explanation import BackendState

A, B, C, D = (f"10.0.0.{n}:80" for n in range(1, 5))


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


def balancer_of(
    clock: Ticking, *entries: str, ejection: OutlierEjection | None = None, **keywords: float
) -> Balancer:
    pool = BackendPool.static(entries)
    return Balancer(pool, ejection=ejection or OutlierEjection(), clock=clock, **keywords)  # type: ignore[arg-type]  # numbers only


def state(balancer: Balancer, backend: str) -> BackendState:
    (found,) = [each for each in balancer.explain().backends if each.backend == backend]
    return found


def pass_time(balancer: Balancer, clock: Ticking, seconds: float, backend: str) -> None:
    """Let time pass without a loop: the next lease to end sees to what is due."""
    clock.advance(seconds)
    succeed(balancer, backend)


def test_five_failures_in_a_row_eject_a_backend(clock: Ticking) -> None:
    balancer = balancer_of(clock, A, B, C)
    fail(balancer, A, 4)
    assert chosen(balancer) == {A, B, C}
    fail(balancer, A)
    assert chosen(balancer) == {B, C}
    assert state(balancer, A).state == "ejected"
    assert state(balancer, A).ejected_because == "5 failures in a row"
    assert 30 <= (state(balancer, A).ejected_for or 0) <= 33


def test_a_success_in_between_begins_the_count_anew(clock: Ticking) -> None:
    balancer = balancer_of(clock, A, B)
    for _ in range(3):
        fail(balancer, A, 4)
        succeed(balancer, A)
    assert chosen(balancer) == {A, B}


def test_it_returns_when_its_time_is_over_and_needs_five_failures_again(clock: Ticking) -> None:
    balancer = balancer_of(clock, A, B)
    fail(balancer, A, 5)
    pass_time(balancer, clock, 29.9, B)
    assert chosen(balancer) == {B}
    pass_time(balancer, clock, 3.2, B)
    assert chosen(balancer) == {A, B}
    fail(balancer, A, 4)
    assert chosen(balancer) == {A, B}


def test_the_time_grows_with_each_ejection_up_to_a_limit(clock: Ticking) -> None:
    balancer = balancer_of(clock, A, B)
    times = []
    for _ in range(12):
        fail(balancer, A, 5)
        left = state(balancer, A).ejected_for
        assert left is not None
        times.append(left)
        pass_time(balancer, clock, left + 0.001, B)
    for number, left in enumerate(times, 1):
        assert min(30 * number, 300) <= left <= min(30 * number, 300) * 1.1
    assert len(set(times)) == 12, "the same time for all would bring several back together"


def test_a_time_without_an_ejection_takes_one_off(clock: Ticking) -> None:
    balancer = balancer_of(clock, A, B)
    for _ in range(3):
        fail(balancer, A, 5)
        pass_time(balancer, clock, state(balancer, A).ejected_for or 0, B)
    assert state(balancer, A).ejections == 3
    # Only a whole one: not yet the second.
    clock.advance(55)
    fail(balancer, A, 5)
    assert state(balancer, A).ejections == 3
    clock.advance(10_000)
    succeed(balancer, B)
    fail(balancer, A, 5)
    assert state(balancer, A).ejections == 1


def test_the_last_backend_is_never_ejected(clock: Ticking) -> None:
    balancer = balancer_of(clock, A)
    fail(balancer, A, 50)
    assert chosen(balancer) == {A}


@pytest.mark.parametrize(("count", "most"), [(2, 1), (3, 1), (4, 2), (5, 2), (10, 5)])
def test_at_most_half_of_the_backends_are_ejected_at_once(
    clock: Ticking, count: int, most: int
) -> None:
    entries = [f"10.0.0.{n}:80" for n in range(count)]
    balancer = balancer_of(clock, *entries)
    for entry in entries:
        fail(balancer, entry, 20 if entry in chosen(balancer, 200) else 0)
    assert len(chosen(balancer, 200)) == count - most
    assert sum(each.state == "ejected" for each in balancer.explain().backends) == most


def test_room_for_another_ejection_comes_when_one_ends(clock: Ticking) -> None:
    balancer = balancer_of(clock, A, B)
    fail(balancer, A, 5)
    fail(balancer, B, 5)
    assert chosen(balancer) == {B}
    clock.advance(33.1)
    fail(balancer, B)
    assert chosen(balancer) == {A}


def test_without_ejection_nothing_is_ejected(clock: Ticking) -> None:
    balancer = Balancer(BackendPool.static([A, B]), ejection=None, clock=clock)
    fail(balancer, A, 50)
    assert chosen(balancer) == {A, B}


def test_consecutive_failures_can_be_left_out(clock: Ticking) -> None:
    balancer = balancer_of(clock, A, B, ejection=OutlierEjection(consecutive_failures=None))
    fail(balancer, A, 50)
    assert chosen(balancer) == {A, B}


def test_an_ejection_survives_a_refresh_and_a_brief_absence(clock: Ticking) -> None:
    balancer = balancer_of(clock, A, B, C)
    fail(balancer, A, 5)
    for entries in ([C, B, Backend(A, weight=2)], [B, C], [A, B, C]):
        balancer._pool.update(entries)
        assert A not in chosen(balancer)
    assert state(balancer, A).state == "ejected"


def test_an_ejection_is_told_once_and_so_is_what_it_was_for(
    clock: Ticking, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backendpool_async")
    balancer = balancer_of(clock, A, B)
    fail(balancer, A, 9)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("static: 10.0.0.1:80 is ejected for 3")
    assert told.endswith("s: 5 failures in a row")


FIVE = [f"10.0.0.{n}:80" for n in range(5)]


def test_a_backend_most_of_whose_requests_fail_is_ejected(clock: Ticking) -> None:
    rules = OutlierEjection(failure_percentage=FailurePercentage(threshold=0.5))
    balancer = balancer_of(clock, *FIVE, ejection=rules)
    for entry in FIVE[1:]:
        succeed(balancer, entry, 50)
    for _ in range(25):
        fail(balancer, FIVE[0])
        succeed(balancer, FIVE[0])
    assert chosen(balancer) == set(FIVE)
    pass_time(balancer, clock, 10, FIVE[1])
    assert chosen(balancer) == set(FIVE[1:])
    assert state(balancer, FIVE[0]).ejected_because == "50% of the requests failed"


@pytest.mark.parametrize(("requests", "listed"), [(24, 5), (25, 4)])
def test_rates_of_few_requests_or_few_backends_say_nothing(
    clock: Ticking, requests: int, listed: int
) -> None:
    rules = OutlierEjection(failure_percentage=FailurePercentage(threshold=0.5))
    balancer = balancer_of(clock, *FIVE[:listed], ejection=rules)
    for entry in FIVE[1:listed]:
        succeed(balancer, entry, 2 * requests)
    for _ in range(requests):
        fail(balancer, FIVE[0])
        succeed(balancer, FIVE[0])
    pass_time(balancer, clock, 10, FIVE[1])
    assert chosen(balancer) == set(FIVE[:listed])


def test_each_interval_is_judged_by_its_own_requests(clock: Ticking) -> None:
    rules = OutlierEjection(failure_percentage=FailurePercentage(threshold=0.5))
    balancer = balancer_of(clock, *FIVE, ejection=rules)
    for entry in FIVE:
        succeed(balancer, entry, 1_000)
    pass_time(balancer, clock, 10, FIVE[1])
    for entry in FIVE[1:]:
        succeed(balancer, entry, 50)
    for _ in range(25):
        fail(balancer, FIVE[0])
        succeed(balancer, FIVE[0])
    pass_time(balancer, clock, 10, FIVE[1])
    assert chosen(balancer) == set(FIVE[1:])


def test_a_backend_that_succeeds_less_often_than_the_others_is_ejected(clock: Ticking) -> None:
    rules = OutlierEjection(success_rate=SuccessRate(deviations=1.5))
    balancer = balancer_of(clock, *FIVE, ejection=rules)
    for entry in FIVE[1:]:
        succeed(balancer, entry, 100)
    for _ in range(25):
        fail(balancer, FIVE[0])
        succeed(balancer, FIVE[0], 3)
    pass_time(balancer, clock, 10, FIVE[1])
    assert chosen(balancer) == set(FIVE[1:])
    assert state(balancer, FIVE[0]).ejected_because == "75% succeed, of all 95%"


def test_when_all_succeed_alike_nobody_is_an_outlier(clock: Ticking) -> None:
    rules = OutlierEjection(success_rate=SuccessRate(), failure_percentage=FailurePercentage())
    balancer = balancer_of(clock, *FIVE, ejection=rules)
    for entry in FIVE:
        for _ in range(40):
            fail(balancer, entry)
            succeed(balancer, entry, 2)
    pass_time(balancer, clock, 10, FIVE[1])
    assert chosen(balancer) == set(FIVE)


def test_when_too_few_are_left_all_are_chosen_among_and_that_is_told(
    clock: Ticking, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backendpool_async")
    balancer = balancer_of(clock, A, B, C, D, ejection=OutlierEjection(max_ejected=1.0))
    fail(balancer, A, 5)
    fail(balancer, B, 5)
    assert chosen(balancer) == {C, D}
    assert not balancer.explain().is_panic
    caplog.clear()
    fail(balancer, C, 5)
    assert chosen(balancer) == {A, B, C, D}
    assert balancer.explain().is_panic
    assert "1 of 4 backends available; panic: all are chosen among" in str(balancer.explain())
    assert repr(balancer).endswith("1 of 4 backends available, panic>")
    pass_time(balancer, clock, 33.1, D)
    assert chosen(balancer) == {A, B, C, D}
    assert not balancer.explain().is_panic
    told = [record.getMessage() for record in caplog.records if "ejected" not in record.message]
    assert [line.rpartition("; ")[2].rpartition(": ")[2] for line in told] == [
        "all are chosen among",
        "enough are available again",
    ]


def test_without_a_panic_threshold_the_few_that_are_left_are_chosen(clock: Ticking) -> None:
    balancer = balancer_of(
        clock, A, B, C, D, ejection=OutlierEjection(max_ejected=1.0), panic_threshold=0
    )
    for entry in (A, B, C):
        fail(balancer, entry, 5)
    assert chosen(balancer) == {D}


def test_a_returning_backend_gets_its_share_step_by_step(clock: Ticking) -> None:
    balancer = balancer_of(clock, A, B, slow_start=100)
    fail(balancer, A, 5)
    pass_time(balancer, clock, state(balancer, A).ejected_for or 0, B)
    shares = []
    for _ in range(11):
        picks = [balancer.pick() for _ in range(2_200)]
        shares.append(picks.count(Backend(A)) / picks.count(Backend(B)))
        pass_time(balancer, clock, 10, B)
    expected = [tenths / 10 for tenths in range(1, 11)] + [1.0]
    assert shares == pytest.approx(expected, rel=0.05)


def test_weights_are_multiplied_only_while_one_returns(clock: Ticking) -> None:
    balancer = balancer_of(clock, Backend(A, weight=3), B, slow_start=100)
    fail(balancer, A, 5)
    pass_time(balancer, clock, state(balancer, A).ejected_for or 0, B)
    balancer.pick()
    assert [each.weight for each in balancer._view.listed] == [3, 10]
    pass_time(balancer, clock, 100, B)
    balancer.pick()
    assert [each.weight for each in balancer._view.listed] == [3, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"consecutive_failures": 0},
        {"base_ejection_time": 0},
        {"max_ejection_time": float("inf")},
        {"max_ejected": 0},
        {"max_ejected": 1.1},
        {"interval": -1},
    ],
    ids=str,
)
def test_a_rule_out_of_range_is_named(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        OutlierEjection(**wrong)  # type: ignore[arg-type]  # a test's table
    with pytest.raises(TypeError, match=name):
        OutlierEjection(**{name: "5"})  # type: ignore[arg-type]  # what it is for


@pytest.mark.parametrize("name", ["minimum_requests", "minimum_backends"])
def test_a_minimum_out_of_range_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        FailurePercentage(**{name: 0})
    with pytest.raises(ValueError, match=name):
        SuccessRate(**{name: 0})
    with pytest.raises(ValueError, match="threshold"):
        FailurePercentage(threshold=0)
    with pytest.raises(ValueError, match="deviations"):
        SuccessRate(deviations=0)


@pytest.mark.virtual_time
async def test_a_started_balancer_lets_a_backend_return_by_itself() -> None:
    loop = asyncio.get_running_loop()
    async with Balancer(BackendPool.static([A, B]), clock=loop.time) as balancer:
        fail(balancer, A, 5)
        assert chosen(balancer) == {B}
        await asyncio.sleep(34)
        assert chosen(balancer) == {A, B}


@pytest.mark.parametrize("count", [30, 300])
def test_outliers_are_judged_in_a_few_steps_a_backend(
    clock: Ticking, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [f"10.0.{n // 250}.{n % 250}:80" for n in range(count)]
    rules = OutlierEjection(
        failure_percentage=FailurePercentage(minimum_requests=1), consecutive_failures=None
    )
    balancer = balancer_of(clock, *entries, ejection=rules)
    balancer.explain()
    candidates = list(balancer._view.listed)
    for number, each in enumerate(candidates):
        each.requests += 60
        each.failures += 60 * (number % 3 == 0)
    asked = 0
    is_ejected = ejection_module.is_ejected

    def counting(candidate: Candidate, now: float) -> bool:
        nonlocal asked
        # A thread may build a view of them meanwhile.
        asked += threading.current_thread() is threading.main_thread()
        return is_ejected(candidate, now)

    monkeypatch.setattr(ejection_module, "is_ejected", counting)
    with balancer.lease(exclude=entries[:1]):
        clock.advance(10)
    assert asked <= 2 * count
    assert balancer.explain().ejected == count // 3


def test_of_more_outliers_than_may_be_out_the_first_are_ejected(clock: Ticking) -> None:
    entries = [f"10.0.0.{n}:80" for n in range(10)]
    rules = OutlierEjection(
        failure_percentage=FailurePercentage(minimum_requests=1), consecutive_failures=None
    )
    balancer = balancer_of(clock, *entries, ejection=rules)
    for entry in entries[:8]:
        fail(balancer, entry)
    pass_time(balancer, clock, 10, entries[9])
    assert [each.state for each in balancer.explain().backends] == ["ejected"] * 5 + [
        "available"
    ] * 5
