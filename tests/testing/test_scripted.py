from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable

import pytest

from backendpool_async.testing import (
    DeadlockError,
    HintingSource,
    ScriptedSource,
    VirtualTimeLoop,
    after,
    gated,
    hang,
    stubborn,
)


async def fetch_error(source: ScriptedSource) -> BaseException:
    try:
        answer = await source.fetch()
    except (OSError, TimeoutError) as error:
        return error
    raise AssertionError(f"it answered {answer}")


def depth(error: BaseException) -> int:
    levels, at = 0, error.__traceback__
    while at is not None:
        levels, at = levels + 1, at.tb_next
    return levels


async def test_steps_are_played_in_order_and_the_last_for_ever() -> None:
    source = ScriptedSource(["a:1"], (), ("b:1", "c:1"))
    assert [await source.fetch() for _ in range(4)] == [["a:1"], (), ("b:1", "c:1"), ("b:1", "c:1")]


async def test_then_adds_steps_after_the_one_that_is_repeated() -> None:
    source = ScriptedSource(["a:1"])
    await source.fetch()
    await source.fetch()
    source.then(["b:1"], ["c:1"])
    assert [await source.fetch() for _ in range(3)] == [["b:1"], ["c:1"], ["c:1"]]


async def test_then_keeps_steps_that_are_still_to_come() -> None:
    source = ScriptedSource(["a:1"], ["b:1"])
    source.then(["c:1"])
    assert [await source.fetch() for _ in range(3)] == [["a:1"], ["b:1"], ["c:1"]]


def test_a_script_without_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        ScriptedSource()


async def test_an_exception_is_raised_as_a_fresh_copy_that_gathers_no_traceback() -> None:
    cause = ConnectionResetError("peer")
    scripted = OSError(113, "no route")
    scripted.__cause__ = cause
    source = ScriptedSource(scripted)
    first, second = await fetch_error(source), await fetch_error(source)
    assert type(first) is OSError
    assert first.errno == 113
    assert first is not scripted
    assert first is not second
    assert first.__cause__ is cause
    assert depth(first) == depth(second)
    assert scripted.__traceback__ is None


async def test_an_exception_class_is_raised_as_an_instance() -> None:
    assert isinstance(await fetch_error(ScriptedSource(TimeoutError)), TimeoutError)


def test_an_exception_that_cannot_be_made_or_copied_is_refused_where_it_is_written() -> None:
    class Picky(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} {two}")

    for step in (Picky, Picky(1, 2)):
        with pytest.raises(TypeError):
            ScriptedSource(step)
        with pytest.raises(TypeError):
            ScriptedSource(["a:1"]).then(after(1, step))


@pytest.mark.parametrize("lie", [None, "a:1", itertools.count(), 7, {"a:1": 2}])
async def test_anything_else_is_returned_as_it_is(lie: object) -> None:
    answer: object = await ScriptedSource(lie).fetch()
    assert answer is lie


@pytest.mark.virtual_time
async def test_after_delays_a_step_by_the_clock_of_the_loop() -> None:
    source = ScriptedSource(after(5, ["a:1"]), after(1, after(2, OSError("late"))))
    loop = asyncio.get_running_loop()
    assert await source.fetch() == ["a:1"]
    assert loop.time() == 5.0
    assert str(await fetch_error(source)) == "late"
    assert loop.time() == 8.0


@pytest.mark.virtual_time
async def test_hang_never_answers_until_it_is_cancelled() -> None:
    source = ScriptedSource(hang(), ["a:1"])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await source.fetch()
    assert (source.running, source.cancellations) == (0, 1)
    assert await source.fetch() == ["a:1"]


async def test_calls_times_and_the_most_at_once_are_counted() -> None:
    source = ScriptedSource(gated(["a:1"]))
    assert (source.calls, source.times, source.running, source.most_at_once) == (0, [], 0, 0)
    fetches = [asyncio.create_task(source.fetch()) for _ in range(2)]
    await source.called(2)
    assert (source.calls, source.running, source.most_at_once) == (2, 2, 2)
    source.release()
    assert await asyncio.gather(*fetches) == [["a:1"], ["a:1"]]
    assert (source.calls, source.running, source.most_at_once) == (2, 0, 2)
    source.then(["b:1"])
    await source.fetch()
    assert (source.calls, source.running, source.most_at_once) == (3, 0, 2)


@pytest.mark.virtual_time
async def test_times_are_those_of_the_loop_at_the_beginning_of_each_fetch() -> None:
    source = ScriptedSource(after(2, ["a:1"]))
    await source.fetch()
    await asyncio.sleep(10)
    await source.fetch()
    assert source.times == [0.0, 12.0]


async def test_a_gated_step_is_held_until_it_is_released() -> None:
    source = ScriptedSource(gated(["a:1"]), ["b:1"])
    held = asyncio.create_task(source.fetch())
    await source.called()
    assert await source.fetch() == ["b:1"]
    assert not held.done()
    source.release()
    assert await held == ["a:1"]


