"""Backends that come, go, and come back while they are checked."""

from __future__ import annotations

import asyncio

import pytest
from checked import DEAF, HANGS, SICK, WELL, A, B, C, Checkup, soon, ward

from backendpool_async import Backend
from backendpool_async.testing import fed_pool

pytestmark = pytest.mark.virtual_time


async def test_a_backend_that_comes_is_checked_at_once() -> None:
    check = Checkup()
    async with ward(check, A) as monitored:
        await asyncio.sleep(3)
        monitored.pool.update([A, B])
        await soon()
        assert check.times[B] == [3]
        assert len(check.times[A]) == 1


async def test_a_backend_that_leaves_is_checked_no_more_and_its_verdict_stays() -> None:
    check = Checkup()
    check.will[A] = SICK
    async with ward(check, A, B) as monitored:
        await soon()
        monitored.pool.update([B])
        await soon()
        assert monitored.verdicts(A, B) == [False, True]
        await asyncio.sleep(100)
        assert len(check.times[A]) == 1
        assert monitored.verdicts(A) == [False]
        assert len(monitored.said) == 1


async def test_the_check_of_a_backend_that_leaves_is_cancelled() -> None:
    check = Checkup()
    check.will[A] = HANGS
    async with ward(check, A, B) as monitored:
        await asyncio.sleep(1)
        monitored.pool.update([B])
        await soon()
        assert check.cancellations == 1
        await asyncio.sleep(5)
        assert monitored.said == []


async def test_a_backend_that_comes_back_is_checked_at_once_and_the_result_decides() -> None:
    check = Checkup()
    async with ward(check, A, fall=3) as monitored:
        await asyncio.sleep(1)
        monitored.pool.update([])
        await asyncio.sleep(1)
        check.will[A] = SICK
        monitored.pool.update([A])
        await soon()
        assert check.times[A] == [0, 2]
        assert monitored.verdicts(A) == [False]
        await asyncio.sleep(200)
        # What was due from before it left does not add to it.
        assert 18 <= len(check.times[A]) <= 24


async def test_a_backend_that_comes_back_is_not_checked_twice_at_once() -> None:
    check = Checkup()
    check.will[A] = DEAF
    async with ward(check, A, timeout=2) as monitored:
        await asyncio.sleep(1)
        for _ in range(5):
            monitored.pool.update([])
            await asyncio.sleep(1)
            monitored.pool.update([A])
            await asyncio.sleep(1)
        assert len(check.times[A]) == 1
        check.will[A] = WELL
        check.released.set()
        await soon()
        assert len(check.times[A]) == 2
        assert monitored.verdicts(A) == [False], "it hung, and one success is not enough"
        await asyncio.sleep(12)
        assert monitored.verdicts(A) == [True]


async def test_the_verdict_stays_when_the_backend_leaves_until_it_is_checked_again() -> None:
    check = Checkup()
    check.will[A] = SICK
    async with ward(check, A) as monitored:
        await soon()
        monitored.pool.update([])
        await asyncio.sleep(30)
        assert monitored.verdicts(A) == [False]
        check.will[A] = WELL
        monitored.pool.update([A])
        await soon()
        assert monitored.verdicts(A) == [True]


async def test_the_check_is_given_the_attributes_that_the_backend_has_by_now() -> None:
    check = Checkup()
    async with ward(check, A) as monitored:
        await soon()
        monitored.pool.update([Backend(A, weight=3, zone="b")])
        await asyncio.sleep(12)
        assert check.seen[-1].weight == 3
        assert check.seen[-1].zone == "b"
        assert len(check.seen) == 2


async def test_a_refresh_without_a_change_checks_nothing() -> None:
    check = Checkup()
    async with ward(check, A, B) as monitored:
        await soon()
        monitored.pool.update([B, A])
        await soon()
        assert len(check.seen) == 2


async def test_a_pool_that_is_closed_and_started_again_is_followed_on() -> None:
    check = Checkup()
    async with ward(check, A) as monitored:
        await monitored.pool.start()
        await monitored.pool.aclose()
        await asyncio.sleep(100)
        assert len(check.times[A]) > 8
        await monitored.pool.start()
        monitored.pool.update([C])
        await soon()
        assert len(check.times[C]) == 1
        await monitored.pool.aclose()


async def test_what_a_source_answers_is_followed() -> None:
    check = Checkup()
    async with fed_pool(A) as (pool, feed), ward(check, pool=pool):
        await soon()
        await feed.answer(A, B)
        await soon()
        assert set(check.times) == {A, B}
        await feed.fail(OSError("no route"))
        await asyncio.sleep(100)
        assert min(len(check.times[A]), len(check.times[B])) > 8


async def test_a_long_list_lets_others_run_in_between() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    check = Checkup()
    many = [f"10.0.{index // 250}.{index % 250 + 1}:80" for index in range(5_000)]
    async with ward(check, *many, concurrency=1):
        counting = asyncio.ensure_future(count_turns())
        await soon()
        counting.cancel()
        assert turns > 10
