"""DNS pools at the end of an event loop, of the interpreter, and beyond a fork."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest
from servers import Run, run_script, silent_nameserver

from backendpool_async.testing.dns_server import FakeDnsServer

QUIET = Run(0, "done\n", "")

# Imported first: an import inside a running loop has failed under -X dev.
BEGINNING = """
import asyncio, gc, os, socket, sys, time, warnings
from backendpool_async import BackendPool
from backendpool_async.sources import resolver_hub

resolver_hub._QUERY_TIMEOUT = 0.05  # what is late is late soon
pool = BackendPool.dns("api.test", 80, nameservers=sys.argv[1:], min_ttl=0.05)

def busy(pool):
    async def wait():
        while pool._flight is None:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)  # the query is on its way
    return wait()
"""


@pytest.fixture
async def server() -> AsyncIterator[FakeDnsServer]:
    async with FakeDnsServer() as server:
        server.answer("api.test", "10.0.0.1", ttl=0)
        yield server


async def run(script: str, nameserver: str) -> Run:
    return await asyncio.to_thread(run_script, BEGINNING + script, nameserver)


async def test_the_interpreter_ends_quietly_with_an_open_pool(server: FakeDnsServer) -> None:
    script = """
async def main():
    await pool.start()
    assert pool.backends() == ("10.0.0.1:80",)

asyncio.run(main())
print("done")
"""
    assert await run(script, server.address) == QUIET


async def test_a_loop_that_is_closed_under_an_idle_pool_is_quiet(server: FakeDnsServer) -> None:
    script = """
loop = asyncio.new_event_loop()
loop.run_until_complete(pool.start())
loop.close()
print("done")
"""
    assert await run(script, server.address) == QUIET


PENDING = """
pool = BackendPool.dns(
    "api.test", 80, nameservers=sys.argv[1:], family="any", timeout=0.3, poll_interval=0.1,
    initial=["10.0.0.9:80"],
)
loop = asyncio.new_event_loop()
loop.run_until_complete(pool.start())
loop.run_until_complete(busy(pool))
loop.close()
"""


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("", id="at-once"),
        pytest.param("time.sleep(0.7)\n", id="after-c-ares-gave-up"),
        pytest.param("del pool, loop\ngc.collect()\ntime.sleep(0.7)\n", id="collected"),
        pytest.param("asyncio.run(pool.start())\ntime.sleep(0.7)\n", id="started-again"),
        pytest.param("asyncio.run(pool.aclose())\n", id="closed-after-all"),
    ],
)
async def test_a_loop_that_is_closed_under_a_pending_query_is_quiet(end: str) -> None:
    with silent_nameserver() as nameserver:
        assert await run(f"{PENDING}{end}print('done')", nameserver) == QUIET


async def test_an_answer_after_the_end_of_the_loop_is_dropped_without_a_word(
    server: FakeDnsServer,
) -> None:
    # The server's answers wait in its socket while it is asked, until the loop is closed.
    script = """
async def main():
    loop = asyncio.get_running_loop()
    await pool.start()
    await busy(pool)

for _ in range(30):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
time.sleep(0.2)
print("done")
"""
    assert await run(script, server.address) == QUIET


async def test_an_abandoned_run_of_the_loop_with_a_pending_query_ends_quietly() -> None:
    script = """
async def main():
    await pool.start()

try:
    asyncio.run(asyncio.wait_for(main(), 0.1))
except TimeoutError:
    print("done")
"""
    with silent_nameserver() as nameserver:
        assert await run(script, nameserver) == QUIET


HUNG = """
def hang(*_):
    time.sleep({seconds})
    return [(socket.AF_INET, 1, 6, "", ("10.0.0.1", 0))]

socket.getaddrinfo = hang
pool = BackendPool.dns(
    "api.test", 80, resolver="system", timeout=0.05, initial=["10.0.0.9:80"]
)
loop = asyncio.new_event_loop()
loop.run_until_complete(pool.start())
"""


async def test_a_hung_resolver_of_the_system_does_not_hold_up_the_interpreters_end() -> None:
    begun = time.monotonic()
    script = HUNG.format(seconds=600) + "loop.close()\nprint('done')"
    assert await run(script, "127.0.0.1") == QUIET
    assert time.monotonic() - begun < 10


async def test_what_the_system_says_after_the_end_of_the_loop_is_dropped_without_a_word() -> None:
    script = HUNG.format(seconds=0.3) + "loop.close()\ntime.sleep(0.5)\nprint('done')"
    assert await run(script, "127.0.0.1") == QUIET


FORK = """
def use():
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

