from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backendpool_async.errors import EmptyAnswer, InvalidBackend, PoolClosed, SourceError
from backendpool_async.testing import fed_pool


async def test_an_answer_is_in_the_pool_when_the_call_returns() -> None:
    async with fed_pool("a:1") as (pool, feed):
        assert pool.backends() == ("a:1",)
        snapshot = await feed.answer("a:1", "b:2")
        assert snapshot is pool.snapshot
        assert pool.backends() == ("a:1", "b:2")


async def test_one_feeding_is_one_fetch() -> None:
    async with fed_pool("a:1") as (_, feed):
        for _ in range(3):
            await feed.answer("b:2")
        await feed.empty()
        await feed.fail(OSError)
        assert feed.calls == 6


async def test_a_failure_is_in_the_snapshot_and_the_list_is_kept() -> None:
    async with fed_pool("a:1") as (pool, feed):
        snapshot = await feed.fail(OSError("down"))
        assert isinstance(snapshot.error, SourceError)
        assert isinstance(snapshot.error.__cause__, OSError)
        assert pool.backends() == ("a:1",)


async def test_each_empty_is_one_negative_answer() -> None:
    async with fed_pool("a:1", empty_after=4) as (_, feed):
        for _ in range(3):
            snapshot = await feed.empty()
            assert isinstance(snapshot.error, EmptyAnswer)
            assert snapshot.backends == ("a:1",)
        snapshot = await feed.empty()
        assert (snapshot.error, snapshot.backends) == (None, ())


async def test_a_bad_entry_is_in_the_snapshot_too() -> None:
    async with fed_pool("a:1") as (_, feed):
        snapshot = await feed.answer("nonsense")
        assert isinstance(snapshot.error, SourceError)
        assert isinstance(snapshot.error.__cause__, InvalidBackend)
        assert (await feed.answer("b:2")).error is None


async def test_without_initial_backends_it_begins_empty_and_runs() -> None:
    async with fed_pool() as (pool, feed):
        assert isinstance(pool.snapshot.error, EmptyAnswer)
        await feed.answer("a:1")
        assert pool.backends() == ("a:1",)


@pytest.mark.parametrize("turns", range(12))
async def test_a_refresh_that_was_under_way_does_not_pass_for_the_answer(turns: int) -> None:
    async with fed_pool("a:1") as (pool, feed):
        earlier = asyncio.create_task(pool.refresh())
        for _ in range(turns):
            await asyncio.sleep(0)
        assert (await feed.answer("b:2")).backends == ("b:2",)
        await earlier


@pytest.mark.virtual_time
async def test_what_was_fed_last_is_what_the_polls_find() -> None:
    async with fed_pool("a:1", poll_interval=10) as (pool, feed):
        await feed.answer("b:2")
        await asyncio.sleep(100)
        assert feed.calls >= 9
        assert pool.backends() == ("b:2",)


@pytest.mark.parametrize("keyword", ["poll_interval", "timeout", "empty_after", "max_backends"])
async def test_the_keywords_are_those_of_the_pool(keyword: str) -> None:
    wrong: dict[str, Any] = {keyword: -1}
    with pytest.raises(ValueError, match=keyword):
        async with fed_pool("a:1", **wrong):
            pass


async def test_the_pool_is_closed_at_the_end() -> None:
    async with fed_pool("a:1") as (pool, feed):
        waiting = asyncio.create_task(pool.wait_ready(min_backends=2))
        await asyncio.sleep(0)
    with pytest.raises(PoolClosed):
        await waiting
    assert feed.closings == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_pool_is_closed_when_the_test_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        async with fed_pool("a:1") as (_, feed):
            raise ZeroDivisionError
    assert feed.closings == 1
