"""When which backend is checked."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from checked import DEAF, HANGS, SICK, A, B, Checkup, soon, ward

pytestmark = pytest.mark.virtual_time


def many(number: int) -> list[str]:
    return [f"10.0.{index // 250}.{index % 250 + 1}:80" for index in range(number)]


async def test_every_backend_is_checked_at_once_and_then_every_interval() -> None:
    check = Checkup()
    async with ward(check, A, B, interval=10):
        await asyncio.sleep(1000)
    for times in (check.times[A], check.times[B]):
        assert times[0] == 0
        first, *gaps = [later - earlier for earlier, later in pairwise(times)]
        assert 5 <= first <= 11
        assert all(8.999 <= gap <= 11.001 for gap in gaps)
        assert len({round(gap, 1) for gap in gaps}) > 5


async def test_backends_that_are_new_together_part_after_their_first_check() -> None:
    check = Checkup()
    async with ward(check, *many(600), interval=10, concurrency=1000):
        await asyncio.sleep(0.01)
        assert check.all_times == [0] * 600
        await asyncio.sleep(11)
    second = [times[1] for times in check.times.values()]
    assert min(second) < 6.5
    assert max(second) > 9.5
    # On a grid: a wake-up checks many.
    assert len(set(second)) < 70


async def test_a_slow_check_does_not_delay_the_next_one() -> None:
    check = Checkup()
    check.will[A] = 1.9
    async with ward(check, A, interval=10):
        await asyncio.sleep(1000)
    assert 97 <= len(check.times[A]) <= 104


async def test_a_check_that_takes_longer_than_the_interval_is_followed_by_the_next() -> None:
    check = Checkup()
    check.will[A] = 3.0
    async with ward(check, A, interval=1, timeout=5) as monitored:
        await asyncio.sleep(30.5)
        assert monitored.verdicts(A) == [True]
    assert len(check.times[A]) == 11


async def test_never_more_than_so_many_are_checked_at_once() -> None:
    check = Checkup()
    check.will = dict.fromkeys(many(50), 0.5)
    async with ward(check, *many(50), interval=10, concurrency=7):
        await asyncio.sleep(100)
    assert check.most_at_once == 7


async def test_nobody_starves_when_there_are_more_than_can_be_checked_in_time() -> None:
    check = Checkup()
    check.will = dict.fromkeys(many(50), 1.0)
    async with ward(check, *many(50), interval=10, concurrency=2):
        await asyncio.sleep(1000)
    counts = [len(times) for times in check.times.values()]
    assert len(counts) == 50
    assert sum(counts) >= 1990
    assert max(counts) - min(counts) <= 2


async def test_checks_that_swallow_cancellation_do_not_keep_the_others_waiting() -> None:
    check = Checkup()
    deaf, well = many(6)[:3], many(6)[3:]
    check.will = dict.fromkeys(deaf, DEAF)
    async with ward(check, *deaf, *well, interval=10, timeout=2, concurrency=3):
        await asyncio.sleep(100)
        assert [len(check.times[each]) for each in deaf] == [1, 1, 1]
        assert all(len(check.times[each]) >= 9 for each in well)
        check.released.set()
        await soon()
        assert [len(check.times[each]) for each in deaf] == [2, 2, 2]


async def test_a_check_that_hangs_is_cancelled_and_tried_again() -> None:
    check = Checkup()
    check.will[A] = HANGS
    async with ward(check, A, interval=10):
        await asyncio.sleep(100)
        assert sum(check.running.values()) <= 1
    assert check.cancellations >= 9


async def test_without_backends_nothing_wakes_the_loop() -> None:
    check = Checkup()
    async with ward(check):
        await asyncio.sleep(100)
    assert check.all_times == []


async def test_ten_thousand_backends_are_no_ten_thousand_tasks() -> None:
    check = Checkup()
    check.will = dict.fromkeys(many(10_000), 0.01)
    async with ward(check, *many(10_000), interval=30):
        most = 0
        for _ in range(400):
            await asyncio.sleep(0.1)
            most = max(most, len(asyncio.all_tasks()))
    assert most <= 66
    assert len(check.times) == 10_000
    assert len(check.all_times) > 19_000


async def test_failing_backends_are_checked_as_often_as_others() -> None:
    check = Checkup()
    check.will[A] = SICK
    async with ward(check, A, interval=10):
        await asyncio.sleep(1000)
    assert 97 <= len(check.times[A]) <= 104
