"""Starting, closing, starting again; and what waits meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
import threading
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from backendpool_async import (
    Backend,
    BackendPool,
    EmptyAnswer,
    PoolClosed,
    Snapshot,
    SourceError,
)
from backendpool_async.testing import (
    HintingSource,
    ScriptedSource,
    VirtualTimeLoop,
    gated,
    hang,
    stubborn,
)

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"

virtual = pytest.mark.virtual_time


class Unmoved(ScriptedSource):
    """A source whose `aclose` does not end what swallows its cancellation."""

    async def aclose(self) -> None:
        self.closings += 1


class Deaf(Unmoved):
    """A source that swallows every cancellation of `changed` until it is `told`."""

    def __init__(self, *steps: object) -> None:
        super().__init__(*steps)
        self.told = asyncio.Event()

    async def changed(self) -> None:
        await until(self.told)


class DeafAllOver(Deaf):
    """A source that swallows the cancellations of its `aclose` too."""

    async def aclose(self) -> None:
        await super().aclose()
        await until(self.told)


async def until(told: asyncio.Event) -> None:
    while not told.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await told.wait()


def others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main)


@virtual
async def test_start_returns_with_the_first_list() -> None:
    pool = BackendPool(ScriptedSource([A]))
    assert pool.backends() == ()
    await pool.start()
    assert pool.backends() == (A,)
    await pool.aclose()
    assert pool.backends() == (A,)


@virtual
async def test_starting_twice_runs_one_refresher() -> None:
    source = ScriptedSource([A])
    pool = BackendPool(source, poll_interval=30)
    await asyncio.gather(pool.start(), pool.start())
    await pool.start()
    assert len(others()) == 1
    assert source.calls == 1
    await pool.aclose()


@virtual
async def test_a_start_that_fails_with_nothing_to_serve_raises_and_leaves_nothing_running() -> None:
    pool = BackendPool(ScriptedSource(OSError("no route")))
    with pytest.raises(SourceError, match="no route") as caught:
        await pool.start()
    assert isinstance(caught.value.__cause__, OSError)
    assert not others()
    with pytest.raises(SourceError):
        async with pool:
            pytest.fail("an unstarted pool was entered")
    assert not others()


@virtual
async def test_a_start_on_a_negative_answer_with_nothing_held_raises_it() -> None:
    with pytest.raises(EmptyAnswer):
        await BackendPool(ScriptedSource(())).start()
    assert not others()


@virtual
async def test_a_start_that_is_not_required_goes_on_trying() -> None:
    pool = BackendPool(ScriptedSource(OSError(), OSError(), [A]))
    await pool.start(required=False)
    assert isinstance(pool.snapshot.error, SourceError)
    assert (await pool.wait_ready(timeout=10)).backends == (A,)
    await pool.aclose()


@virtual
async def test_with_initial_a_failing_start_does_not_raise() -> None:
    pool = BackendPool(ScriptedSource(OSError("down")), initial=[A, B])
    assert pool.backends() == (A, B)
    async with pool:
        assert pool.backends() == (A, B)
        assert "down" in str(pool.snapshot.error)


@virtual
async def test_a_starter_that_needs_a_list_does_not_stop_the_one_that_can_wait() -> None:
    source = ScriptedSource(gated(OSError()), [A])
    pool = BackendPool(source)
    patient = asyncio.create_task(pool.start(required=False))
    strict = asyncio.create_task(pool.start())
    await source.called()
    source.release()
    await patient
    with pytest.raises(SourceError):
        await strict
    assert (await pool.wait_ready(5)).backends == (A,)
    await pool.aclose()


@virtual
async def test_cancelling_a_start_leaves_nothing_running() -> None:
    source = ScriptedSource(hang())
    task = asyncio.create_task(BackendPool(source).start())
    await source.called()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert source.running == 0
    assert not others()


@virtual
async def test_cancelling_one_of_two_starts_leaves_the_other() -> None:
    source = ScriptedSource(gated([A]))
    pool = BackendPool(source)
    first, second = asyncio.create_task(pool.start()), asyncio.create_task(pool.start())
    await source.called()
    first.cancel()
    await asyncio.wait({first})
    source.release()
    await second
    assert pool.backends() == (A,)
    await pool.aclose()


@virtual
async def test_aclose_ends_everything_that_waits_and_is_idempotent() -> None:
    source = ScriptedSource(hang())
    pool = BackendPool(source)
    watched: list[Snapshot] = []

    async def watch() -> None:
        watched.extend([snapshot async for snapshot in pool.watch()])

    pending = [asyncio.create_task(wait) for wait in (pool.start(), pool.refresh())]
    pending.append(asyncio.create_task(pool.wait_ready()))
    watcher = asyncio.create_task(watch())
    await source.called()
    await asyncio.gather(pool.aclose(), pool.aclose())
    await pool.aclose()
    for task in pending:
        with pytest.raises(PoolClosed):
            await task
    await watcher
    assert [snapshot.generation for snapshot in watched] == [0]
    assert not others()
    assert source.closings >= 1


@virtual
async def test_a_close_in_the_very_turn_of_a_start_leaves_a_pool_that_can_be_started() -> None:
    source = ScriptedSource([A])
    pool = BackendPool(source)
    starting = asyncio.create_task(pool.start())
    while pool._run is None:  # noqa: ASYNC110 - this very turn
        await asyncio.sleep(0)
    await pool.aclose()
    with pytest.raises(PoolClosed):
        await starting
    assert source.closings == 1
    async with asyncio.timeout(1), pool:
        assert pool.backends() == (A,)


@virtual
async def test_a_background_task_that_is_cancelled_before_its_first_step_is_replaced() -> None:
    pool = BackendPool(ScriptedSource([A]))
    starting = asyncio.create_task(pool.start())
    while pool._run is None:  # noqa: ASYNC110 - this very turn
        await asyncio.sleep(0)
    pool._run.task.cancel()
    await asyncio.wait({pool._run.task})
    starting.cancel()
    await asyncio.wait({starting})
    async with asyncio.timeout(1), pool:
        assert pool.backends() == (A,)


@virtual
async def test_a_pool_that_was_never_started_can_be_closed() -> None:
    source = ScriptedSource([A])
    never_started, fixed = BackendPool(source), BackendPool.static([A])
    for pool in (never_started, fixed):
        await pool.aclose()
        assert not pool.is_running
    assert (source.calls, fixed.backends()) == (0, (A,))


@virtual
async def test_a_closed_pool_can_be_started_again() -> None:
    source = ScriptedSource([A], [B])
    pool = BackendPool(source)
    for held in (A, B):
        async with pool:
            assert pool.backends() == (held,)
            assert len(others()) == 1
        assert not others()
    assert (await pool.refresh()).backends == (B,)


def test_a_pool_can_be_started_on_one_loop_after_another() -> None:
    pool = BackendPool(HintingSource([A]), poll_interval=30)

    async def lifespan() -> None:
        async with pool:
            await asyncio.sleep(100)
            assert pool.backends() == (A,)

    for _ in range(3):
        run(lifespan())


def test_a_pool_whose_loop_was_closed_under_it_can_be_started_again() -> None:
    pool = BackendPool(ScriptedSource([A]), poll_interval=30)
    loop = VirtualTimeLoop()
    loop.run_until_complete(pool.start())
    loop.close()
    assert "running" not in repr(pool)

    async def lifespan() -> None:
        async with pool:
            assert "running" in repr(pool)

    run(lifespan())


def test_a_pool_whose_loop_was_closed_during_a_refresh_can_be_refreshed_again() -> None:
    source = ScriptedSource(hang(), [A])
    pool = BackendPool(source)
    loop = VirtualTimeLoop()
    task = loop.create_task(pool.refresh())
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # abandoned on purpose
    loop.run_until_complete(source.called())
    loop.close()

    async def main() -> None:
        assert (await pool.refresh()).backends == (A,)

    run(main())


@virtual
async def test_a_pool_in_use_on_one_loop_says_so_on_another() -> None:
    async with BackendPool(ScriptedSource([A])) as pool:
        complaints: list[str] = []

        async def elsewhere() -> None:
            for call in (pool.start, pool.refresh, pool.aclose):
                with pytest.raises(RuntimeError) as caught:
                    await call()
                complaints.append(str(caught.value))
            pool.update([B])

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert len(complaints) == 3
        assert all("another event loop" in complaint for complaint in complaints)
        assert pool.backends() == (B,)


@virtual
async def test_cancelling_the_background_task_from_outside_releases_the_source() -> None:
    source = ScriptedSource([A], hang())
    pool = BackendPool(source)
    await pool.start()
    (task,) = others()
    task.cancel()
    await asyncio.wait({task})
    assert source.closings == 1

    await pool.aclose()


def test_a_program_that_ends_without_closing_its_pool_leaves_nothing() -> None:
    source = HintingSource([A])

    async def main() -> None:
        await BackendPool(source).start()

    run(main())
    assert source.closings == 1


@virtual
async def test_a_fetch_that_swallows_cancellation_is_given_up_at_the_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Unmoved([A], stubborn(100))
    pool = BackendPool(source, timeout=3, poll_interval=10)
    await pool.start()
    await source.called(2)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await pool.aclose()
    assert loop.time() - begun == pytest.approx(3)
    assert "its fetch swallows cancellation; given up after 3 s" in caplog.text
    assert source.closings == 1
    source.release()
    await asyncio.wait(others())


@virtual
async def test_a_fetch_that_only_the_close_of_its_source_ends_is_not_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = ScriptedSource([A], stubborn())
    pool = BackendPool(source, timeout=3, poll_interval=10)
    await pool.start()
    await source.called(2)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await pool.aclose()
    assert loop.time() - begun == pytest.approx(1.5)
    assert not caplog.text
    assert not others()


@virtual
async def test_all_that_swallows_cancellation_is_given_up_after_one_timeout_and_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = DeafAllOver([A], stubborn())
    pool = BackendPool(source, timeout=2, poll_interval=10)
    await pool.start()
    await source.called(2)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await pool.aclose()
    assert loop.time() - begun == pytest.approx(2)
    assert sorted(record.getMessage() for record in caplog.records) == [
        "DeafAllOver: its aclose() takes over 1 s",
        "DeafAllOver: its changed() swallows cancellation; given up after 2 s",
        "DeafAllOver: its fetch swallows cancellation; given up after 2 s",
    ]
    source.release()
    source.told.set()
    await asyncio.wait(others())


@virtual
async def test_a_close_during_a_lone_refresh_leaves_the_source_to_a_start_that_follows() -> None:
    source = Unmoved(stubborn(2), [A])
    pool = BackendPool(source, timeout=3)
    refreshing = asyncio.create_task(pool.refresh())
    await source.called()
    closing = asyncio.create_task(pool.aclose())
    await asyncio.sleep(0.1)
    await pool.start()
    await closing
    assert source.closings == 0
    with pytest.raises(PoolClosed):
        await refreshing
    await pool.aclose()
    assert source.closings == 1


@virtual
@pytest.mark.parametrize(
    ("closing", "words"), [(OSError("busy"), "failed: OSError: 'busy'"), (None, "takes over 5 s")]
)
async def test_a_source_that_cannot_be_closed_does_not_hold_up_the_pool(
    closing: OSError | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Sticky(ScriptedSource):
        async def aclose(self) -> None:
            if closing is not None:
                raise closing
            await asyncio.Event().wait()

    async with BackendPool(Sticky([A])) as pool:
        pass
    assert words in caplog.text
    assert pool.backends() == (A,)


@virtual
async def test_hints_that_swallow_cancellation_do_not_hold_up_the_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Deaf([A])
    pool = BackendPool(source, timeout=2)
    await pool.start()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await pool.aclose()
    assert loop.time() - begun == pytest.approx(2)
    assert "its changed() swallows cancellation; given up after 2 s" in caplog.text
    source.told.set()
    await asyncio.wait(others())


@virtual
async def test_cancelling_a_close_is_not_swallowed_and_the_pool_closes_all_the_same() -> None:
    source = ScriptedSource([A], stubborn(2))
    pool = BackendPool(source, poll_interval=10)
    await pool.start()
    await source.called(2)
    closing = asyncio.create_task(pool.aclose())
    await asyncio.sleep(0.1)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    await asyncio.sleep(10)
    assert not others()


@virtual
async def test_a_start_during_a_close_waits_for_it() -> None:
    source = ScriptedSource([A], stubborn(2), [B])
    pool = BackendPool(source, poll_interval=10)
    await pool.start()
    await source.called(2)
    closing = asyncio.create_task(pool.aclose())
    await asyncio.sleep(0.1)
    await pool.start()
    assert closing.done()
    assert source.most_at_once == 1
    await pool.aclose()


@virtual
async def test_a_refresh_without_start_releases_the_source() -> None:
    source = ScriptedSource([A])
    await BackendPool(source).refresh()
    assert source.closings == 1


@virtual
async def test_wait_ready_returns_when_there_are_enough() -> None:
    pool = BackendPool.static([])
    waiting = asyncio.create_task(pool.wait_ready(timeout=10, min_backends=2))
    await asyncio.sleep(1)
    pool.update([A])
    await asyncio.sleep(1)
    assert not waiting.done()
    pool.update([A, B])
    assert (await waiting).backends == (A, B)


@virtual
async def test_wait_ready_that_times_out_says_what_the_source_said() -> None:
    pool = BackendPool(ScriptedSource(OSError("no route")))
    await pool.start(required=False)
    with pytest.raises(TimeoutError, match=r"0 of 1 backends after 3 s; the latest.*no route"):
        await pool.wait_ready(timeout=3)
    await pool.aclose()


@virtual
async def test_wait_ready_on_a_closed_pool_raises_unless_there_is_enough() -> None:
    pool = BackendPool.static([A])
    await pool.aclose()
    assert (await pool.wait_ready()).backends == (A,)
    with pytest.raises(PoolClosed):
        await pool.wait_ready(min_backends=2)


@virtual
async def test_watch_yields_the_current_list_and_then_the_newest() -> None:
    pool = BackendPool.static([A])
    watch = pool.watch()
    assert (await anext(watch)).backends == (A,)
    pool.update([B])
    pool.update([B, C])
    newest = await anext(watch)
    assert newest.backends == (B, C)
    assert newest.generation == 2
    pending = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(1)
    pool.update([B, C])
    await asyncio.sleep(1)
    assert not pending.done()
    await pool.aclose()
    with pytest.raises(StopAsyncIteration):
        await pending


@virtual
async def test_a_watch_of_a_closed_pool_yields_what_is_held_and_ends() -> None:
    pool = BackendPool.static([A])
    await pool.aclose()
    assert [snapshot.backends async for snapshot in pool.watch()] == [(A,)]


@virtual
async def test_a_watch_ends_at_the_close_even_when_the_pool_is_started_again_at_once() -> None:
    source = ScriptedSource([A])
    pool = BackendPool(source)
    await pool.start()
    watch = pool.watch()
    await anext(watch)
    pending = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await pool.aclose()
    await pool.start()
    with pytest.raises(StopAsyncIteration):
        await pending
    await pool.aclose()


@virtual
async def test_a_watch_that_is_left_leaves_nothing_in_the_pool() -> None:
    pool = BackendPool.static([A])
    async for _ in pool.watch():
        break
    task = asyncio.ensure_future(anext(aiter_after_first := pool.watch()))
    await task
    pending = asyncio.ensure_future(anext(aiter_after_first))
    await asyncio.sleep(0)
    pending.cancel()
    await asyncio.wait({pending})
    assert not pool._wakers


async def test_a_watch_sees_updates_from_another_thread() -> None:
    pool = BackendPool.static([])
    seen: list[int] = []

    def push() -> None:
        for number in range(1, 501):
            pool.update([f"10.0.{number >> 8}.{number & 255}:80"])

    thread = threading.Thread(target=push)
    thread.start()
    async for snapshot in pool.watch():
        seen.append(snapshot.generation)
        if snapshot.generation == 500:
            break
    thread.join()
    assert seen == sorted(set(seen))


def test_a_waiter_whose_loop_was_closed_does_not_disturb_an_update() -> None:
    pool = BackendPool.static([A])
    loop = VirtualTimeLoop()
    task = loop.create_task(pool.wait_ready(min_backends=2))
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # abandoned on purpose
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    pool.update([A, B])
    assert pool.backends() == (A, B)


async def test_a_static_pool_has_nothing_to_start_or_refresh() -> None:
    async with BackendPool.static([A]) as pool:
        assert not others() - {task for task in others() if "fixture" in repr(task)}
        assert (await pool.refresh()).backends == (A,)
        pool.update([B])
        assert (await pool.refresh()).backends == (B,)


async def test_a_pool_can_be_referred_to_weakly() -> None:
    pool = BackendPool.static([A])
    assert weakref.ref(pool)() is pool


async def test_copies_are_the_same_live_list() -> None:
    pool = BackendPool.static([A])
    shallow, deep = copy.copy(pool), copy.deepcopy({"pool": pool})["pool"]
    pool.update([B])
    assert shallow.backends() == deep.backends() == (B,)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(pool)


@virtual
async def test_the_repr_says_what_is_held_and_how_it_stands() -> None:
    pool = BackendPool(ScriptedSource([A], OSError()), poll_interval=30)
    assert repr(pool) == "<BackendPool ScriptedSource: 0 backends, generation 0>"
    async with pool:
        assert repr(pool).startswith("<BackendPool ScriptedSource: 1 backend, generation 1, 0.")
        assert repr(pool).endswith(" s old, running>")
        await asyncio.sleep(34)
        assert repr(pool).endswith(", failing, running>")


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"poll_interval": 0}, ValueError),
        ({"poll_interval": float("inf")}, ValueError),
        ({"poll_interval": float("nan")}, ValueError),
        ({"poll_interval": "30"}, TypeError),
        ({"poll_interval": True}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"empty_after": 0}, ValueError),
        ({"empty_after": 1.5}, TypeError),
        ({"max_backends": 0}, ValueError),
        ({"max_backends": None}, TypeError),
        ({"initial": ["nonsense"]}, ValueError),
        ({"initial": "10.0.0.1:80"}, ValueError),
        ({"initial": [A, B], "max_backends": 1}, ValueError),
        ({"interval": 3}, TypeError),
    ],
)
def test_a_keyword_out_of_range_is_refused_by_name(
    keywords: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"{next(iter(keywords))}|invalid backend"):
        BackendPool(ScriptedSource([A]), **keywords)


def test_what_is_no_source_is_refused_with_a_hint() -> None:
    async def fetch() -> list[str]:
        return [A]

    async def piecemeal() -> Any:
        yield A

    for wrong, words in (
        ([A], "BackendPool.static"),
        (None, "BackendPool.static"),
        (fetch(), "without calling it"),
        (piecemeal, "yields it piecemeal"),
        (ScriptedSource, r"pass ScriptedSource\(\)"),
    ):
        with pytest.raises(TypeError, match=words):
            BackendPool(wrong)  # type: ignore[arg-type]  # the mistake


@virtual
async def test_an_update_with_a_bad_entry_changes_nothing() -> None:
    pool = BackendPool.static([A], max_backends=2)
    held = pool.snapshot
    for wrong in ([A, "b"], "10.0.0.1:80", None, [A, B, C]):
        with pytest.raises(ValueError, match="invalid backend"):
            pool.update(wrong)  # type: ignore[arg-type]  # the mistake
    assert pool.snapshot is held
    pool.update([])
    assert pool.backends() == ()


@virtual
async def test_a_start_that_waits_for_a_close_is_ended_by_the_next_close() -> None:
    source = ScriptedSource([A], stubborn(2), [B])
    pool = BackendPool(source, poll_interval=10)
    await pool.start()
    await source.called(2)
    closing = asyncio.create_task(pool.aclose())
    await asyncio.sleep(0.1)
    starting = asyncio.create_task(pool.start())
    await asyncio.sleep(0.1)
    await pool.aclose()
    await closing
    with pytest.raises(PoolClosed):
        await starting
    assert not others()


@virtual
async def test_a_refresh_that_waits_for_a_cancelled_one_is_ended_by_a_close() -> None:
    source = ScriptedSource(stubborn(2), [B])
    pool = BackendPool(source)
    first = asyncio.create_task(pool.refresh())
    await source.called()
    first.cancel()
    await asyncio.sleep(0.1)
    second = asyncio.create_task(pool.refresh())
    await asyncio.sleep(0.1)
    await pool.aclose()
    with pytest.raises(PoolClosed):
        await second
    await asyncio.wait({first})
    assert source.calls == 1


@virtual
async def test_a_start_that_is_cancelled_as_its_answer_lands_leaves_nothing_running() -> None:
    source = ScriptedSource(gated([A]))
    pool = BackendPool(source)
    starting = asyncio.create_task(pool.start())
    await source.called()
    source.release()
    while pool._run is None or not pool._run.first.done():  # noqa: ASYNC110 - this very turn
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait({starting})
    assert starting.cancelled()
    assert not others()


@virtual
async def test_a_close_that_is_refused_on_another_loop_closes_nothing() -> None:
    async with BackendPool(ScriptedSource([A])) as pool:

        async def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                await pool.aclose()

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert (await pool.wait_ready()).backends == (A,)
        assert not pool._closed


@virtual
async def test_hints_that_cancel_themselves_once_go_on() -> None:
    class Once(HintingSource):
        failed = False

        async def changed(self) -> None:
            if not self.failed:
                self.failed = True
                raise asyncio.CancelledError
            await super().changed()

    source = Once([A])
    async with BackendPool(source, poll_interval=10):
        # Between two moments of the grid, so that no poll comes with the hint.
        await asyncio.sleep(30.05)
        calls = source.calls
        source.hint()
        await asyncio.sleep(0.01)
        assert source.calls == calls + 1


def test_a_fetch_left_behind_on_a_closed_loop_does_not_block_the_next() -> None:
    source = ScriptedSource(stubborn(1e6), [A])
    pool = BackendPool(source, timeout=1)
    loop = VirtualTimeLoop()
    with pytest.raises(SourceError):
        loop.run_until_complete(pool._asked())
    loop.close()

    async def main() -> None:
        assert (await pool.refresh()).backends == (A,)

    run(main())


class Unweighable(Backend):
    __slots__ = ()

    @property
    def weight(self) -> int:
        raise RuntimeError("a mistake of theirs")


@virtual
async def test_an_answer_that_cannot_be_taken_is_a_failure_and_polling_goes_on() -> None:
    source = ScriptedSource([A], [Unweighable(A)], [B])
    async with BackendPool(source, poll_interval=1) as pool:
        with pytest.raises(SourceError, match="RuntimeError: 'a mistake of theirs'"):
            await pool.refresh()
        assert pool.backends() == (A,)
        await pool.wait_ready()
        async for snapshot in pool.watch():
            if snapshot.backends == (B,):
                break
        assert pool.snapshot.error is None


@virtual
async def test_a_cancelled_refresh_does_not_close_the_source_under_a_start_that_follows() -> None:
    source = ScriptedSource(stubborn(1), [A])
    pool = BackendPool(source)
    refreshing = asyncio.create_task(pool.refresh())
    await source.called()
    refreshing.cancel()
    await asyncio.sleep(0.1)
    await pool.start()
    await asyncio.wait({refreshing})
    assert source.closings == 0
    assert pool.backends() == (A,)
    await pool.aclose()
    assert source.closings == 1


async def test_a_refresh_that_is_cancelled_as_its_answer_comes_is_cancelled() -> None:
    async def fetch() -> list[str]:
        asyncio.get_running_loop().call_soon(refreshing.cancel)
        return [A]

    pool = BackendPool(fetch)
    refreshing = asyncio.create_task(pool.refresh())
    await asyncio.wait({refreshing})
    assert refreshing.cancelled()
    assert pool.backends() == (A,)
