from __future__ import annotations

import logging

import pytest

from backendpool_async import BackendPool, BackendPoolError, ShrunkAnswer, SourceError
from backendpool_async.testing import ScriptedSource

TEN = [f"10.0.0.{n}:80" for n in range(10)]
SIX, FIVE, FOUR = TEN[:6], TEN[:5], TEN[:4]
OTHERS = [f"10.0.1.{n}:80" for n in range(10)]


def pool_of(*steps: object, empty_after: int | None = 3) -> BackendPool:
    return BackendPool(
        ScriptedSource(TEN, *steps), max_shrink=0.5, empty_after=empty_after, poll_interval=30
    )


async def refused(pool: BackendPool) -> BackendPoolError:
    with pytest.raises(BackendPoolError) as caught:
        await pool.refresh()
    return caught.value


async def test_an_answer_that_drops_half_is_believed_at_once() -> None:
    pool = pool_of(FIVE)
    await pool.refresh()
    assert (await pool.refresh()).backends == tuple(FIVE)


@pytest.mark.parametrize("answer", [FOUR, OTHERS, [*FOUR, *OTHERS]])
async def test_an_answer_that_drops_more_is_believed_the_third_time(answer: list[str]) -> None:
    pool = pool_of(answer, answer, answer)
    await pool.refresh()
    for time in (1, 2):
        error = await refused(pool)
        assert isinstance(error, ShrunkAnswer)
        assert f"of 10 would go (answer {time} of 3 that says so); keeping the 10" in str(error)
        assert pool.snapshot.error is not None
        assert pool.backends() == tuple(TEN)
    assert (await pool.refresh()).backends == tuple(answer)
    assert pool.snapshot.error is None


async def test_an_answer_in_between_that_drops_little_begins_the_count_anew() -> None:
    pool = pool_of(FOUR, FOUR, TEN, FOUR, FOUR, FOUR)
    await pool.refresh()
    for _ in range(2):
        for _ in range(2):
            await refused(pool)
        snapshot = await pool.refresh()
        if snapshot.backends != tuple(TEN):
            break
    assert pool.backends() == tuple(FOUR)


async def test_failures_in_between_neither_count_nor_reset() -> None:
    pool = pool_of(FOUR, OSError("down"), FOUR, OSError("down"), FOUR)
    await pool.refresh()
    kinds = [type(await refused(pool)).__name__ for _ in range(4)]
    assert kinds == ["ShrunkAnswer", "SourceError"] * 2
    assert (await pool.refresh()).backends == tuple(FOUR)


async def test_an_empty_answer_in_between_begins_the_count_anew() -> None:
    pool = pool_of(FOUR, [], FOUR, [], FOUR, FOUR, FOUR)
    await pool.refresh()
    kinds = [type(await refused(pool)).__name__ for _ in range(6)]
    assert kinds == ["ShrunkAnswer", "EmptyAnswer"] * 2 + ["ShrunkAnswer"] * 2
    assert (await pool.refresh()).backends == tuple(FOUR)


async def test_answers_that_shrink_it_confirm_each_other_whatever_they_say() -> None:
    pool = pool_of(FOUR, OTHERS, TEN[:1])
    await pool.refresh()
    for _ in range(2):
        assert isinstance(await refused(pool), ShrunkAnswer)
    assert (await pool.refresh()).backends == tuple(TEN[:1])


async def test_where_negative_answers_are_believed_at_once_shrunk_ones_are_the_second_time() -> (
    None
):
    pool = pool_of(FOUR, FOUR, [], empty_after=1)
    await pool.refresh()
    assert "(answer 1 of 2 that says so)" in str(await refused(pool))
    assert (await pool.refresh()).backends == tuple(FOUR)
    assert (await pool.refresh()).backends == ()


async def test_a_shrunk_answer_in_between_says_that_there_are_some() -> None:
    pool = pool_of([], [], FOUR, [], [])
    await pool.refresh()
    for _ in range(5):
        assert isinstance(await refused(pool), SourceError)
    assert pool.backends() == tuple(TEN)


async def test_a_pushed_list_begins_the_count_anew_and_is_never_doubted() -> None:
    pool = pool_of(FOUR, FOUR, FOUR)
    await pool.refresh()
    await refused(pool)
    pool.update(TEN[:1])
    assert pool.backends() == tuple(TEN[:1])
    assert (await pool.refresh()).backends == tuple(FOUR)


async def test_where_negative_answers_are_never_believed_shrunk_ones_are_the_third_time() -> None:
    pool = pool_of(FOUR, FOUR, FOUR, empty_after=None)
    await pool.refresh()
    for _ in range(2):
        await refused(pool)
    assert (await pool.refresh()).backends == tuple(FOUR)


async def test_a_long_list_is_compared_in_steps_and_correctly() -> None:
    many = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80" for n in range(5_000)]
    pool = BackendPool(ScriptedSource(many, many[::2], many[:2_400]), max_shrink=0.5)
    await pool.refresh()
    assert len((await pool.refresh()).backends) == 2_500
    assert "1300 of 2500 would go" in str(await refused(pool))


async def test_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "backendpool_async")
    pool = pool_of(FOUR, FOUR, FOUR)
    await pool.refresh()
    for _ in range(2):
        await refused(pool)
    await pool.refresh()
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "INFO"]


def test_it_can_stand_in_a_url_and_a_wrong_one_is_named() -> None:
    assert BackendPool.from_url("env:X?max_shrink=0.5")._max_shrink == 0.5
    for wrong in (0, 1.5, -1):
        with pytest.raises(ValueError, match="max_shrink"):
            BackendPool.env_prefix("X", max_shrink=wrong)
