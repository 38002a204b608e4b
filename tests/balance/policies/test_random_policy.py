from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import candidates, chi_square, counts, fits, threshold

from backendpool_async.balance.policies import Random
from backendpool_async.balance.policies.alias import alias_table


def test_the_threshold_is_that_of_the_tables() -> None:
    # For one degree of freedom it is the furthest off, and too high.
    assert threshold(1) == pytest.approx(10.83, rel=0.04)
    assert threshold(10) == pytest.approx(29.59, rel=0.01)
    assert threshold(100) == pytest.approx(149.4, rel=0.001)


@pytest.mark.parametrize("number", [2, 3, 10, 500])
def test_every_backend_is_as_likely_as_another(number: int) -> None:
    crowd = candidates(*[4] * number)
    got = counts(Random(rng=random.Random(number)), crowd, 100 * number + 10_000)
    assert set(got) == set(crowd)
    assert fits(got, lambda each: 1)


@pytest.mark.parametrize(
    "weights", [(1, 2), (1, 1, 98), (5, 3, 2, 7, 7), tuple(range(1, 300)), (65_535, 1000, 1000)]
)
def test_a_backend_is_as_likely_as_its_weight_says(weights: tuple[int, ...]) -> None:
    crowd = candidates(*weights)
    got = counts(Random(rng=random.Random(5)), crowd, 200_000)
    assert set(got) == set(crowd)
    assert fits(got, lambda each: each.weight)
    assert not fits(got, lambda each: 1)


def test_the_test_of_fit_would_notice_a_share_that_is_off_by_a_tenth() -> None:
    crowd = candidates(10, 10, 10)
    got = counts(Random(rng=random.Random(6)), crowd, 100_000)
    wrong = dict(zip(crowd, (36_666.0, 31_667.0, 31_667.0), strict=True))
    assert chi_square(got, wrong) > threshold(2)


def test_without_a_generator_it_is_random_too() -> None:
    crowd = candidates(1, 1)
    assert set(counts(Random(), crowd, 200)) == set(crowd)


def test_one_backend_is_every_choice() -> None:
    (only,) = candidates(3)
    assert counts(Random(), [only], 5) == {only: 5}


@settings(deadline=None)
@given(st.lists(st.integers(1, 65_535), min_size=1, max_size=200))
def test_the_shares_of_an_alias_table_are_those_of_the_weights(weights: list[int]) -> None:
    ends, others = alias_table(weights)
    shares = [0.0] * len(weights)
    for index, (end, other) in enumerate(zip(ends, others, strict=True)):
        shares[index] += end - index
        shares[other] += index + 1 - end
    for weight, share in zip(weights, shares, strict=True):
        assert share == pytest.approx(weight * len(weights) / sum(weights), abs=1e-9)


def test_a_long_list_is_prepared_in_pieces() -> None:
    weights = [1 + n % 7 for n in range(5000)]
    ends, others = alias_table(weights)
    assert len(ends) == len(others) == 5000
