from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from heapq import heappop, heappush

import pytest
from policy_cases import busy, candidates, counts, fits

from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.outcomes import ObservingPolicy
from backendpool_async.balance.policies import PeakEwma
from backendpool_async.balance.policies.peak_ewma import PENALTY


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def policy(clock: Clock) -> PeakEwma:
    return PeakEwma(10.0, rng=random.Random(1), clock=clock)


def measured(policy: PeakEwma, clock: Clock, candidate: Candidate, *seconds: float) -> float:
    for each in seconds:
        policy.observe(candidate, each, clock.now)
    return policy.load(candidate, clock.now)


def test_a_balancer_knows_that_it_observes(policy: PeakEwma) -> None:
    assert isinstance(policy, ObservingPolicy)


def test_a_spike_counts_at_once_and_in_full(policy: PeakEwma, clock: Clock) -> None:
    (one,) = candidates(1)
    assert measured(policy, clock, one, 0.01) == 0.01
    clock.now += 1.0
    assert measured(policy, clock, one, 3.0) == 3.0


def test_a_spike_is_forgotten_with_the_time_constant(policy: PeakEwma, clock: Clock) -> None:
    (one,) = candidates(1)
    measured(policy, clock, one, 3.0)
    clock.now += 10.0
    assert policy.load(one, clock.now) == pytest.approx(3.0 / math.e)
    assert measured(policy, clock, one, 0.1) == pytest.approx(3 / math.e + 0.1 * (1 - 1 / math.e))
    clock.now += 10.0 * math.log(2)
    assert policy.load(one, clock.now) == pytest.approx((2.9 / math.e + 0.1) / 2)


def test_many_fast_answers_at_once_do_not_hide_a_slow_one(policy: PeakEwma, clock: Clock) -> None:
    (one,) = candidates(1)
    assert measured(policy, clock, one, 3.0, *[0.01] * 1000) == pytest.approx(3.0)


def test_under_steady_latency_it_is_the_latency(policy: PeakEwma, clock: Clock) -> None:
    (one,) = candidates(1)
    for _ in range(100):
        clock.now += 0.5
        assert measured(policy, clock, one, 0.2) == pytest.approx(0.2)


def test_reading_it_more_often_changes_nothing(policy: PeakEwma, clock: Clock) -> None:
    one, other = candidates(1, 1)
    for each in (one, other):
        measured(policy, clock, each, 2.0)
    for _ in range(50):
        clock.now += 0.1
        policy.load(one, clock.now)
    assert measured(policy, clock, one, 0.5) == measured(policy, clock, other, 0.5)


def test_requests_in_flight_multiply_it_and_weight_divides_them(
    policy: PeakEwma, clock: Clock
) -> None:
    (one,) = candidates(2)
    busy(one, 5)
    assert measured(policy, clock, one, 0.1) == pytest.approx(0.6)
    assert policy.load(one, clock.now, 2.0) == pytest.approx(0.1 * 3.5)


def test_one_that_was_never_measured_is_tried_by_one_request_at_a_time(
    policy: PeakEwma, clock: Clock
) -> None:
    known, fresh = crowd = candidates(1, 1)
    measured(policy, clock, known, 5.0)
    busy(known, 50)
    assert counts(policy, crowd, 100) == {fresh: 100}
    busy(fresh, 1)
    assert policy.load(fresh, clock.now) == PENALTY + 1
    assert counts(policy, crowd, 100) == {known: 100}


def test_one_of_which_nothing_is_remembered_counts_as_never_measured(
    policy: PeakEwma, clock: Clock
) -> None:
    (one,) = candidates(1)
    measured(policy, clock, one, 0.5)
    clock.now += 10_000.0
    assert policy.load(one, clock.now) == 0.0
    busy(one, 3)
    assert policy.load(one, clock.now) == PENALTY + 3


def test_a_request_too_short_for_the_clock_is_no_measurement(
    policy: PeakEwma, clock: Clock
) -> None:
    (one,) = candidates(1)
    busy(one, 1)
    assert measured(policy, clock, one, 0.0) == PENALTY + 1


def test_a_measurement_from_a_later_moment_counts_in_full(policy: PeakEwma, clock: Clock) -> None:
    (one,) = candidates(1)
    measured(policy, clock, one, 0.5)
    assert policy.load(one, clock.now - 1e6) == 0.5
    policy.observe(one, 0.1, clock.now - 1e6)
    assert one.peak == (0.5, clock.now)


def test_a_request_that_is_told_of_late_makes_nothing_older(policy: PeakEwma, clock: Clock) -> None:
    (one,) = candidates(1)
    measured(policy, clock, one, 3.0)
    policy.observe(one, 0.01, clock.now - 5.0)
    assert policy.load(one, clock.now) == 3.0


def test_the_slower_of_two_is_never_chosen_until_it_is_forgotten(
    policy: PeakEwma, clock: Clock
) -> None:
    fast, slow = crowd = candidates(1, 1)
    measured(policy, clock, slow, 1.0)
    measured(policy, clock, fast, 0.1)
    assert counts(policy, crowd, 200) == {fast: 200}
    clock.now += 10.0 * math.log(10) + 0.1
    measured(policy, clock, fast, 0.1)
    assert counts(policy, crowd, 200) == {slow: 200}


