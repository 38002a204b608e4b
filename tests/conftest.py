"""What every test is held to: no warning, no blocking call on a loop, nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from blockbuster import blockbuster_ctx

pytest_plugins = ["backendpool_async.testing.pytest_plugin"]

_PROMPT = 5.0


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail the test that leaves a thread or a file descriptor."""
    threads, descriptors = _threads(), _descriptors()
    yield
    # c-ares closes a channel in a thread of its own: promptly, but not before we look.
    deadline = time.monotonic() + _PROMPT
    while (_threads() - threads or _descriptors() > descriptors) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.001)
    assert not _threads() - threads, "threads were left behind"
    assert _descriptors() <= descriptors, "file descriptors were left behind"


@pytest_asyncio.fixture(autouse=True)
async def no_task_left_behind(nothing_left_behind: None) -> AsyncIterator[None]:
    """Fail the test that leaves a task on its loop."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks were left behind: {left}"


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[None]:
    """Fail the call that blocks a running event loop from inside the package."""
    with blockbuster_ctx("backendpool_async") as blockbuster:
        # Importing reads files; what a test imports first, it imports on its loop.
        for function in blockbuster.functions.values():
            function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
            # The tracer of coverage shares its data between threads.
            function.can_block_in("coverage/collector.py", "lock_data")
        yield


def _threads() -> set[threading.Thread]:
    # pycares keeps one daemon thread for the process, which destroys channels.
    return {
        thread for thread in threading.enumerate() if "_run_safe_shutdown_loop" not in thread.name
    }


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
