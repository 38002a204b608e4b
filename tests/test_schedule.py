from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendpool_async.schedule import (
    GRID,
    HintLimit,
    Window,
    expiry,
    first_poll,
    moment,
    next_poll,
    retry,
)

INTERVALS = st.floats(0.001, 1e6)
near = pytest.approx


def test_a_poll_follows_another_after_the_interval_ten_percent_either_way() -> None:
    assert next_poll(30) == near((27, 33))


def test_the_first_poll_may_come_early_and_is_never_late() -> None:
    assert first_poll(30) == near((15, 33))


def test_an_answer_is_asked_for_again_after_its_ttl_and_never_before() -> None:
    assert expiry(10, 30) == near((10, 11))
    assert expiry(0, 30) == near((0.1, 0.11))


def test_a_ttl_never_puts_off_a_poll_beyond_the_interval() -> None:
    assert expiry(29, 30) == near((29, 30))
    assert expiry(30, 30) == near((27, 30))
    assert expiry(4_294_967_295, 30) == near((27, 30))


def test_retries_begin_at_a_second_and_back_off_to_the_interval() -> None:
    assert retry(1, 30) == near((0.8, 1.2))
    assert retry(2, 30) == near((1.28, 1.92))
    assert retry(3, 30) == near((2.048, 3.072))
    assert retry(50, 30) == near((24, 30))


def test_a_short_interval_is_also_the_first_retry() -> None:
    assert retry(1, 0.5) == near((0.4, 0.5))
    assert retry(9, 0.5) == near((0.4, 0.5))


@given(st.integers(1, 10**9), INTERVALS)
def test_a_retry_is_never_later_than_a_poll_nor_sooner_than_the_one_before(
    failures: int, interval: float
) -> None:
    window = retry(failures, interval)
    assert 0 < window.earliest <= window.latest <= interval
    assert window.earliest <= retry(failures + 1, interval).earliest


LENGTHS = st.just(0.0) | st.floats(1e-6, 1e4)


@given(st.floats(0, 1e9), st.floats(0, 1e4), LENGTHS)
def test_a_moment_lies_in_its_window(now: float, earliest: float, length: float) -> None:
    window = Window(earliest, earliest + length)
    at = moment(now, window)
    slack = math.ulp(now + window.latest) * 4
    assert now + window.earliest - slack <= at <= now + window.latest + slack


@given(st.floats(0, 1e6), st.floats(0, 1e4), st.floats(5 * GRID, 1e3))
def test_a_wide_window_gives_a_moment_on_the_grid(
    now: float, earliest: float, length: float
) -> None:
    at = moment(now, Window(earliest, earliest + length))
    assert at / GRID == near(round(at / GRID), abs=1e-6)


def test_timers_of_many_pools_expire_together() -> None:
    moments = {moment(100.0, next_poll(30)) for _ in range(1000)}
    assert len(moments) <= 6 / GRID + 1


def test_moments_in_a_narrow_window_are_few_and_not_all_the_same() -> None:
    moments = {round(moment(100.0, Window(0.08, 0.16)), 6) for _ in range(500)}
    assert 3 <= len(moments) <= 6


def test_a_window_without_length_gives_its_one_moment() -> None:
    assert moment(100.0, Window(0.25, 0.25)) == 100.25
    assert moment(100.0, Window(0, 0)) == 100.0


def test_a_window_of_next_to_no_length_gives_a_moment_too() -> None:
    assert moment(1e5, Window(1e-308, 1.1e-308)) == near(1e5)


def test_ten_hints_are_followed_at_once_and_then_ten_a_second() -> None:
    limit = HintLimit()
    assert [limit.delay(5.0) for _ in range(10)] == near([0.0] * 10)
    assert [limit.delay(5.0) for _ in range(5)] == near([0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_quiet_second_earns_ten_hints_again() -> None:
    limit = HintLimit()
    for _ in range(10):
        limit.delay(0.0)
    assert limit.delay(0.55) == 0.0
    assert [limit.delay(100.0) for _ in range(11)] == near([0.0] * 10 + [0.1])


def test_a_moment_of_quiet_earns_no_more_than_ten_hints() -> None:
    limit = HintLimit()
    limit.delay(0.0)
    delays = [limit.delay(1000.0) for _ in range(20)]
    assert delays == near([0.0] * 10 + [n / 10 for n in range(1, 11)])