def test_equals_are_equally_likely(policy: PeakEwma, clock: Clock) -> None:
    crowd = candidates(*[1] * 5)
    for each in crowd:
        measured(policy, clock, each, 0.1)
    assert fits(counts(policy, crowd, 20_000), lambda each: 1)


def leased(
    policy: PeakEwma, clock: Clock, weights: Sequence[int], together: int, pause: float
) -> list[float]:
    """Return how many of the leases each got, beside the lightest, `together` at any time."""
    crowd = candidates(*weights)
    noise, taken = random.Random(2), Counter[Candidate]()
    choose = policy.prepare(crowd)
    ends: list[tuple[float, int, Candidate, float]] = []
    for number in range(together + 8_000):
        if number >= together:
            end, _, ended, began = heappop(ends)
            clock.now = end
            ended._leases.pop()
            policy.observe(ended, end - began, end)
            clock.now += pause
        one = choose(None)
        one._leases.append(None)
        taken[one] += 1
        took = 0.01 * noise.uniform(0.97, 1.03)
        heappush(ends, (clock.now + took, number, one, clock.now))
    least = min(taken.values())
    return [taken[each] / least for each in crowd]


@pytest.mark.parametrize("weights", [(3, 1), (10, 1), (1, 1, 3, 3)])
@pytest.mark.parametrize(("together", "pause"), [(1, 0.0), (1, 0.02), (40, 0.0)])
def test_equally_fast_backends_are_chosen_by_weight(
    policy: PeakEwma, clock: Clock, weights: Sequence[int], together: int, pause: float
) -> None:
    # In slow start all weights are multiplied by ten: that changes nothing.
    for scale in (1, 10):
        scaled = [weight * scale for weight in weights]
        shares = leased(policy, clock, scaled, together, pause)
        assert shares == pytest.approx(list(weights), rel=0.15)


@pytest.mark.parametrize(
    ("weight", "constant"), [(0.01, 20), (0.5, 20), (0.8, 12.5), (1.25, 8), (2, 5), (50, 5)]
)
def test_the_time_constant_is_at_most_doubled_or_halved_by_weight(
    policy: PeakEwma, clock: Clock, weight: float, constant: float
) -> None:
    (one,) = candidates(1)
    measured(policy, clock, one, 3.0)
    clock.now += constant
    assert policy.load(one, clock.now, weight) == pytest.approx(3.0 / math.e)


@pytest.mark.parametrize("weights", [(20, *[1] * 20), (100, *[1] * 100), (4, *[1] * 8)])
def test_a_heavy_backend_that_becomes_slow_gets_next_to_nothing(
    policy: PeakEwma, clock: Clock, weights: Sequence[int]
) -> None:
    crowd = candidates(*weights)
    choose, taken = policy.prepare(crowd), Counter[Candidate]()
    ends: list[tuple[float, int, Candidate, float]] = []
    for number in range(12_000):
        began = clock.now
        while ends and ends[0][0] <= began:
            end, _, ended, since = heappop(ends)
            ended._leases.pop()
            policy.observe(ended, end - since, end)
        one = choose(None)
        one._leases.append(None)
        # From the beginning of its slowness on, and five seconds later.
        is_slow = one is crowd[0] and number >= 2_000
        taken[one] += number >= 3_000
        heappush(ends, (began + (2.0 if is_slow else 0.01), number, one, began))
        clock.now = began + 0.005
    assert taken[crowd[0]] / taken.total() < 0.01


@pytest.mark.parametrize("heavy", [10, 100, 1_000])
def test_a_light_backend_is_tried_again_soon_after_a_slow_answer(
    policy: PeakEwma, clock: Clock, heavy: int
) -> None:
    light, *others = crowd = candidates(1, heavy, heavy, heavy)
    measured(policy, clock, light, 2.0)
    # Twice the time constant times the logarithm of 2 s over 10 ms.
    clock.now += 110.0
    for each in others:
        measured(policy, clock, each, 0.01)
    assert counts(policy, crowd, 40 * heavy)[light] > 0


def test_a_heavy_backend_that_is_slower_gets_less(policy: PeakEwma, clock: Clock) -> None:
    heavy, light = crowd = candidates(10, 1)
    measured(policy, clock, heavy, 0.1)
    measured(policy, clock, light, 0.08)
    assert counts(policy, crowd, 100) == {light: 100}


def test_weights_that_are_equal_count_like_none(policy: PeakEwma, clock: Clock) -> None:
    one, other = crowd = candidates(10, 10)
    measured(policy, clock, one, 0.1)
    measured(policy, clock, other, 0.15)
    busy(one, 1)
    assert counts(policy, crowd, 100) == {other: 100}


def test_one_backend_is_every_choice(policy: PeakEwma) -> None:
    (only,) = candidates(2)
    assert counts(policy, [only], 5) == {only: 5}


@pytest.mark.parametrize("decay", [0, -1.0, math.inf, math.nan])
def test_a_time_constant_is_above_zero(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        PeakEwma(decay)
