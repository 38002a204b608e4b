"""Who waits for a turn to begin, and when it comes."""

from __future__ import annotations

import asyncio
import random

import pytest

from backendpool_async.sources.gate import Gate


async def test_the_gate_lets_the_next_ones_in_together_when_half_have_left() -> None:
    gate = Gate(4, interval=600)
    inside: list[int] = []

    async def go_in(number: int) -> int:
        ticket = await gate.enter()
        inside.append(number)
        return ticket

    going = [asyncio.create_task(go_in(number)) for number in range(9)]
    for first, expected in ((0, 4), (2, 6), (4, 8), (6, 9)):
        await asyncio.sleep(0.01)
        assert inside == list(range(expected))
        gate.leave(going[first].result())
        await asyncio.sleep(0.01)
        assert inside == list(range(expected))
        gate.leave(going[first + 1].result())
    assert gate.entered() is not None


@pytest.mark.parametrize("seed", range(20))
async def test_nobody_waits_at_the_gate_while_fewer_than_half_are_inside(seed: int) -> None:
    chance = random.Random(seed)
    gate = Gate(chance.randint(1, 6), interval=600)
    going: list[asyncio.Task[int]] = []

    def waiting() -> list[asyncio.Task[int]]:
        return [each for each in going if not each.done()]

    def inside() -> list[asyncio.Task[int]]:
        return [each for each in going if each.done() and not each.cancelled()]

    for _ in range(200):
        for _ in range(chance.randint(1, 4)):
            act = chance.choice(("come", "leave", "cancel"))
            if act == "come":
                going.append(asyncio.create_task(gate.enter()))
            elif act == "leave" and inside():
                going.remove(left := chance.choice(inside()))
                gate.leave(left.result())
            elif act == "cancel" and waiting():
                chance.choice(waiting()).cancel()
        for _ in range(4):
            await asyncio.sleep(0)
        assert len(inside()) <= gate._width
        assert not waiting() or len(inside()) * 2 > gate._width
    for each in waiting():
        each.cancel()
    await asyncio.wait(going)


async def test_who_is_let_in_and_cancelled_in_the_same_moment_makes_room_again() -> None:
    gate = Gate(1, interval=600)
    ticket = await gate.enter()
    let_in = asyncio.create_task(gate.enter())
    next_one = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    gate.leave(ticket)
    let_in.cancel()
    gate.leave(await asyncio.wait_for(next_one, 5))
    assert let_in.cancelled()
    gate.leave(await asyncio.wait_for(gate.enter(), 5))