def in_child(function):
    # The child ends as any interpreter does: that must not hang either.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork and threads
        child = os.fork()
    if child == 0:
        function()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"

async def serve(times):
    for _ in range(times):
        async with BackendPool.dns("api.test", 80, nameservers=sys.argv[1:]) as own:
            assert own.backends() == ("10.0.0.1:80",)
"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@forks
async def test_a_forked_child_looks_up_by_itself_and_gathers_neither_threads_nor_descriptors(
    server: FakeDnsServer,
) -> None:
    script = """
def child():
    asyncio.run(serve(1))
    time.sleep(0.1)
    before = use()
    asyncio.run(serve(40))
    deadline = time.monotonic() + 10
    while use() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert use() <= before, (before, use())

asyncio.run(serve(1))
in_child(child)
asyncio.run(serve(1))
print("done")
"""
    assert await run(FORK + script, server.address) == QUIET


@forks
async def test_a_forked_child_is_not_held_up_by_a_resolver_of_its_parents_that_it_drops(
    server: FakeDnsServer,
) -> None:
    script = """
loop = asyncio.new_event_loop()
loop.run_until_complete(pool.start())

def child():
    global pool, loop
    loop.close()
    del pool, loop
    gc.collect()
    asyncio.run(serve(1))
    time.sleep(0.1)
    before = use()
    asyncio.run(serve(40))
    deadline = time.monotonic() + 10
    while use() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert use() <= before, (before, use())

in_child(child)
loop.run_until_complete(pool.aclose())
loop.close()
print("done")
"""
    assert await run(FORK + script, server.address) == QUIET


@forks
async def test_a_forked_child_reads_on_and_starts_the_inherited_pool_at_once(
    server: FakeDnsServer,
) -> None:
    script = """
loop = asyncio.new_event_loop()
loop.run_until_complete(pool.start())

async def again():
    begun = time.monotonic()
    await pool.start()
    # The resolver of the parent, taken for its own, would not answer before the timeout.
    assert time.monotonic() - begun < 2 and pool.snapshot.error is None
    await pool.aclose()

def on_a_loop_of_its_own():
    assert pool.backends() == ("10.0.0.1:80",)
    asyncio.run(again())

def on_the_inherited_loop():
    loop.run_until_complete(again())
    loop.close()

in_child(on_a_loop_of_its_own)
loop.run_until_complete(pool.refresh())
# Last: what a child does to an inherited loop, its parent's epoll instance has done to it too.
in_child(on_the_inherited_loop)
loop.run_until_complete(pool.aclose())
loop.close()
print("done")
"""
    assert await run(FORK + script, server.address) == QUIET


@forks
async def test_a_fork_in_the_middle_of_a_lookup_harms_neither_side() -> None:
    script = """
pool = BackendPool.dns(
    "api.test", 80, nameservers=sys.argv[1:], timeout=0.3, poll_interval=0.1,
    initial=["10.0.0.9:80"],
)
loop = asyncio.new_event_loop()
loop.run_until_complete(pool.start())
loop.run_until_complete(busy(pool))

def child():
    asyncio.run(pool.start())
    gc.collect()

in_child(child)
loop.run_until_complete(pool.aclose())
loop.close()
print("done")
"""
    with silent_nameserver() as nameserver:
        assert await run(FORK + script, nameserver) == QUIET


@forks
async def test_a_fork_while_the_systems_resolver_hangs_leaves_the_child_its_own(
    server: FakeDnsServer,
) -> None:
    script = """
def hang(*_):
    time.sleep(1.5)
    return answer()

def answer(*_):
    return [(socket.AF_INET, 1, 6, "", ("10.0.0.1", 0))]

def some():
    return [
        BackendPool.dns(f"api{index}.test", 80, resolver="system", timeout=0.2)
        for index in range(6)
    ]

async def refreshed(pools):
    return await asyncio.gather(*(pool.refresh() for pool in pools), return_exceptions=True)

pools = some()
socket.getaddrinfo = hang
asyncio.run(refreshed(pools))

def child():
    socket.getaddrinfo = answer
    for snapshot in asyncio.run(refreshed(pools + some())):
        assert snapshot.backends == ("10.0.0.1:80",), snapshot

in_child(child)
print("done")
"""
    assert await run(FORK + script, server.address) == QUIET
