"""What a balancer tells of many backends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ticking import Ticking

from backendpool_async import BackendPool, Balancer

MANY = [f"10.0.0.{n}:80" for n in range(1, 10)]


def fail(balancer: Balancer, backend: str, times: int) -> None:
    for _ in range(times):
        with balancer.lease(exclude={each for each in MANY if each != backend}) as lease:
            lease.failed("503")


def told(balancer: Balancer, limit: int | None = None, match: str = "") -> list[str]:
    return [each.backend for each in balancer.explain(limit, match).backends]


def test_without_a_limit_all_are_told_in_the_order_of_the_list() -> None:
    balancer = Balancer(BackendPool.static(MANY))
    fail(balancer, MANY[4], 5)
    assert told(balancer) == MANY


def test_with_a_limit_those_in_trouble_come_first() -> None:
    clock = Ticking()
    balancer = Balancer(BackendPool.static(MANY), clock=clock)
    fail(balancer, MANY[7], 1)
    fail(balancer, MANY[4], 5)
    assert told(balancer, 3) == [MANY[4], MANY[7], MANY[0]]
    clock.advance(50)
    assert told(balancer, 3) == [MANY[4], MANY[7], MANY[0]], "it failed of late"
    clock.advance(20)
    assert told(balancer, 3) == MANY[:3], "that is long ago"


def test_all_are_counted_whichever_are_told() -> None:
    balancer = Balancer(BackendPool.static(MANY))
    fail(balancer, MANY[4], 5)
    explanation = balancer.explain(2)
    assert (explanation.available, explanation.ejected, explanation.unhealthy) == (8, 1, 0)
    assert (explanation.listed, explanation.omitted) == (9, 7)
    lines = str(explanation).splitlines()
    assert lines[0] == "static, RoundRobin: 8 of 9 backends available"
    assert lines[-1] == "  and 7 more"


def test_those_whose_address_matches_are_told() -> None:
    balancer = Balancer(BackendPool.static(MANY))
    assert told(balancer, match="0.7") == [MANY[6]]
    explanation = balancer.explain(1, "10.")
    assert (len(explanation.backends), explanation.omitted) == (1, 8)
    assert explanation.listed == 9


def test_a_long_list_is_told_before_anything_was_chosen_of_it() -> None:
    balancer = Balancer(BackendPool.static([f"10.0.{n}.1:80" for n in range(250)]))
    assert balancer.explain(1).listed == 250


def test_a_change_is_noted_when_it_happens_and_not_when_somebody_chooses() -> None:
    pool = BackendPool.static(MANY[:1])
    balancer = Balancer(pool)
    before = datetime.now(UTC)
    pool.update(MANY[1:2])
    after = datetime.now(UTC)
    while datetime.now(UTC) < after + timedelta(milliseconds=20):
        balancer.pool.backends()
    (change,) = balancer.explain().changes
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(change.time) <= after


def test_what_comes_and_goes_between_two_choices_is_told() -> None:
    pool = BackendPool.static(MANY[:1])
    balancer = Balancer(pool)
    balancer.pick()
    pool.update(MANY[1:2])
    pool.update(MANY[:1])
    there, back = balancer.explain().changes
    assert (there.added, there.removed) == ((MANY[1],), (MANY[0],))
    assert (back.added, back.removed) == ((MANY[0],), (MANY[1],))
    assert back.generation == there.generation + 1


def test_the_first_list_is_no_change() -> None:
    pool = BackendPool.static(MANY)
    pool.update(MANY[1:])
    balancer = Balancer(pool)
    balancer.pick()
    assert balancer.explain().changes == ()


def test_the_last_ten_changes_are_kept_and_no_list_longer_than_it_takes_to_compare() -> None:
    pool = BackendPool.static(MANY)
    balancer = Balancer(pool)
    for number in range(30):
        pool.update(MANY[number % 2 :])
    assert [each.generation for each in balancer.explain().changes] == [*range(20, 30)]
    assert all(noted._lists == ((), ()) for noted in balancer._history._noted)


def test_what_was_counted_of_a_long_list_is_added_up() -> None:
    balancer = Balancer(BackendPool.static([f"10.0.{n // 250}.{n % 250}:80" for n in range(1_500)]))
    for _ in range(7):
        with balancer.lease():
            pass
    totals = balancer._builder._registry.totals()
    assert (totals.picks, totals.requests, totals.failures, totals.in_flight) == (7, 7, 0, 0)
