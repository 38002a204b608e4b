from __future__ import annotations

import ssl
from typing import Any

import pytest
from ticking import Ticking

from backendpool_async import BackendPool, Balancer, NoBackends
from backendpool_async.retries import Attempts, Retries, RetryBudget

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
REFUSED, RESET = ConnectionRefusedError(), ConnectionResetError()


def withdrawn(budget: RetryBudget, tries: int = 1000) -> int:
    return sum(budget.withdraw() for _ in range(tries))


def attempts(
    balancer: Balancer, retries: Retries | None = None, *, can_repeat: bool = True
) -> Attempts:
    return Attempts(balancer, retries or Retries(), None, can_repeat=can_repeat)


@pytest.fixture
def balancer() -> Balancer:
    return Balancer(BackendPool.static([A, B, C]))


def test_a_budget_allows_its_share_of_the_requests() -> None:
    budget = RetryBudget(0.2, at_least=0, clock=Ticking())
    assert withdrawn(budget) == 0
    for _ in range(100):
        budget.deposit()
    assert withdrawn(budget) == 20


def test_a_budget_allows_a_few_a_second_without_requests() -> None:
    clock = Ticking()
    budget = RetryBudget(at_least=3, window=10, clock=clock)
    assert withdrawn(budget) == 30
    granted = 0
    for _ in range(100):
        clock.advance(1)
        granted += withdrawn(budget)
    assert 260 <= granted <= 300


def test_what_a_busy_time_left_over_fades() -> None:
    clock = Ticking()
    budget = RetryBudget(0.2, at_least=0, window=10, clock=clock)
    for _ in range(1000):
        budget.deposit()
    clock.advance(10)
    assert withdrawn(budget) == 73
    for _ in range(1000):
        budget.deposit()
    clock.advance(200)
    assert withdrawn(budget) == 0


def test_requests_of_the_last_seconds_count_however_long_nothing_was_retried() -> None:
    clock = Ticking()
    budget = RetryBudget(0.2, at_least=0, window=10, clock=clock)
    for _ in range(60):
        clock.advance(1)
        for _ in range(100):
            budget.deposit()
    # Those of ten seconds, more or less: the bucket leaks all the time.
    assert 190 <= withdrawn(budget) <= 215


def test_a_retry_goes_to_backends_that_were_not_tried(balancer: Balancer) -> None:
    tries = attempts(balancer)
    leases = [tries.first(), tries.after_error(REFUSED), tries.after_error(REFUSED)]
    assert {lease.backend for lease in leases if lease} == {A, B, C}
    assert tries.after_error(REFUSED) is None
    assert balancer.explain().retries == 2


def test_attempts_are_limited(balancer: Balancer) -> None:
    tries = attempts(balancer, Retries(attempts=1))
    tries.first()
    assert tries.after_error(REFUSED) is None


def test_nothing_is_tried_again_beyond_the_budget(balancer: Balancer) -> None:
    empty = RetryBudget(0, at_least=0)
    tries = attempts(balancer, Retries(budget=empty))
    tries.first()
    assert tries.after_error(REFUSED) is None
    assert balancer.explain().retries == 0
    assert sum(state.in_flight for state in balancer.explain().backends) == 1


def test_a_retry_for_which_no_backend_is_left_costs_the_budget_nothing() -> None:
    budget = RetryBudget(at_least=0.1, window=10)
    tries = attempts(Balancer(BackendPool.static([A])), Retries(budget=budget))
    tries.first()
    assert tries.after_error(REFUSED) is None
    assert withdrawn(budget) == 1


@pytest.mark.parametrize(
    ("idempotent", "can_repeat", "again"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, True)],
)
def test_what_may_have_been_sent_is_repeated_only_if_asked_for_and_possible(
    balancer: Balancer, idempotent: bool, can_repeat: bool, again: bool
) -> None:
    tries = attempts(
        balancer, Retries(idempotent=idempotent, statuses={503}), can_repeat=can_repeat
    )
    tries.first()
    assert (tries.after_error(RESET) is not None) == again
    assert (tries.after_status(503) is not None) == again
    assert tries.after_status(500) is None