async def test_a_gated_step_can_be_cancelled() -> None:
    source = ScriptedSource(gated(["a:1"]))
    held = asyncio.create_task(source.fetch())
    await source.called()
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    assert (source.running, source.cancellations) == (0, 1)
    with pytest.raises(RuntimeError, match="no fetch is held"):
        source.release()


async def test_a_fetch_that_is_cancelled_as_it_is_released_does_no_harm() -> None:
    source = ScriptedSource(gated(["a:1"]))
    held = asyncio.create_task(source.fetch())
    await source.called()
    held.cancel()
    source.release()
    with pytest.raises(asyncio.CancelledError):
        await held


@pytest.mark.virtual_time
async def test_stubborn_swallows_cancellation_for_its_seconds_and_then_plays_its_step() -> None:
    source = ScriptedSource(stubborn(60, ["a:1"]))
    fetch = asyncio.create_task(source.fetch())
    for _ in range(3):
        await asyncio.sleep(10)
        fetch.cancel()
    assert await fetch == ["a:1"]
    assert asyncio.get_running_loop().time() == 60.0
    assert source.cancellations == 3


@pytest.mark.virtual_time
async def test_stubborn_without_seconds_lasts_until_it_is_released() -> None:
    source = ScriptedSource(stubborn())
    fetch = asyncio.create_task(source.fetch())
    await asyncio.sleep(86_400)
    fetch.cancel()
    await asyncio.sleep(86_400)
    assert not fetch.done()
    source.release()
    assert await fetch == ()
    assert source.running == 0


def test_a_stubborn_step_released_early_leaves_no_timer() -> None:
    loop = VirtualTimeLoop()

    async def main() -> None:
        source = ScriptedSource(stubborn(3600))
        fetch = asyncio.create_task(source.fetch())
        await source.called()
        source.release()
        await fetch
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=lambda: loop) as runner, pytest.raises(DeadlockError):
        runner.run(main())
    assert loop.time() == 0.0


async def test_closing_lets_go_what_is_held_and_it_may_be_asked_again() -> None:
    source = ScriptedSource(stubborn(), gated(["a:1"]), ["b:1"])
    held = [asyncio.create_task(source.fetch()) for _ in range(2)]
    await source.called(2)
    await source.aclose()
    assert await asyncio.gather(*held) == [(), ["a:1"]]
    assert source.closings == 1
    assert await source.fetch() == ["b:1"]


async def test_called_returns_at_once_when_it_was_called_already() -> None:
    source = ScriptedSource(["a:1"])
    await source.fetch()
    async with asyncio.timeout(5):
        await source.called()


async def test_called_waits_for_the_number_of_calls_it_was_told() -> None:
    source = ScriptedSource(["a:1"])
    waiting = asyncio.create_task(source.called(2))
    await asyncio.sleep(0)
    await source.fetch()
    await asyncio.sleep(0)
    assert not waiting.done()
    await source.fetch()
    await source.fetch()
    await waiting


async def test_a_waiter_that_gave_up_does_not_disturb_a_later_fetch() -> None:
    source = ScriptedSource(["a:1"])
    waiting = asyncio.create_task(source.called())
    await asyncio.sleep(0)
    waiting.cancel()
    assert await source.fetch() == ["a:1"]
    await asyncio.wait({waiting})
    assert waiting.cancelled()


def test_one_source_serves_several_loops_one_after_another() -> None:
    source = HintingSource(gated(["a:1"]))

    async def main() -> Iterable[str]:
        fetch = asyncio.create_task(source.fetch())
        hinted = asyncio.create_task(source.changed())
        await source.called(source.calls + 1)
        source.release()
        source.hint()
        await hinted
        return await fetch

    assert asyncio.run(main()) == ["a:1"]
    assert asyncio.run(main()) == ["a:1"]


async def test_its_repr_shows_what_comes_next() -> None:
    source = ScriptedSource(
        ["a:1"], (), OSError("down"), after(2, hang()), gated(()), stubborn(None, ["b:1"])
    )
    assert repr(source) == (
        "ScriptedSource(['a:1'], (), OSError('down'), after(2, hang()), gated(()),"
        " stubborn(None, ['b:1']); calls=0, running=0)"
    )
    await source.fetch()
    await source.fetch()
    source.then(["z:1"])
    assert repr(source).startswith("ScriptedSource((), OSError('down'), after")
    assert repr(source).endswith("['z:1']; calls=2, running=0)")
    assert str(source) == "ScriptedSource"


async def test_a_hint_lets_changed_return_once() -> None:
    source = HintingSource(["a:1"])
    waiting = asyncio.create_task(source.changed())
    await asyncio.sleep(0)
    assert not waiting.done()
    source.hint()
    source.hint()
    await waiting
    again = asyncio.create_task(source.changed())
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()


async def test_a_hint_that_nobody_waited_for_is_kept_for_the_next() -> None:
    source = HintingSource(["a:1"])
    source.hint()
    async with asyncio.timeout(5):
        await source.changed()
