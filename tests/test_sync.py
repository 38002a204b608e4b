"""The blocking pool: the same list for code without an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from backendpool_async import Backend, InvalidBackend, PoolClosed, SourceError, SourceTimeout
from backendpool_async.portal import SHARED
from backendpool_async.sync import BackendPool

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"


class Counting:
    """A source whose answer is the number of times it was asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.asked = threading.Event()
        self.hangs = False

    async def fetch(self) -> list[str]:
        self.calls += 1
        self.asked.set()
        if self.hangs:
            await asyncio.Event().wait()
        return [f"10.0.0.{self.calls}:80"]


class Gate:
    """Holds whoever passes on an event loop until another thread opens it."""

    def __init__(self) -> None:
        self._reached = threading.Event()

    async def passed(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._opened = asyncio.Event()
        self._reached.set()
        while not self._opened.is_set():
            # Deaf to cancellation, as a source should not be.
            with contextlib.suppress(asyncio.CancelledError):
                await self._opened.wait()

    def await_somebody(self) -> None:
        assert self._reached.wait(10)

    def open(self) -> None:
        self.await_somebody()
        self._loop.call_soon_threadsafe(self._opened.set)


class AnnouncedLock:
    """A lock that says so when somebody has to wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.awaited = threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.awaited.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def background_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "backendpool"]


async def failing() -> list[str]:
    raise OSError("no route")


def test_reading_and_pushing_start_no_thread() -> None:
    before = threading.active_count()
    pool = BackendPool.static([A, B])
    pool.update([B])
    with pool:
        assert pool.backends() == (Backend(B),)
        assert pool.snapshot.generation == 1
        assert pool.refresh().backends == (B,)
        assert threading.active_count() == before


def test_refresh_is_one_blocking_fetch_on_the_calling_thread() -> None:
    source = Counting()
    pool = BackendPool(source)
    assert pool.refresh().backends == ("10.0.0.1:80",)
    assert pool.refresh().generation == 2
    assert source.calls == 2
    assert not background_threads()


def test_refreshes_of_many_threads_do_not_disturb_each_other() -> None:
    pool = BackendPool(Counting())
    with ThreadPoolExecutor(8) as threads:
        snapshots = list(threads.map(lambda _: pool.refresh(), range(40)))
    assert len({snapshot.generation for snapshot in snapshots}) > 1
    assert pool.snapshot.generation == 40


def test_with_keeps_the_list_fresh_and_leaves_no_thread() -> None:
    source = Counting()
    with BackendPool(source, poll_interval=0.01) as pool:
        for snapshot in pool.watch():
            if snapshot.generation >= 3:
                break
        assert pool.refresh().generation > 3
    assert not background_threads()
    assert pool.backends()


def test_all_pools_of_a_process_share_one_thread() -> None:
    before = threading.active_count()
    with BackendPool(Counting()) as one, BackendPool(Counting()) as other:
        assert threading.active_count() == before + 1
        assert one.backends() == other.backends() == ("10.0.0.1:80",)


def test_a_start_that_fails_raises_and_leaves_nothing_running() -> None:
    pool = BackendPool(failing)
    with pytest.raises(SourceError, match="no route"):
        pool.start()
    assert not background_threads()
    pool.start(required=False)
    assert isinstance(pool.snapshot.error, SourceError)
    pool.start()
    pool.close()
    pool.close()


def test_a_closed_pool_can_be_started_again() -> None:
    pool = BackendPool(Counting(), poll_interval=0.01)
    for _ in range(3):
        with pool:
            generation = pool.snapshot.generation
            assert generation >= 1
    assert pool.snapshot.generation >= 3


def test_wait_ready_returns_when_another_thread_has_pushed_enough() -> None:
    pool = BackendPool.static([A])
    pusher = threading.Timer(0.01, pool.update, [[A, B]])
    pusher.start()
    assert pool.wait_ready(timeout=10, min_backends=2).backends == (A, B)
    pusher.join()


def test_wait_ready_times_out_with_the_reason() -> None:
    pool = BackendPool(failing)
    with pytest.raises(SourceError):
        pool.refresh()
    with pytest.raises(TimeoutError, match=r"0 of 1 backends after 0.01 s.*no route"):
        pool.wait_ready(timeout=0.01)


def in_thread_until_waiting(pool: BackendPool, call: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    while not pool._pool._wakers:
        thread.join(0.001)
    return thread


def test_closing_ends_what_other_threads_wait_for() -> None:
    pool = BackendPool.static([A])
    outcomes: list[object] = []

    def wait() -> None:
        with pytest.raises(PoolClosed) as caught:
            pool.wait_ready(min_backends=2)
        outcomes.append(caught.type)

    def watch() -> None:
        outcomes.append([snapshot.backends for snapshot in pool.watch()])

    for call in (wait, watch):
        thread = in_thread_until_waiting(pool, call)
        pool.close()
        thread.join()
        pool.start()
    assert outcomes == [PoolClosed, [(A,)]]


@pytest.mark.parametrize("method", ["start", "refresh"])
def test_closing_ends_a_pending_call_of_another_thread(method: str) -> None:
    source = Counting()
    source.hangs = True
    pool = BackendPool(source, timeout=60)
    errors: list[type[BaseException]] = []

    def call() -> None:
        with pytest.raises(PoolClosed) as caught:
            getattr(pool, method)()
        errors.append(caught.type)

    thread = threading.Thread(target=call)
    thread.start()
    source.asked.wait()
    pool.close()
    thread.join()
    assert errors == [PoolClosed]


def test_a_start_that_fails_leaves_its_thread_to_a_refresh_that_waits_on_another() -> None:
    class Source:
        def __init__(self) -> None:
            self.calls = 0
            self.fetching, self.closing = Gate(), Gate()

        async def fetch(self) -> list[str]:
            self.calls += 1
            if self.calls == 1:
                raise OSError("no route")
            await self.fetching.passed()
            return [A]

        async def aclose(self) -> None:
            if self.calls == 1:
                await self.closing.passed()

    source = Source()
    pool = BackendPool(source)
    with ThreadPoolExecutor(2) as threads:
        starting = threads.submit(pool.start)
        source.closing.await_somebody()
        refreshing = threads.submit(pool.refresh)
        source.fetching.await_somebody()
        source.closing.open()
        assert isinstance(starting.exception(), SourceError)
        source.fetching.open()
        assert refreshing.result().backends == (A,)
    assert not background_threads()


@pytest.mark.parametrize("method", ["start", "refresh", "close"])
def test_a_call_that_comes_during_a_close_of_another_thread_does_its_work(method: str) -> None:
    class Source:
        def __init__(self) -> None:
            self.calls = 0
            self.gate = Gate()

        async def fetch(self) -> list[str]:
            self.calls += 1
            if self.calls == 2:
                await self.gate.passed()
            return [f"10.0.0.{self.calls}:80"]

    source = Source()
    pool = BackendPool(source, timeout=60)
    pool.start()
    with ThreadPoolExecutor(3) as threads:
        held = threads.submit(pool.refresh)
        source.gate.await_somebody()
        closing = threads.submit(pool.close)
        assert isinstance(held.exception(), PoolClosed)
        called = threads.submit(getattr(pool, method))
        while pool._callers < 2:
            wait([called], 0.001)
        source.gate.open()
        closing.result()
        called.result()
    pool.close()
    assert pool.backends() == (A if method == "close" else C,)
    assert not background_threads()


@pytest.mark.parametrize("method", ["start", "refresh"])
def test_closing_ends_a_call_that_waits_for_the_fetch_of_another_thread(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Counting()
    source.hangs = True
    pool = BackendPool(source, timeout=60)
    turn = AnnouncedLock()
    monkeypatch.setattr(pool, "_fetching", turn)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.refresh)
        source.asked.wait()
        second = threads.submit(getattr(pool, method))
        turn.awaited.wait()
        pool.close()
        assert isinstance(first.exception(), PoolClosed)
        assert isinstance(second.exception(10), PoolClosed)
    assert source.calls == 1
    assert not background_threads()


async def test_a_method_that_blocks_raises_on_the_thread_of_a_running_loop() -> None:
    pool = BackendPool.static([A])
    for call in (pool.start, pool.refresh, pool.wait_ready, pool.close, pool.__enter__):
        with pytest.raises(RuntimeError, match=r"use backendpool_async\.BackendPool"):
            call()
    with pytest.raises(RuntimeError, match="would block"):
        next(pool.watch())
    assert pool.backends() == (A,)
    pool.update([B])
    assert pool.backends() == (B,)


def test_every_constructor_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "backends.txt"
    listed.write_text(f"{A}\n")
    monkeypatch.setenv("API_0", A)
    for pool in (
        BackendPool.static([A]),
        BackendPool.file(listed),
        BackendPool.env_prefix("API"),
        BackendPool.dns("10.0.0.1", 80),
        BackendPool.from_url(f"static:{A}"),
        BackendPool.from_url("env:API?poll_interval=5"),
    ):
        assert isinstance(pool, BackendPool)
        assert pool.refresh().backends == (A,)
    with pytest.raises(InvalidBackend):
        BackendPool.static(["nonsense"])


def test_copies_share_and_a_pickle_is_refused() -> None:
    pool = BackendPool.static([A])
    copies = (copy.copy(pool), copy.deepcopy(pool))
    pool.update([B])
    assert all(one.backends() == (B,) for one in copies)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(pool)
    assert repr(pool) == "sync <BackendPool static: 1 backend, generation 1>"


def test_a_pool_can_be_referred_to_weakly() -> None:
    pool = BackendPool.static([A])
    assert weakref.ref(pool)() is pool


def test_ctrl_c_during_a_start_leaves_nothing_running() -> None:
    source = Counting()
    source.hangs = True
    pool = BackendPool(source, timeout=60)

    def interrupt() -> None:
        source.asked.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        pool.start()
    thread.join()
    assert SHARED._portal is None


def test_a_thread_that_cannot_start_its_loop_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no descriptors left")

    monkeypatch.setattr("anyio.run", refuse)
    pool = BackendPool(Counting())
    with pytest.raises(OSError, match="no descriptors left"):
        pool.start()


def test_a_child_reads_on_and_can_start_its_own(tmp_path: Path) -> None:
    report = tmp_path / "report"
    with BackendPool(Counting(), poll_interval=60) as pool:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                inherited = pool.backends() == ("10.0.0.1:80",)
                refreshed = pool.refresh().backends == ("10.0.0.2:80",)
                with pool:
                    started = pool.backends() == ("10.0.0.3:80",)
                report.write_text(f"{inherited} {refreshed} {started}")
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert report.read_text() == "True True True"
        assert pool.backends() == ("10.0.0.1:80",)


def test_a_source_that_swallows_cancellation_holds_up_no_refresh() -> None:
    async def stubborn() -> list[str]:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    pool = BackendPool(stubborn, timeout=0.05)
    with pytest.raises(SourceTimeout):
        pool.refresh()


SCRIPTS = {
    "never closed": "pool.start(); print(*pool.backends())",
    "closed": "pool.start(); print(*pool.backends()); pool.close()",
    "only refreshed": "print(*pool.refresh().backends)",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_an_interpreter_ends_promptly_and_without_a_word(script: str) -> None:
    program = (
        "from backendpool_async.sync import BackendPool\n"
        "pool = BackendPool.dns('127.0.0.1', 80, poll_interval=1)\n" + script
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "127.0.0.1:80\n", "")
