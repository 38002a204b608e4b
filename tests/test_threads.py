from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import pytest

from backendpool_async.threads import FewThreads, ShortLivedThreads, alone, in_thread


async def test_a_call_runs_in_a_thread_of_its_own() -> None:
    here = threading.get_ident()
    assert await in_thread(threading.get_ident) != here
    assert await in_thread(lambda: threading.current_thread().daemon)


async def test_the_thread_is_gone_when_the_call_has_ended() -> None:
    thread = await in_thread(threading.current_thread)
    thread.join(5)
    assert not thread.is_alive()


async def test_arguments_reach_the_call_through_the_executor() -> None:
    executor = ShortLivedThreads(asyncio.get_running_loop(), alone)
    future = executor.submit(lambda *args, **kwargs: (args, kwargs), 1, two=2)
    assert await asyncio.wrap_future(future) == ((1,), {"two": 2})


async def test_calls_that_block_do_not_wait_for_each_other() -> None:
    together = threading.Barrier(20, timeout=5)
    await asyncio.gather(*(in_thread(together.wait) for _ in range(20)))


@pytest.mark.parametrize("error", [OSError("no route"), KeyError("x"), SystemExit(3)])
async def test_an_exception_of_the_call_is_raised_to_whoever_waits(error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await in_thread(fail)
    assert caught.value is error


async def test_a_cancelled_waiter_leaves_its_thread_behind() -> None:
    began, go_on = threading.Event(), threading.Event()
    ended: list[threading.Thread] = []

    def block() -> None:
        began.set()
        go_on.wait(5)
        ended.append(threading.current_thread())

    waiter = asyncio.create_task(in_thread(block))
    assert await in_thread(lambda: began.wait(5))
    waiter.cancel()
    await asyncio.wait({waiter})
    assert not ended
    go_on.set()


def left_behind(outcome: Callable[[], object]) -> None:
    """Close a loop while a call of its own is under way; the call then ends with `outcome`."""
    began, go_on = threading.Event(), threading.Event()

    def block() -> object:
        began.set()
        go_on.wait(5)
        return outcome()

    loop = asyncio.new_event_loop()
    before = set(threading.enumerate())
    future = loop.run_in_executor(ShortLivedThreads(loop, alone), block)
    assert began.wait(5)
    (thread,) = set(threading.enumerate()) - before
    loop.close()
    go_on.set()
    thread.join(5)
    assert not future.done()


def fail() -> None:
    raise OSError("too late")


@pytest.mark.parametrize("outcome", [list, fail])
def test_a_result_for_a_closed_loop_is_dropped_without_a_word(
    outcome: Callable[[], object],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    left_behind(outcome)
    gc.collect()
    assert capfd.readouterr().err == ""
    assert caplog.records == []


async def test_few_threads_run_no_more_calls_at_once_than_their_limit() -> None:
    few = FewThreads(3)
    at_once: list[int] = []
    running = 0
    lock = threading.Lock()
    together = threading.Barrier(3, timeout=5)

    def call() -> threading.Thread:
        nonlocal running
        with lock:
            running += 1
            at_once.append(running)
        together.wait()
        with lock:
            running -= 1
        return threading.current_thread()

    threads = await asyncio.gather(*(in_thread(call, few.start) for _ in range(30)))
    assert max(at_once) == 3
    assert len(set(threads)) < 30


async def test_few_threads_end_when_no_call_is_left_and_start_again() -> None:
    few = FewThreads(2)
    for _ in range(3):
        thread = await in_thread(threading.current_thread, few.start)
        thread.join(5)
        assert not thread.is_alive()


async def test_a_call_that_is_cancelled_in_the_queue_is_never_made() -> None:
    few = FewThreads(1)
    go_on = threading.Event()
    made: list[str] = []
    first = asyncio.create_task(in_thread(lambda: go_on.wait(5), few.start))
    second = asyncio.create_task(in_thread(lambda: made.append("second"), few.start))
    third = asyncio.create_task(in_thread(lambda: made.append("third"), few.start))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    go_on.set()
    async with asyncio.timeout(5):
        assert await first
        await third
    assert made == ["third"]


async def test_a_call_that_fails_keeps_its_thread_for_the_next() -> None:
    few = FewThreads(1)

    def fail() -> None:
        raise OSError("no route")

    calls = [asyncio.create_task(in_thread(fail, few.start)) for _ in range(3)]
    await asyncio.wait(calls)
    assert all(isinstance(call.exception(), OSError) for call in calls)


async def test_a_thread_that_could_not_be_started_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = FewThreads(1)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            await in_thread(int, few.start)
    async with asyncio.timeout(5):
        assert await in_thread(int, few.start) == 0
