"""The balancer in a forked child, and under many threads at once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from backendpool_async import BackendPool, Balancer, LeastRequest, OutlierEjection

BACKENDS = [f"10.0.0.{n}:80" for n in range(1, 5)]


def printed_by(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# In a process of its own: the tracer of coverage has locks that a fork may copy locked.
FOLLOWING = """
import os, sys
from backendpool_async import BackendPool, Balancer, NoBackends, OutlierEjection

A, B, C = (f"10.0.0.{n}:80" for n in range(1, 4))
pool = BackendPool.static([A, B])
balancer = Balancer(pool, ejection=OutlierEjection(consecutive_failures=2))

def chosen():
    return sorted({balancer.pick() for _ in range(20)})

def break_off(address, times):
    others = {each for each in pool.backends() if each != address}
    for _ in range(times):
        with balancer.lease(exclude=others) as lease:
            lease.failed("503")

def in_the_child(depth):
    print(*chosen())
    if depth:
        break_off(B, 2)
        print(*chosen())
    pool.update([C])
    print(*chosen())
    pool.update([])
    try:
        balancer.pick()
    except NoBackends:
        print("none")
    pool.update([A, B])
    if depth:
        fork(depth - 1)
    print(*chosen())

def fork(depth):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            in_the_child(depth)
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

with balancer.lease(exclude=[B]):
    LEASED
    fork(1)
print(*chosen())
print(*(f"{each.requests}/{each.failures}" for each in balancer.explain().backends))
"""


def test_a_child_and_its_child_follow_their_own_updates_and_not_those_of_each_other() -> None:
    a, b, c = BACKENDS[:3]
    first = [f"{a} {b}", a, c, "none"]
    # B stays ejected in the child, and in what the child's child knows from it.
    second = [a, c, "none", a]
    lines = [*first, *second, a, f"{a} {b}", "1/0 0/0"]
    assert printed_by(FOLLOWING.replace("LEASED", "pass")).splitlines() == lines


def test_a_child_follows_a_list_that_differed_already_when_it_was_forked() -> None:
    program = FOLLOWING.replace("LEASED", "pool.update([B, A])")
    assert printed_by(program).splitlines()[0] == " ".join(BACKENDS[:2])


# Two threads lease and fail, one pushes, while children are made: a lock of the balancer that
# another thread holds at the moment of the fork would be held for ever in the child.
FORKING = """
import os, signal, threading, warnings
from backendpool_async import BackendPool, Balancer, OutlierEjection

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of any fork beside threads
lists = [[f"10.0.0.{n}:{k + 1}" for k in range(SIZE)] for n in range(2)]
pool = BackendPool.static(lists[0])
rules = OutlierEjection(consecutive_failures=1, base_ejection_time=0.001)
balancer = Balancer(pool, ejection=rules)
running = True

def work():
    while running:
        with balancer.lease() as lease:
            lease.failed("503")

def push():
    while running:
        pool.update(lists[1])
        pool.update(lists[0])

import logging
logging.getLogger("backendpool_async").setLevel("CRITICAL")
threads = [threading.Thread(target=each) for each in (work, work, push)]
for thread in threads:
    thread.start()
codes = set()
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        pool.update(["10.9.9.9:80"])
        # A long list is gone through in a thread of the child's own.
        while balancer.pick() != "10.9.9.9:80":
            pass
        with balancer.lease() as lease:
            lease.failed("503")
        os._exit(0 if lease.backend == "10.9.9.9:80" else 1)
    codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
running = False
for thread in threads:
    thread.join()
print(codes)
"""


def test_a_child_does_not_wait_for_a_lock_that_a_thread_of_its_parent_held() -> None:
    assert printed_by(FORKING.replace("SIZE", "3")) == "{0}\n"


def test_a_child_does_not_wait_for_a_thread_of_its_parent_that_was_building() -> None:
    assert printed_by(FORKING.replace("SIZE", "1000")) == "{0}\n"


def test_eight_threads_of_leases_that_fail_leave_nothing_in_flight_and_no_count_behind() -> None:
    pool = BackendPool.static(BACKENDS)
    balancer = Balancer(pool, LeastRequest(), ejection=None)
    each_thread, ends = 2_000, [None, ConnectionResetError(), ValueError(), KeyboardInterrupt()]
    together = threading.Barrier(8)

    def work(number: int) -> Counter[tuple[str, type]]:
        ended: Counter[tuple[str, type]] = Counter()
        together.wait()
        for turn in range(each_thread):
            error = ends[(turn + number) % len(ends)]
            try:
                with balancer.lease() as outer, balancer.lease(exclude=[outer.backend]) as inner:
                    ended[inner.backend, type(error)] += 1
                    ended[outer.backend, type(error)] += 1
                    if error is not None:
                        raise error
            except (ConnectionResetError, ValueError, KeyboardInterrupt):
                continue
        return ended

    with ThreadPoolExecutor(8) as threads:
        ended = sum(threads.map(work, range(8)), Counter())
    assert ended.total() == 8 * each_thread * 2
    for each in balancer.explain().backends:
        failures = ended[each.backend, ConnectionResetError]
        assert each.in_flight == 0
        assert (each.failures, each.requests) == (
            failures,
            failures + ended[each.backend, type(None)],
        )


def test_eight_threads_that_fail_at_once_never_eject_more_than_half_together() -> None:
    for _ in range(30):
        pool = BackendPool.static(BACKENDS)
        balancer = Balancer(pool, ejection=OutlierEjection(consecutive_failures=1))
        together = threading.Barrier(8)

        def work(
            number: int, balancer: Balancer = balancer, wait: threading.Barrier = together
        ) -> None:
            others = {each for each in BACKENDS if each != BACKENDS[number % 4]}
            with balancer.lease(exclude=others) as lease:
                wait.wait()
                lease.failed("503")

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        states = Counter(each.state for each in balancer.explain().backends)
        assert states == {"ejected": 2, "available": 2}
