from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from backendpool_async.testing import DeadlockError, VirtualTimeLoop

T = TypeVar("T")


def virtually(
    main: Coroutine[Any, Any, T], loop_factory: type[VirtualTimeLoop] = VirtualTimeLoop
) -> T:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


async def sleeps(*seconds: float) -> list[float]:
    times = [now()]
    for delay in seconds:
        await asyncio.sleep(delay)
        times.append(now())
    return times


def test_the_clock_begins_at_zero_and_jumps_from_timer_to_timer() -> None:
    began = time.monotonic()
    assert virtually(sleeps(30, 0, 3600)) == [0.0, 30.0, 30.0, 3630.0]
    assert time.monotonic() - began < 10


def test_sums_of_tenths_end_where_a_reader_expects() -> None:
    assert virtually(sleeps(0.1, 0.1, 0.1, 0.7)) == [0.0, 0.1, 0.2, 0.3, 1.0]


def test_timers_fire_in_the_order_of_their_moments() -> None:
    async def main() -> list[int]:
        fired: list[int] = []

        async def one(delay: int) -> None:
            await asyncio.sleep(delay)
            fired.append(delay)

        await asyncio.gather(*map(one, (5, 1, 86_400, 3)))
        return fired

    assert virtually(main()) == [1, 3, 5, 86_400]


def test_thousands_of_timers_over_73_hours_take_little_real_time() -> None:
    began = time.monotonic()
    assert virtually(sleeps(*[30] * (73 * 120)))[-1] == 73 * 3600
    assert time.monotonic() - began < 30


def test_a_sleep_longer_than_the_longest_select_ends_on_time() -> None:
    assert virtually(sleeps(20 * 86_400)) == [0.0, 20 * 86_400.0]


def test_a_timeout_ends_in_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        return now()

    assert virtually(main()) == 5.0


def test_the_clock_stands_still_while_there_is_work() -> None:
    async def main() -> float:
        reminder = asyncio.create_task(asyncio.sleep(1))
        for _ in range(1000):
            await asyncio.sleep(0)
        reminder.cancel()
        return now()

    assert virtually(main()) == 0.0


def test_a_job_in_a_thread_takes_no_virtual_time() -> None:
    async def main() -> float:
        pool_would_poll = asyncio.create_task(asyncio.sleep(30))
        await asyncio.to_thread(time.sleep, 0.05)
        pool_would_poll.cancel()
        return now()

    assert virtually(main()) == 0.0


def test_a_job_in_an_executor_of_its_own_is_waited_for_too() -> None:
    async def main() -> tuple[str, float]:
        pool_would_poll = asyncio.create_task(asyncio.sleep(30))
        with ThreadPoolExecutor(1) as executor:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(executor, "{}-{}".format, "a", 1)
            await loop.run_in_executor(executor, time.sleep, 0.05)
        pool_would_poll.cancel()
        return result, now()

    assert virtually(main()) == ("a-1", 0.0)


def test_the_clock_jumps_again_when_the_job_is_done() -> None:
    async def main() -> float:
        await asyncio.to_thread(lambda: None)
        await asyncio.sleep(3600)
        return now()

    assert virtually(main()) == 3600.0


def test_a_stuck_job_does_not_stop_the_clock_for_ever() -> None:
    async def main() -> float:
        stuck = threading.Event()
        job = asyncio.create_task(asyncio.to_thread(stuck.wait))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.shield(job)
        stuck.set()
        await job
        return now()

    assert virtually(main()) == 0.05


def test_a_job_without_any_timer_is_waited_for_however_long_it_takes() -> None:
    async def main() -> float:
        await asyncio.to_thread(time.sleep, 0.05)
        return now()

    assert virtually(main()) == 0.0


def test_an_abandoned_job_no_longer_holds_the_clock() -> None:
    async def main() -> float:
        stuck = threading.Event()
        job = asyncio.ensure_future(asyncio.to_thread(stuck.wait))
        await asyncio.sleep(0)
        job.cancel()
        await asyncio.wait({job})
        await asyncio.sleep(3600)
        stuck.set()
        return now()

    assert virtually(main()) == 3600.0


