"""A limited number of slots: handed on in order, never lost."""

from __future__ import annotations

import asyncio

import pytest
from servers import until

from backendpool_async.httpx.slots import Slots

KIND = "kind"


def nothing() -> None:
    """There is nothing to be had without a slot."""


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
        await slots.take(None, KIND, nothing)
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
        await slots.take(0.01, KIND, nothing)
    assert slots.waiting == 0
    slots.give()
    assert slots.take_now()


async def test_a_slot_that_comes_with_the_cancellation_is_handed_on() -> None:
    slots = Slots(1)
    assert slots.take_now()
    first, second = (asyncio.create_task(slots.take(None, KIND, nothing)) for _ in range(2))
    await until(lambda: slots.waiting == 2)
    slots.give()
    first.cancel()
    await second
    assert first.cancelled()
    assert not slots.take_now()


async def test_a_waiter_that_was_cancelled_but_has_not_left_yet_is_passed_over() -> None:
    slots = Slots(1)
    assert slots.take_now()
    first, second = (asyncio.create_task(slots.take(None, KIND, nothing)) for _ in range(2))
    await until(lambda: slots.waiting == 2)
    first.cancel()
    slots.give()
    await second
    assert first.cancelled()


async def test_all_who_wait_can_be_refused() -> None:
    slots = Slots(1)
    assert slots.take_now()
    tasks = [asyncio.create_task(slots.take(None, KIND, nothing)) for _ in range(3)]
    await until(lambda: slots.waiting == 3)
    tasks[0].cancel()
    slots.refuse("closed")
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes] == [asyncio.CancelledError, RuntimeError, RuntimeError]
    slots.give()
    assert slots.take_now()
    assert not slots.take_now()


def taking(slots: Slots, kind: str, found: list[str]) -> asyncio.Task[str | None]:
    """Wait, and take from `found` what may be there instead of a slot."""
    return asyncio.create_task(slots.take(None, kind, lambda: found.pop() if found else None))


async def test_whoever_finds_something_else_at_once_does_not_wait() -> None:
    slots = Slots(1)
    assert slots.take_now()
    assert await slots.take(None, KIND, lambda: "shared") == "shared"
    assert slots.waiting == 0
    slots.give()
    assert slots.take_now()


async def test_nobody_passes_those_of_the_same_kind_who_wait() -> None:
    slots, found = Slots(1), list[str]()
    assert slots.take_now()
    first = taking(slots, KIND, found)
    await until(lambda: slots.waiting == 1)
    found.append("shared")
    late = taking(slots, KIND, found)
    assert await asyncio.wait_for(slots.take(None, "other", lambda: "its own"), 1) == "its own"
    await until(lambda: slots.waiting == 2)
    slots.wake(KIND)
    assert await first == "shared"
    slots.give()
    assert await late is None


async def test_who_finds_something_wakes_the_next_of_its_kind() -> None:
    slots, found = Slots(1), list[str]()
    assert slots.take_now()
    other = taking(slots, "other", [])
    tasks = [taking(slots, KIND, found) for _ in range(3)]
    await until(lambda: slots.waiting == 4)
    found += ["b", "a"]
    slots.wake(KIND)
    slots.wake(KIND)
    assert await asyncio.gather(*tasks[:2]) == ["a", "b"]
    await asyncio.sleep(0)
    # It has looked in vain, and still waits in its place.
    assert slots.waiting == 2
    found.append("c")
    slots.wake(KIND)
    assert await tasks[2] == "c"
    slots.give()
    assert await other is None


async def test_of_each_kind_the_one_that_waits_longest_is_woken_in_the_order_of_the_kinds() -> None:
    slots, found = Slots(1), list[str]()
    assert slots.take_now()
    others = [taking(slots, "other", found) for _ in range(2)]
    nearby = taking(slots, "nearby", [])
    first, second = (taking(slots, KIND, found) for _ in range(2))
    await until(lambda: slots.waiting == 5)
    found += ["c", "b", "a"]
    slots.wake("nobody's", "nearby", KIND, "other")
    assert [await each for each in (first, others[0], second)] == ["a", "b", "c"]
    # Of another kind than those who wait, a newcomer looks for itself.
    assert await asyncio.wait_for(slots.take(None, "new", lambda: "its own"), 1) == "its own"
    assert slots.waiting == 2
    for _ in range(2):
        slots.give()
    assert (await nearby, await others[1]) == (None, None)


async def test_who_is_cancelled_when_woken_wakes_the_next() -> None:
    slots, found = Slots(1), list[str]()
    assert slots.take_now()
    first, second = (taking(slots, KIND, found) for _ in range(2))
    await until(lambda: slots.waiting == 2)
    found.append("shared")
    slots.wake(KIND)
    first.cancel()
    assert await second == "shared"
    assert first.cancelled()


async def test_one_that_was_cancelled_but_has_not_left_yet_is_not_woken() -> None:
    slots, found = Slots(1), list[str]()
    assert slots.take_now()
    first, second = (taking(slots, KIND, found) for _ in range(2))
    await until(lambda: slots.waiting == 2)
    first.cancel()
    found.append("shared")
    slots.wake(KIND)
    assert await second == "shared"


async def test_who_gets_a_slot_when_woken_leaves_the_rest_to_the_next() -> None:
    slots, found = Slots(1), list[str]()
    assert slots.take_now()
    first, second = (taking(slots, KIND, found) for _ in range(2))
    await until(lambda: slots.waiting == 2)
    found.append("shared")
    slots.wake(KIND)
    slots.give()
    assert (await first, await second) == (None, "shared")
    assert not slots.take_now()


async def test_who_is_refused_when_woken_gets_the_refusal() -> None:
    slots, found = Slots(1), list[str]()
    assert slots.take_now()
    first = taking(slots, KIND, found)
    await until(lambda: slots.waiting == 1)
    slots.wake(KIND)
    slots.refuse("closed")
    with pytest.raises(RuntimeError, match="closed"):
        await first


async def test_what_looking_raises_ends_the_wait_and_wakes_the_next() -> None:
    slots, found = Slots(1), list[str]()
    assert slots.take_now()

    looks = 0

    def broken() -> None:
        nonlocal looks
        looks += 1
        if looks > 1:
            raise KeyError("its own")

    first = asyncio.create_task(slots.take(None, KIND, broken))
    await until(lambda: slots.waiting == 1)
    second = taking(slots, KIND, found)
    await until(lambda: slots.waiting == 2)
    found.append("shared")
    slots.wake(KIND)
    with pytest.raises(KeyError):
        await first
    assert await second == "shared"