def test_what_broke_off_is_repeated_where_it_was_if_there_is_no_other_backend() -> None:
    balancer = Balancer(BackendPool.static([A, B]), ejection=None)
    tries = attempts(balancer, Retries(attempts=5, idempotent=True), can_repeat=True)
    leases = [tries.first(), tries.after_error(REFUSED), tries.after_error(RESET)]
    # The one that refused is not asked once more.
    first, second, third = (lease.backend for lease in leases if lease)
    assert first != second == third
    assert tries.after_status(503) is None


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), NoBackends("none")])
def test_what_is_not_the_backends_fault_is_not_repeated(
    balancer: Balancer, error: BaseException
) -> None:
    tries = attempts(balancer, Retries(idempotent=True))
    tries.first()
    assert tries.after_error(error) is None


def test_without_backends_the_first_try_says_so() -> None:
    with pytest.raises(NoBackends):
        attempts(Balancer(BackendPool.static([]))).first()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Retries(attempts=0), "attempts=0"),
        (lambda: Retries(statuses={99}), "99 is no status from 100 to 599"),
        (lambda: RetryBudget(1.5), "share=1.5"),
        (lambda: RetryBudget(at_least=-1), "at_least=-1"),
        (lambda: RetryBudget(window=0), "window=0"),
    ],
)
def test_numbers_out_of_range_are_refused(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"statuses": 503}, "statuses=503 is no collection of status codes"),
        ({"statuses": "503"}, "statuses='503' is no collection of status codes"),
        ({"statuses": ["503"]}, "'503' is no whole number"),
        ({"statuses": [True]}, "True is no whole number"),
        ({"budget": 0.2}, "budget=0.2 is no backendpool_async.retries.RetryBudget"),
    ],
)
def test_what_is_of_another_type_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Retries(**options)


def test_the_statuses_are_the_retries_own() -> None:
    statuses = [503]
    retries = Retries(statuses=statuses)
    statuses.append(500)
    assert retries.statuses == frozenset({503})


def test_a_retry_that_was_not_made_counts_for_nothing(balancer: Balancer) -> None:
    budget = RetryBudget(0, at_least=0.1)
    tries = attempts(balancer, Retries(attempts=2, budget=budget))
    tries.first().release(REFUSED)
    before = balancer.explain()
    for _ in range(3):
        another = tries.after_error(REFUSED)
        assert another is not None
        tries.undo(another)
    assert balancer.explain().retries == 0
    assert [(each.picks, each.requests, each.latency) for each in balancer.explain().backends] == [
        (each.picks, each.requests, each.latency) for each in before.backends
    ]
    assert sum(each.in_flight for each in balancer.explain().backends) == 0


def test_a_try_that_could_not_be_begun_goes_elsewhere_and_is_no_retry(balancer: Balancer) -> None:
    tries = attempts(balancer, Retries(attempts=1))
    first = tries.first()
    second = tries.instead(first)
    assert first.backend != second.backend
    assert balancer.explain().retries == 0
    assert sum(each.picks for each in balancer.explain().backends) == 1
    second.release()
    assert sum(each.in_flight for each in balancer.explain().backends) == 0


def test_a_try_that_could_not_be_begun_stays_where_there_is_no_other_backend() -> None:
    balancer = Balancer(BackendPool.static([A]))
    tries = attempts(balancer, Retries())
    first = tries.first()
    assert tries.instead(first) is first
    assert sum(each.in_flight for each in balancer.explain().backends) == 1


@pytest.mark.parametrize("error", [TimeoutError(), ssl.SSLError()])
def test_what_timed_out_or_was_nonsense_is_not_repeated_where_it_was(error: Exception) -> None:
    tries = attempts(Balancer(BackendPool.static([A])), Retries(idempotent=True), can_repeat=True)
    tries.first()
    assert tries.after_error(error) is None


def test_nor_is_what_broke_off_repeated_where_there_was_an_answer() -> None:
    retries = Retries(attempts=9, idempotent=True, statuses={503})
    balancer = Balancer(BackendPool.static([A, B]), ejection=None)
    tries = attempts(balancer, retries, can_repeat=True)
    tries.first()
    second = tries.after_status(503)
    assert second is not None
    third = tries.after_error(RESET)
    assert third is not None
    assert third.backend == second.backend


def test_a_first_try_that_the_caller_made_counts_as_one(balancer: Balancer) -> None:
    lease = balancer.lease().acquire()
    tries = attempts(balancer, Retries(attempts=2)).begun(lease)
    again = tries.after_error(REFUSED)
    assert again is not None
    assert again.backend != lease.backend
    assert tries.after_error(REFUSED) is None