def test_paused_waits_for_a_thread_that_the_loop_did_not_start() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        rung = asyncio.Event()
        begun = threading.Event()

        def ring() -> None:
            begun.wait()
            time.sleep(0.05)
            loop.call_soon_threadsafe(rung.set)

        thread = threading.Thread(target=ring)
        thread.start()
        with loop.paused():
            begun.set()
            await rung.wait()
        thread.join()
        await asyncio.sleep(60)
        return loop.time()

    began = time.monotonic()
    assert virtually(main()) == 60.0
    assert time.monotonic() - began < 30


def test_a_call_from_a_thread_that_has_already_arrived_comes_before_a_jump() -> None:
    async def main() -> float:
        rung = asyncio.Event()
        called_at: list[float] = []
        loop = asyncio.get_running_loop()

        def ring() -> None:
            called_at.append(loop.time())
            rung.set()

        thread = threading.Thread(target=loop.call_soon_threadsafe, args=[ring])
        thread.start()
        thread.join()
        async with asyncio.timeout(5):
            await rung.wait()
        return called_at[0]

    assert virtually(main()) == 0.0


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such signals")
def test_a_signal_that_has_already_arrived_is_handled_before_a_jump() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        handled_at = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, lambda: handled_at.set_result(loop.time()))
        os.kill(os.getpid(), signal.SIGUSR1)
        async with asyncio.timeout(5):
            return float(await handled_at)

    assert virtually(main()) == 0.0


def test_the_threads_of_the_default_executor_are_joined_without_a_warning() -> None:
    async def main() -> None:
        # Still at work when the loop shuts its executor down, with a timeout of five minutes.
        job = asyncio.create_task(asyncio.to_thread(time.sleep, 0.1))
        await asyncio.sleep(0)
        job.cancel()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        virtually(main())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]


def test_a_deadlock_raises_and_names_who_waits_where() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match=r"waits_for_ever, .*test_virtual_time\.py:\d+"):
        virtually(waits_for_ever())


def test_a_deadlock_without_tasks_says_so() -> None:
    loop = VirtualTimeLoop()
    try:
        with pytest.raises(DeadlockError, match="no task at all"):
            loop.run_forever()
    finally:
        loop.close()


def test_after_a_deadlock_the_loop_can_be_closed_and_the_tasks_clean_up() -> None:
    cleaned: list[str] = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            cleaned.append("up")

    with pytest.raises(DeadlockError):
        virtually(main())
    assert cleaned == ["up"]


def test_a_poll_for_ever_beside_a_task_that_waits_for_ever_ends_at_the_horizon() -> None:
    async def poll() -> None:
        for _ in itertools.count():
            await asyncio.sleep(30)

    async def main() -> None:
        polling = asyncio.create_task(poll(), name="polling")
        await asyncio.Event().wait()
        polling.cancel()

    with (
        asyncio.Runner(loop_factory=functools.partial(VirtualTimeLoop, horizon=3600)) as runner,
        pytest.raises(DeadlockError, match=r"horizon of 3600 s(.|\n)*polling"),
    ):
        runner.run(main())


async def open_datagrams() -> None:
    await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    await asyncio.Event().wait()


async def open_server() -> None:
    async with await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0) as server:
        await server.serve_forever()


async def watch_descriptor() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        asyncio.get_running_loop().add_reader(ours, lambda: None)
        try:
            await asyncio.sleep(1)
        finally:
            asyncio.get_running_loop().remove_reader(ours)


# The transports that are refused warn of themselves when they are collected.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("wrong", [open_datagrams, open_server, watch_descriptor])
def test_a_socket_is_refused_at_once_instead_of_racing_the_clock(wrong: Any) -> None:
    loop = VirtualTimeLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        with pytest.raises(RuntimeError, match="run this test on a normal event loop"):
            runner.run(wrong())
        assert loop.time() == 0.0
    gc.collect()


def test_a_runner_goes_on_with_the_same_clock() -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(sleeps(10)) == [0.0, 10.0]
        assert runner.run(sleeps(10)) == [10.0, 20.0]


def test_debug_mode_sees_no_slow_callbacks(caplog: pytest.LogCaptureFixture) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop, debug=True) as runner:
        runner.run(sleeps(3600))
    assert "took" not in caplog.text
