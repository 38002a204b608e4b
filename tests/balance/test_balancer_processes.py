"""The balancer in a forked child, and under many threads at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from backendpool_async import (
    Backend,
    BackendPool,
    Balancer,
    LeastRequest,
    Maglev,
    OutlierEjection,
    Policy,
    RoundRobin,
)

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


LEASING = """
import os, threading, warnings
from collections import Counter
from backendpool_async import BackendPool, Balancer, LeastRequest

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of any fork beside threads
A, B = "10.0.0.1:80", "10.0.0.2:80"
balancer = Balancer(BackendPool.static([A, B]), LeastRequest())
together, end = threading.Barrier(4), threading.Event()

def work():
    with balancer.lease(exclude=[B]):
        together.wait()
        end.wait()

threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
together.wait()

def in_flight():
    return [each.in_flight for each in balancer.explain().backends]

with balancer.lease(exclude=[A]):
    child = os.fork()
    if child == 0:
        assert in_flight() == [0, 0], in_flight()
        counts = Counter()
        for _ in range(200):
            with balancer.lease() as one, balancer.lease() as other:
                counts[one.backend] += 1
                counts[other.backend] += 1
        assert counts == {A: 200, B: 200}, counts
if child == 0:
    # What it held itself ended here, too, and took nothing from what was counted since.
    assert in_flight() == [0, 0], in_flight()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert in_flight() == [3, 0]
end.set()
for thread in threads:
    thread.join()
print(in_flight())
"""


def test_a_child_has_none_of_the_leases_of_its_parents_threads() -> None:
    assert printed_by(LEASING) == "[0, 0]\n"


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


SHORT = [[f"10.0.0.{n}:80" for n in numbers] for numbers in ((1, 2, 3), (1, 2), (2, 3, 4), (1,))]
LONG = [[f"10.{part}.{n // 250}.{n % 250}:80" for n in range(500)] for part in (1, 2)]
TURNS_A_SWAP = 10


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize(
    ("policy", "lists", "swaps"),
    [
        (RoundRobin(), SHORT, 12),
        (RoundRobin(), LONG, 12),
        (LeastRequest(), SHORT, 12),
        (LeastRequest(), LONG, 12),
        (Maglev(1_009), SHORT, 8),
        (Maglev(), LONG, 1),
    ],
)
def test_eight_threads_choose_and_lease_while_lists_swap_and_checks_come_in(
    policy: Policy, lists: list[list[str]], swaps: int
) -> None:
    pool = BackendPool.static(lists[0])
    balancer = Balancer(pool, policy)
    every = {each for entries in lists for each in entries}
    turns, failures, seen = [0] * 8, list[BaseException](), set[str]()
    stop = threading.Event()

    def work(number: int) -> None:
        try:
            while not stop.is_set():
                key = f"user-{turns[number]}" if number % 2 else None
                backend = balancer.pick(key)
                with balancer.lease(key) as one, balancer.lease(exclude=["10.9.9.9:80"]) as other:
                    assert {backend, one.backend, other.backend} <= every
                seen.add(backend)
                turns[number] += 1
        except BaseException as error:  # noqa: BLE001 - a thread's failure is told to the test
            failures.append(error)

    def is_in_use(entries: list[str], before: list[int]) -> bool:
        # Everybody has chosen some times, and somebody from the new list.
        chosen_since = (now - then for now, then in zip(turns, before, strict=True))
        return min(chosen_since) >= TURNS_A_SWAP and not seen.isdisjoint(entries)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    candidate_of = balancer._builder._registry.get_or_create
    for swap in range(1, swaps + 1):
        entries, before, deadline = lists[swap % len(lists)], list(turns), time.monotonic() + 20
        seen.clear()
        pool.update(entries)
        while not failures and not is_in_use(entries, before) and time.monotonic() < deadline:
            # As the results of health checks have it: of one that has just left, and a verdict.
            candidate_of(Backend(f"10.8.{swap}.{turns[0] % 250}:80"))
            candidate_of(Backend(entries[0])).is_healthy = bool(turns[1] % 2)
            balancer._builder.invalidate()
            time.sleep(0.001)
        assert failures or is_in_use(entries, before)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    pool.update(sorted(every))
    balancer._builder.join()
    balancer._builder.rebuild_if_stale()
    states = balancer.explain().backends
    assert all(each.in_flight == 0 for each in states)
    assert sum(each.picks for each in states) == sum(turns) * 2


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
