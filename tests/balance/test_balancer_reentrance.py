"""What a signal handler, or the garbage collector, does in the middle of something."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence

import pytest
from ticking import chosen

from backendpool_async import (
    Backend,
    BackendPool,
    Balancer,
    Candidate,
    Chooser,
    FailurePercentage,
    NoBackends,
    OutlierEjection,
    RoundRobin,
)
from backendpool_async.balance import ejection as ejection_module
from backendpool_async.balance.candidate_registry import CandidateRegistry

A, B, C, D = (f"10.0.0.{n}:80" for n in range(1, 5))

OnSignal = Callable[[Callable[[], object]], None]


@pytest.fixture
def on_signal() -> Iterator[OnSignal]:
    before = signal.getsignal(signal.SIGUSR1)

    def set_handler(handler: Callable[[], object]) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: handler())

    yield set_handler
    signal.signal(signal.SIGUSR1, before)


class Interrupted(RoundRobin):
    """A signal arrives while it prepares a list that begins with a certain backend."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self.first = first

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        if candidates[0].backend == self.first:
            signal.raise_signal(signal.SIGUSR1)
        return super().prepare(candidates)


def test_what_is_built_within_a_build_is_not_replaced_by_the_older_one(
    on_signal: OnSignal,
) -> None:
    pool = BackendPool.static([A])
    balancer = Balancer(pool, Interrupted(B))
    assert balancer.pick() == A
    picked: list[Backend] = []

    def push_and_pick() -> None:
        pool.update([Backend(C, weight=3), D])
        picked.append(balancer.pick())

    on_signal(push_and_pick)
    pool.update([B, Backend(C, weight=1)])
    assert balancer.pick() in {C, D}
    assert picked[0] in {C, D}
    assert chosen(balancer) == {C, D}
    listed = balancer._view.listed
    assert [(each.backend.weight, each.is_listed) for each in listed] == [(3, True), (1, True)]


def test_what_a_build_overwrote_of_a_newer_one_is_put_right(on_signal: OnSignal) -> None:
    pool = BackendPool.static([A])
    arrives: list[int] = []

    def clock() -> float:
        if arrives:
            arrives.clear()
            signal.raise_signal(signal.SIGUSR1)
        return 0.0

    balancer = Balancer(pool, clock=clock)
    balancer.pick()

    def push_and_pick() -> None:
        pool.update([Backend(C, weight=3), D])
        balancer.pick()

    on_signal(push_and_pick)
    pool.update([B, Backend(C, weight=1)])
    # After the list was read, and before who is in it is noted.
    arrives.append(1)
    balancer._builder.rebuild_if_stale()
    assert chosen(balancer) == {C, D}
    listed = balancer._view.listed
    assert [(each.backend.weight, each.is_listed) for each in listed] == [(3, True), (1, True)]


