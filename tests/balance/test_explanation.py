"""What a balancer tells of many backends."""

from __future__ import annotations

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
