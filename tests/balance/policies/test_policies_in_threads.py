from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from policy_cases import candidates

from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.policies import LeastRequest, Maglev, PeakEwma, Random, RoundRobin
from backendpool_async.balance.policy import Policy

THREADS = 8
TIMES = 3000


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 1, 2)])
@pytest.mark.parametrize("make", [RoundRobin, Random, LeastRequest, PeakEwma, Maglev])
def test_eight_threads_choose_at_once(make: type[Policy], weights: tuple[int, ...]) -> None:
    crowd = candidates(*weights)
    policy = make()
    chooser = [policy.prepare(crowd)]
    got: list[Counter[Candidate]] = []

    def work() -> None:
        mine: Counter[Candidate] = Counter()
        for number in range(TIMES):
            chosen = chooser[0](f"user-{number}")
            chosen._leases.append(None)
            mine[chosen] += 1
            chosen._leases.pop()
            if isinstance(policy, PeakEwma):
                policy.observe(chosen, 0.001, time.monotonic())
        got.append(mine)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        chooser[0] = policy.prepare(crowd)
        time.sleep(0.005)
    assert sum(each.total() for each in got) == THREADS * TIMES
    assert set().union(*got) <= set(crowd)
    assert not any(each.in_flight for each in crowd)


def test_round_robin_gives_no_turn_twice_and_none_away() -> None:
    crowd = candidates(3, 1, 2)
    choose = RoundRobin().prepare(crowd)
    got: list[Candidate] = []

    def work() -> None:
        got.extend([choose(None) for _ in range(6000)])

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(got) == {each: each.weight * THREADS * 1000 for each in crowd}


def test_no_spike_is_lost_between_threads() -> None:
    (one,) = candidates(1)
    policy = PeakEwma()

    def work(slowest: float) -> None:
        for number in range(2000):
            policy.observe(one, slowest if number == 1000 else 0.001, 5.0)

    threads = [threading.Thread(target=work, args=(n + 1.0,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert policy.load(one, 5.0) == pytest.approx(THREADS)