def test_what_fails_while_it_is_counted_who_is_out_counts_too(
    on_signal: OnSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = OutlierEjection(consecutive_failures=1)
    balancer = Balancer(BackendPool.static([A, B, C, D]), ejection=rules)
    with balancer.lease(exclude=[B, C, D]) as lease:
        lease.failed("503")
    one = balancer.lease(exclude=[A, B, D]).acquire()
    other = balancer.lease(exclude=[A, B, C]).acquire()
    for lease in (one, other):
        lease.failed("503")
    on_signal(other.release)
    is_ejected = ejection_module.is_ejected

    def interrupted(candidate: Candidate, now: float) -> bool:
        found = is_ejected(candidate, now)
        if candidate.backend == A:
            monkeypatch.setattr(ejection_module, "is_ejected", is_ejected)
            signal.raise_signal(signal.SIGUSR1)
        return found

    monkeypatch.setattr(ejection_module, "is_ejected", interrupted)
    one.release()
    states = [each.state for each in balancer.explain().backends]
    assert states == ["ejected", "available", "available", "ejected"]


def test_an_error_within_a_build_is_not_hidden_by_it(on_signal: OnSignal) -> None:
    pool = BackendPool.static([A])
    policy = Interrupted(B)
    balancer = Balancer(pool, policy)
    balancer.pick()
    refused: list[str] = []

    def empty_and_pick() -> None:
        pool.update([])
        with pytest.raises(NoBackends):
            balancer.pick()
        refused.append("none")

    on_signal(empty_and_pick)
    pool.update([B])
    with pytest.raises(NoBackends):
        balancer.pick()
    assert refused == ["none"]


@pytest.mark.parametrize("rate", [False, True])
def test_what_fails_while_another_is_ejected_does_not_eject_the_last(
    on_signal: OnSignal, monkeypatch: pytest.MonkeyPatch, rate: bool
) -> None:
    now = [0.0]
    rules = OutlierEjection(
        consecutive_failures=5,
        failure_percentage=FailurePercentage(minimum_requests=1, minimum_backends=1)
        if rate
        else None,
    )
    balancer = Balancer(
        BackendPool.static([A, B]), ejection=rules, panic_threshold=0, clock=lambda: now[0]
    )
    for other in (B, A):
        for _ in range(4):
            with balancer.lease(exclude=[other]) as lease:
                lease.failed("503")
    interrupting = balancer.lease(exclude=[A]).acquire()
    interrupting.failed("503")
    on_signal(interrupting.release)
    uniform = random.uniform

    def interrupted(low: float, high: float) -> float:
        signal.raise_signal(signal.SIGUSR1)
        return uniform(low, high)

    monkeypatch.setattr(random, "uniform", interrupted)
    if rate:
        now[0] = 10.0
    with balancer.lease(exclude=[B]) as lease:
        if not rate:
            lease.failed("503")
    states = [each.state for each in balancer.explain().backends]
    assert sorted(states) == ["available", "ejected"]
    assert len(chosen(balancer)) == 1


def test_a_backend_that_is_ejected_within_its_own_ejection_is_ejected_once(
    on_signal: OnSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = Balancer(BackendPool.static([A, B, C, D]))
    leases = [balancer.lease(exclude=[B, C, D]).acquire() for _ in range(6)]
    for lease in leases:
        lease.failed("503")
    for lease in leases[:4]:
        lease.release()
    on_signal(leases[5].release)
    uniform = random.uniform

    def interrupted(low: float, high: float) -> float:
        signal.raise_signal(signal.SIGUSR1)
        return uniform(low, high)

    monkeypatch.setattr(random, "uniform", interrupted)
    leases[4].release()
    first = balancer.explain().backends[0]
    assert (first.state, first.ejections, first.ejections_total) == ("ejected", 1, 1)


def test_a_candidate_that_comes_while_absences_are_noted_disturbs_nobody() -> None:
    registry = CandidateRegistry(60)
    some = [Backend(f"10.0.0.{n}:80") for n in range(20)]
    registry.update(some, 0.0)

    class Adding(set[Backend]):
        """As a health check's result, which comes from another thread at any time."""

        def __contains__(self, backend: object) -> bool:
            registry.get_or_create(Backend(f"{backend}".replace("10.0.0", "10.9.9")))
            return super().__contains__(backend)

    registry._note_absence(Adding(some[:10]), 1.0)
    assert not registry.get_or_create(some[15]).is_listed


def test_what_was_forgotten_within_an_update_is_forgotten_once() -> None:
    registry = CandidateRegistry(60)
    a, b = Backend(A), Backend(B)
    registry.update([a, b], 0.0)
    first = registry.get_or_create(a)
    first.requests = 7
    registry.update([b], 1.0)
    registry._absent_since[Backend(C)] = 1.0
    registry.update([b], 100.0)
    registry.update([b], 200.0)
    assert registry.totals().requests == 7
    assert registry.get_or_create(a) is not first
