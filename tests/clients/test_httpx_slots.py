"""A limited number of slots: handed on in order, never lost."""

from __future__ import annotations

import asyncio

import pytest
from servers import until

from backendpool_async.httpx.slots import Slots


async def test_there_are_as_many_as_there_are() -> None:
    slots = Slots(2)
    assert [slots.take_now() for _ in range(3)] == [True, True, False]
    slots.give()
    assert slots.take_now()


async def test_without_a_limit_there_are_always_more() -> None:
    slots = Slots(None)
    assert all(slots.take_now() for _ in range(1000))
    slots.give()
    assert slots.waiting == 0


async def test_whoever_waits_longest_gets_the_next_one() -> None:
    slots = Slots(1)
    assert slots.take_now()
    order: list[int] = []

    async def wait(number: int) -> None:
        await slots.take(None)
        order.append(number)
        slots.give()

    tasks = [asyncio.create_task(wait(number)) for number in range(5)]
    await until(lambda: slots.waiting == 5)
    slots.give()
    # Nobody who comes now is faster.
    assert not slots.take_now()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert slots.take_now()


async def test_a_wait_ends_at_its_timeout() -> None:
    slots = Slots(1)
    assert slots.take_now()
    with pytest.raises(TimeoutError):
        await slots.take(0.01)
    assert slots.waiting == 0
    slots.give()
    assert slots.take_now()


async def test_a_slot_that_comes_with_the_cancellation_is_handed_on() -> None:
    slots = Slots(1)
    assert slots.take_now()
    first, second = (asyncio.create_task(slots.take(None)) for _ in range(2))
    await until(lambda: slots.waiting == 2)
    slots.give()
    first.cancel()
    await second
    assert first.cancelled()
    assert not slots.take_now()


async def test_a_waiter_that_was_cancelled_but_has_not_left_yet_is_passed_over() -> None:
    slots = Slots(1)
    assert slots.take_now()
    first, second = (asyncio.create_task(slots.take(None)) for _ in range(2))
    await until(lambda: slots.waiting == 2)
    first.cancel()
    slots.give()
    await second
    assert first.cancelled()


async def test_all_who_wait_can_be_refused() -> None:
    slots = Slots(1)
    assert slots.take_now()
    tasks = [asyncio.create_task(slots.take(None)) for _ in range(3)]
    await until(lambda: slots.waiting == 3)
    tasks[0].cancel()
    slots.refuse("closed")
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes] == [asyncio.CancelledError, RuntimeError, RuntimeError]
    slots.give()
    assert slots.take_now()
    assert not slots.take_now()
