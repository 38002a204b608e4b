from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import candidates, counts

from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.policies import RoundRobin
from backendpool_async.balance.policies.smooth import scaled, smooth_sequence
from backendpool_async.balance.policy import Chooser

WEIGHTS = st.lists(st.integers(1, 40), min_size=1, max_size=20)
LARGE_WEIGHTS = st.lists(st.integers(1, 65_535), min_size=1, max_size=100)


def take(choose: Chooser, number: int) -> list[Candidate]:
    return [choose(None) for _ in range(number)]


def test_it_goes_through_the_list_in_order_and_begins_again() -> None:
    crowd = candidates(1, 1, 1)
    choose = RoundRobin().prepare(crowd)
    first = crowd.index(choose(None))
    assert take(choose, 7) == [crowd[(first + 1 + n) % 3] for n in range(7)]


def test_it_begins_anywhere() -> None:
    crowd = candidates(1, 1, 1, 1)
    rng = random.Random(1)
    begun = {RoundRobin(rng=rng).prepare(crowd)(None) for _ in range(100)}
    assert begun == set(crowd)


def test_one_backend_is_all_the_turns() -> None:
    (only,) = candidates(7)
    assert take(RoundRobin().prepare([only]), 3) == [only] * 3


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (2, 2, 2, 2)])
def test_prepared_again_it_goes_on_with_the_one_that_was_next(weights: tuple[int, ...]) -> None:
    crowd = candidates(*weights)
    policy = RoundRobin()
    last = crowd.index(policy.prepare(crowd)(None))
    for _ in range(9):
        choose = policy.prepare(crowd)
        last = (last + 1) % 4
        assert choose(None) is crowd[last]


def test_it_goes_on_behind_a_backend_that_is_gone() -> None:
    crowd = candidates(1, 1, 1, 1, 1)
    policy = RoundRobin()
    first = crowd.index(policy.prepare(crowd)(None))
    gone = {crowd[(first + 1) % 5], crowd[(first + 2) % 5]}
    choose = policy.prepare([each for each in crowd if each not in gone])
    assert take(choose, 3) == [crowd[(first + n) % 5] for n in (3, 4, 0)]


def test_a_list_of_strangers_begins_anywhere() -> None:
    crowd = candidates(*[1] * 8)
    rng = random.Random(2)
    begun = set()
    for _ in range(60):
        policy = RoundRobin(rng=rng)
        policy.prepare(crowd[:4])
        begun.add(policy.prepare(crowd[4:])(None))
    assert begun == set(crowd[4:])


def test_an_address_that_came_back_as_another_candidate_is_the_same() -> None:
    policy = RoundRobin()
    choose = policy.prepare(candidates(1, 1, 1))
    last = choose(None).backend
    crowd = candidates(1, 1, 1)
    following = (crowd.index(next(each for each in crowd if each.backend == last)) + 1) % 3
    assert policy.prepare(crowd)(None) is crowd[following]


def test_weights_that_change_all_the_time_still_give_everybody_his_share() -> None:
    crowd = candidates(9, 5, 1, 1)
    policy = RoundRobin(rng=random.Random(3))
    got: Counter[Candidate] = Counter()
    for _ in range(4000):
        got.update(take(policy.prepare(crowd), 3))
    for each in crowd:
        assert got[each] / got.total() == pytest.approx(each.weight / 16, rel=0.1)


def test_what_was_prepared_before_goes_on_working() -> None:
    crowd = candidates(1, 1, 1)
    policy = RoundRobin()
    before = policy.prepare(crowd)
    policy.prepare(crowd[:2])
    assert set(take(before, 3)) == set(crowd)


def test_a_heavy_backend_has_its_turns_between_those_of_the_light_ones() -> None:
    assert "".join("abc"[index] for index in smooth_sequence([5, 1, 1])) == "abaacaa"


@settings(deadline=None)
@given(WEIGHTS, st.integers(1, 5))
def test_over_a_period_each_comes_as_often_as_its_weight_says(
    weights: list[int], times: int
) -> None:
    crowd = candidates(*weights)
    got = counts(RoundRobin(), crowd, times * sum(weights))
    assert got == {each: times * each.weight for each in crowd}


@settings(deadline=None)
@given(st.one_of(WEIGHTS, LARGE_WEIGHTS))
def test_between_two_turns_lies_at_most_twice_the_ideal_distance(weights: list[int]) -> None:
    sequence = smooth_sequence(weights)
    for index, part in Counter(sequence).items():
        turns = [slot for slot, each in enumerate(sequence * 2) if each == index]
        gaps = [after - before for before, after in pairwise(turns)]
        assert max(gaps, default=0) <= 2 * len(sequence) / part


@settings(deadline=None)
@given(st.one_of(WEIGHTS, LARGE_WEIGHTS))
def test_at_no_moment_has_anyone_much_more_or_less_than_its_share(weights: list[int]) -> None:
    sequence = smooth_sequence(weights)
    parts = Counter(sequence)
    had: Counter[int] = Counter()
    for number, index in enumerate(sequence, 1):
        had[index] += 1
        for each, part in parts.items():
            assert -2 < had[each] - number * part / len(sequence) < 1


@settings(deadline=None)
@given(LARGE_WEIGHTS)
def test_a_sequence_is_bounded_and_its_rounding_too(weights: list[int]) -> None:
    parts = scaled(weights)
    limit = max(16 * len(weights), 1024)
    assert len(parts) == len(weights)
    assert sum(parts) <= limit
    assert min(parts) >= 1
    # The scale is known up to the divisor that was taken out.
    room = limit - len(weights)
    exact = [weight * room / sum(weights) for weight in weights]
    assert any(
        all(
            abs(divisor * part - ideal) <= 0.5 + 1e-9 or divisor * part == 1
            for part, ideal in zip(parts, exact, strict=True)
        )
        for divisor in range(1, limit // sum(parts) + 1)
    ) or [part * sum(weights) for part in parts] == [weight * sum(parts) for weight in weights]


def test_a_long_sequence_is_prepared_where_no_loop_runs() -> None:
    crowd = candidates(*range(1, 201))
    assert set(counts(RoundRobin(), crowd, 3200)) == set(crowd)


async def test_a_long_sequence_is_prepared_on_a_loop_without_a_blocking_call() -> None:
    crowd = candidates(*range(1, 201))
    assert set(counts(RoundRobin(), crowd, 3200)) == set(crowd)
