from __future__ import annotations

import random
from collections import Counter, deque

import pytest
from policy_cases import busy, candidates, counts, fits

from backendpool_async.balance.candidate import NO_LEASES, Candidate
from backendpool_async.balance.policies import LeastRequest
from backendpool_async.balance.policies.pairs import uniform_pairs, weighted_pairs


class Always(random.Random):
    """The same number again and again."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def random(self) -> float:
        return self.number


@pytest.mark.parametrize("number", [2, 3, 50])
def test_idle_backends_are_equally_likely(number: int) -> None:
    crowd = candidates(*[3] * number)
    got = counts(LeastRequest(rng=random.Random(number)), crowd, 50_000)
    assert set(got) == set(crowd)
    assert fits(got, lambda each: 1)


@pytest.mark.parametrize("weights", [(1, 2), (1, 5, 10), tuple(range(1, 60))])
def test_idle_backends_are_as_likely_as_their_weights_say(weights: tuple[int, ...]) -> None:
    crowd = candidates(*weights)
    got = counts(LeastRequest(rng=random.Random(1)), crowd, 100_000)
    assert set(got) == set(crowd)
    assert fits(got, lambda each: each.weight)


@pytest.mark.parametrize("number", [2, 3, 7])
def test_every_pair_is_as_likely_as_another_and_of_two(number: int) -> None:
    crowd = candidates(*[1] * number)
    draw = uniform_pairs(crowd, random.Random(2).random)
    got = Counter(draw() for _ in range(40_000))
    assert len(got) == number * (number - 1)
    expected = 40_000 / len(got)
    assert all(abs(times - expected) < 5 * expected**0.5 for times in got.values())


def test_a_weighted_pair_is_drawn_without_replacement() -> None:
    a, b, c = crowd = candidates(1, 2, 5)
    draw = weighted_pairs(crowd, random.Random(3).random)
    got = Counter(draw() for _ in range(80_000))
    assert len(got) == 6
    for one, other in [(a, b), (a, c), (b, a), (b, c), (c, a), (c, b)]:
        likely = one.weight / 8 * other.weight / (8 - one.weight)
        assert got[one, other] / 80_000 == pytest.approx(likely, abs=0.006)


@pytest.mark.parametrize("number", [0.0, 0.1, 0.5, 0.75, 0.875, 1 - 2**-53])
@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1), (1, 2), (65_535, 1), (3, 1, 7)])
def test_two_are_different_at_the_edges_too(number: float, weights: tuple[int, ...]) -> None:
    crowd = candidates(*weights)
    for pairs in (uniform_pairs, weighted_pairs):
        one, other = pairs(crowd, lambda: number)()
        assert one is not other


def test_the_busier_of_two_is_never_chosen() -> None:
    idle, working = crowd = candidates(1, 1)
    busy(working, 1)
    assert counts(LeastRequest(), crowd, 500) == {idle: 500}


def test_the_busiest_of_many_is_never_chosen() -> None:
    crowd = candidates(*[1] * 10)
    for number, each in enumerate(crowd):
        busy(each, number)
    got = counts(LeastRequest(rng=random.Random(4)), crowd, 5000)
    assert set(got) == set(crowd[:-1])
    assert [each for each, _ in got.most_common()] == crowd[:-1]


def test_how_busy_one_is_counts_by_weight() -> None:
    light, heavy = crowd = candidates(1, 4)
    busy(light, 1)
    busy(heavy, 3)
    assert counts(LeastRequest(), crowd, 300) == {heavy: 300}
    busy(heavy, 5)
    assert counts(LeastRequest(), crowd, 300) == {light: 300}
    busy(heavy, 4)
    assert set(counts(LeastRequest(), crowd, 300)) == set(crowd)


def test_whoever_draws_a_busy_one_draws_among_the_others_by_weight() -> None:
    crowd = candidates(5, 1, 2)
    busy(crowd[0], 100)
    got = counts(LeastRequest(rng=random.Random(6)), crowd, 60_000)
    assert set(got) == set(crowd[1:])
    assert fits(got, lambda each: each.weight)


@pytest.mark.parametrize("number", [0.0, 0.1, 0.5, 0.75, 0.875, 1 - 2**-53])
@pytest.mark.parametrize("weights", [(1, 1), (1, 2), (65_535, 1), (3, 1, 7)])
def test_a_busy_one_is_never_compared_with_itself(number: float, weights: tuple[int, ...]) -> None:
    crowd = candidates(*weights)
    for each in crowd:
        busy(each, 1_000_000)
        assert LeastRequest(rng=Always(number)).prepare(crowd)(None) is not each
        each._leases[:] = [None] * NO_LEASES


def test_one_that_hangs_gets_few_requests_and_the_others_share_the_rest() -> None:
    crowd = candidates(1, 1, 1, 1)
    choose = LeastRequest(rng=random.Random(5)).prepare(crowd)
    running: deque[Candidate] = deque()
    got: Counter[Candidate] = Counter()
    for _ in range(2000):
        chosen = choose(None)
        got[chosen] += 1
        chosen._leases.append(None)
        if chosen is not crowd[0]:
            running.append(chosen)
        if len(running) > 12:
            running.popleft()._leases.pop()
    assert got[crowd[0]] < 20
    assert min(got[each] for each in crowd[1:]) > 600


def test_one_backend_is_every_choice() -> None:
    (only,) = candidates(2)
    busy(only, 100)
    assert counts(LeastRequest(), [only], 5) == {only: 5}
