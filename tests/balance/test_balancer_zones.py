"""The own zone, panic and slow start together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from ticking import Ticking, chosen, fail

from backendpool_async import Backend, BackendPool, Balancer, OutlierEjection

NEAR = [Backend(f"10.0.1.{n}:80", zone="near") for n in range(4)]
FAR = [Backend(f"10.0.2.{n}:80", zone="far") for n in range(8)]


def sick(balancer: Balancer, backends: Sequence[Backend]) -> None:
    balancer.explain()
    for candidate in balancer._view.listed:
        candidate.is_healthy = candidate.backend not in backends
    balancer._builder.invalidate()


@pytest.mark.parametrize(
    ("sick_near", "sick_far", "expected"),
    [
        (0, 0, NEAR),
        (0, 8, NEAR),  # the other zone has fallen: what is that to this one
        (1, 8, NEAR[1:]),  # 3 of 4 are enough of the zone
        (2, 0, [*NEAR[2:], *FAR]),
        (2, 4, [*NEAR[2:], *FAR[4:]]),  # 6 of 12 are enough of all
        (2, 5, [*NEAR, *FAR]),  # they are not: panic
        (4, 0, FAR),
        (4, 8, [*NEAR, *FAR]),
    ],
)
def test_the_own_zone_comes_first_then_all_that_are_available_then_all(
    sick_near: int, sick_far: int, expected: Sequence[Backend]
) -> None:
    balancer = Balancer(BackendPool.static([*NEAR, *FAR]), zone="near", zone_threshold=0.7)
    sick(balancer, [*NEAR[:sick_near], *FAR[:sick_far]])
    assert chosen(balancer) == set(expected)
    explanation = balancer.explain()
    assert explanation.is_panic is (len(expected) == 12)
    assert {each.backend for each in explanation.backends if each.chosen_among} == set(expected)


@pytest.mark.parametrize(("threshold", "is_near"), [(0.5, True), (0.51, False), (1.0, False)])
def test_the_threshold_says_how_much_of_the_zone_is_enough(threshold: float, is_near: bool) -> None:
    balancer = Balancer(BackendPool.static([*NEAR, *FAR]), zone="near", zone_threshold=threshold)
    sick(balancer, [*NEAR[:2]])
    assert chosen(balancer) == ({*NEAR[2:]} if is_near else {*NEAR[2:], *FAR})


def test_without_panic_an_own_zone_that_fell_leaves_the_others() -> None:
    pool = BackendPool.static([*NEAR, *FAR])
    balancer = Balancer(pool, zone="near", panic_threshold=0)
    sick(balancer, [*NEAR, *FAR[1:]])
    assert chosen(balancer) == {FAR[0]}


def test_in_a_panic_who_just_returned_gets_no_less_than_the_sick() -> None:
    clock = Ticking()
    pool = BackendPool.static(NEAR)
    balancer = Balancer(
        pool, ejection=OutlierEjection(max_ejected=1.0), slow_start=100, clock=clock
    )
    fail(balancer, NEAR[0], 5)
    clock.advance(34)
    balancer.explain()
    first, *others = balancer._view.listed
    assert (first.weight, others[0].weight) == (1, 10)
    sick(balancer, NEAR[1:])
    explanation = balancer.explain()
    assert explanation.is_panic
    assert [each.share for each in explanation.backends] == [0.25] * 4
    assert not any(each.returning for each in explanation.backends)


def test_how_much_a_backend_gets_is_told() -> None:
    clock = Ticking()
    balancer = Balancer(
        BackendPool.static([*NEAR[:2], FAR[0]]), zone="near", slow_start=100, clock=clock
    )
    balancer.explain()
    well = balancer._view.listed[0]
    well.is_healthy, well.healthy_since = True, clock.now
    balancer._builder.invalidate()
    first, second, third = balancer.explain().backends
    assert (first.share, second.share, third.share) == (1 / 11, 10 / 11, 0)
    assert [each.chosen_among for each in (first, second, third)] == [True, True, False]
    assert (first.returning, second.returning) == (True, False)
    assert "available  weight 1, returning with 9.1% of the requests, 0 in flight" in str(first)
    assert "available  weight 1, 0 in flight" in str(second)
    assert "available  weight 1, not chosen among, 0 in flight" in str(third)
    data = balancer.explain().as_dict()["backends"]
    assert [each["share"] for each in data] == [1 / 11, 10 / 11, 0]
    clock.advance(101)
    assert [each.share for each in balancer.explain(2).backends] == [0.5, 0.5]


def test_far_backends_are_weighed_too() -> None:
    near, light, other = NEAR[0], FAR[0], FAR[1]
    pool = BackendPool.static([near, light, other])
    balancer = Balancer(pool, zone="near")
    balancer.pick()
    pool.update([near, Backend(light, zone="far", weight=9), other])
    counts = Counter(balancer.pick(exclude=[near]) for _ in range(5_000))
    assert 7 < counts[light] / counts[other] < 12


def test_while_one_returns_all_are_weighed_by_the_same_measure() -> None:
    clock = Ticking()
    balancer = Balancer(
        BackendPool.static([*NEAR[:2], *FAR[:2]]), zone="near", slow_start=100, clock=clock
    )
    balancer.explain()
    well = balancer._view.listed[0]
    well.is_healthy, well.healthy_since = True, clock.now
    balancer._builder.invalidate()
    balancer.explain()
    assert [each.weight for each in balancer._view.listed] == [1, 10, 10, 10]
    clock.advance(101)
    balancer.explain()
    assert [each.weight for each in balancer._view.listed] == [1, 1, 1, 1]
