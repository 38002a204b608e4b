"""Readers in other threads, children of a fork, and the end of the interpreter."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from backendpool_async import BackendPool
from backendpool_async.testing import ScriptedSource

A, B = "10.0.0.1:80", "10.0.0.2:80"


# In a process of its own: traced for coverage, 80 million reads take minutes.
READING = """
import threading
from backendpool_async import BackendPool

# The list of generation n is three times port 1000 + n % 2, so a mixture of two shows at once.
lists = [[f"10.0.0.{host}:{1000 + n}" for host in range(1, 4)] for n in range(2)]
pool = BackendPool.static(lists[0])
faults = []
DIGIT = ("0", "1")
running = True

def read():
    latest = 0
    for _ in range(READS):
        snapshot = pool.snapshot
        if snapshot.generation < latest:
            faults.append("a generation went back")
        latest = snapshot.generation
        one, two, three = snapshot.backends
        if not one[-1] == two[-1] == three[-1] == DIGIT[latest % 2]:
            faults.append("a read was torn")

def swap():
    number = 0
    while running:
        number += 1
        pool.update(lists[number % 2])

readers = [threading.Thread(target=read) for _ in range(READERS)]
writer = threading.Thread(target=swap)
for thread in (writer, *readers):
    thread.start()
for thread in readers:
    thread.join()
running = False
writer.join()
print(len(faults), pool.snapshot.generation > 100)
"""


def test_no_read_is_torn_and_no_generation_goes_back_while_swaps_run() -> None:
    program = READING.replace("READERS", "8").replace("READS", "10_000_000")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("0 True\n", "")


def test_pushes_of_many_threads_each_move_the_generation_once() -> None:
    pool = BackendPool.static([])

    def push(thread: int) -> None:
        for number in range(500):
            pool.update([f"10.{thread}.{number >> 8}.{number & 255}:80"])

    threads = [threading.Thread(target=push, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.snapshot.generation == 8 * 500


@pytest.mark.parametrize("kind", ["coroutine", "env", "file", "watched file", "static"])
async def test_a_thousand_starts_and_closes_leave_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "backends.txt"
    listed.write_text(f"{A}\n")
    monkeypatch.setenv("CYCLE_0", A)
    pool = {
        "coroutine": lambda: BackendPool(ScriptedSource([A])),
        "env": lambda: BackendPool.env_prefix("CYCLE"),
        "file": lambda: BackendPool.file(listed),
        "watched file": lambda: BackendPool.file(listed, watch=True),
        "static": lambda: BackendPool.static([A]),
    }[kind]()
    for _ in range(1000):
        async with pool:
            assert pool.backends() == (A,)
    assert len(asyncio.all_tasks()) <= 2


def test_a_child_reads_on_and_can_start_its_own_refresh(tmp_path: Path) -> None:
    source = ScriptedSource([A], [B])
    pool = BackendPool(source)
    report = tmp_path / "report"

    async def in_the_child() -> None:
        async with pool:
            report.write_text(f"{inherited} {pool.backends() == (B,)}")

    async def in_the_parent() -> None:
        await pool.start()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(in_the_parent())
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork beside other threads; pycares may have started one.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            inherited = pool.backends() == (A,)
            asyncio.run(in_the_child())
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert report.read_text() == "True True"
    assert pool.backends() == (A,)
    loop.run_until_complete(pool.aclose())
    loop.close()


# In a process of its own: the tracer of coverage has locks that a fork may copy locked.
FORKING = """
import os, signal, threading, warnings
from backendpool_async import BackendPool

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of any fork beside threads
pool = BackendPool.static(["10.0.0.1:80"])
running = True

def push():
    while running:
        pool.update(["10.0.0.1:80"])
        pool.update(["10.0.0.2:80"])

thread = threading.Thread(target=push)
thread.start()
codes = set()
for _ in range(20):
    child = os.fork()
    if child == 0:
        # Hangs here when the lock was inherited locked; the alarm ends the child then.
        signal.alarm(10)
        pool.update(["10.0.0.3:80"])
        os._exit(0 if pool.backends() == ("10.0.0.3:80",) else 1)
    codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
running = False
thread.join()
print(codes)
"""


def test_a_fork_waits_until_no_thread_is_pushing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("{0}\n", "")


# Its parent's loop is looked at between two turns, so that a wake-up is still in its pipe.
WAKING = """
import asyncio, os, select, threading
from backendpool_async import BackendPool

pool = BackendPool.static(["10.0.0.1:80"])
pushed = ["10.0.0.1:80", "10.0.0.2:80"]
loop = asyncio.new_event_loop()
waiting = loop.create_task(pool.wait_ready(min_backends=2))
loop.run_until_complete(asyncio.sleep(0))

async def in_the_child():
    watch = pool.watch()
    await anext(watch)
    following = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    threading.Thread(target=pool.update, args=[pushed]).start()
    return await following

child = os.fork()
if child == 0:
    os._exit(0 if asyncio.run(in_the_child()).backends == tuple(pushed) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(select.select([loop._ssock], [], [], 0)[0], waiting.done())
pool.update(pushed)
print(*loop.run_until_complete(waiting).backends)
loop.close()
"""


def test_an_update_in_a_child_wakes_its_own_watchers_and_not_its_parents() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WAKING], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.stdout, done.stderr) == ("0\n[] False\n10.0.0.1:80 10.0.0.2:80\n", "")


PROGRAMS = {
    "a pool left open at the end of asyncio.run": """
async def main():
    pool = BackendPool(fetch, poll_interval=0.01)
    await pool.start()
    print(*pool.backends())
asyncio.run(main())
""",
    "a loop closed under a running pool": """
loop = asyncio.new_event_loop()
pool = BackendPool(fetch, poll_interval=0.01)
loop.run_until_complete(pool.start())
loop.close()
print(*pool.backends())
""",
    "a loop closed under a pending fetch": """
async def hang():
    await asyncio.sleep(60)
loop = asyncio.new_event_loop()
pool = BackendPool(hang, initial=["10.0.0.1:80"])
starting = loop.create_task(pool.start())
starting._log_destroy_pending = False
loop.run_until_complete(asyncio.sleep(0.01))
loop.close()
print(*pool.backends())
""",
    "a watched file left open": """
async def main():
    import pathlib, tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "backends.txt")
        path.write_text("10.0.0.1:80\\n")
        pool = BackendPool.file(path, watch=True)
        await pool.start()
        print(*pool.backends())
asyncio.run(main())
""",
    "a watched file under a loop that is closed": """
import pathlib, tempfile
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "backends.txt")
    path.write_text("10.0.0.1:80\\n")
    pool = BackendPool.file(path, watch=True)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(pool.start())
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()
    print(*pool.backends())
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_end_of_the_interpreter_is_silent(program: str) -> None:
    # -X dev makes asyncio warn of a slow machine; what it logs of our doing is an ERROR.
    prelude = (
        "import asyncio, logging\nlogging.getLogger('asyncio').setLevel('ERROR')\n"
        "from backendpool_async import BackendPool\n"
        "async def fetch():\n    return ['10.0.0.1:80']\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", prelude + program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "10.0.0.1:80\n", "")
