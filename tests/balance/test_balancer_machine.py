"""The balancer against a model of a few lines, through random scripts of what can happen to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from zlib import crc32

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ticking import Ticking, chosen, fail

from backendpool_async import (
    Backend,
    BackendPool,
    Balancer,
    Candidate,
    Chooser,
    LeastRequest,
    NoBackends,
    OutlierEjection,
    Policy,
    RoundRobin,
)
from backendpool_async.balance.lease import Lease

A, B = "10.0.0.1:80", "10.0.0.2:80"
ADDRESSES = [f"10.0.0.{number}:80" for number in range(1, 6)]
log = logging.getLogger("backendpool_async")
LIMIT, BASE, LONGEST, FORGET_AFTER = 2, 10.0, 25.0, 60.0

backends = st.builds(
    lambda address, weight: Backend(address, weight=weight),
    st.sampled_from(ADDRESSES),
    st.sampled_from([1, 1, 3, 7]),
)
lists = st.lists(backends, max_size=5, unique_by=str)
some = st.sets(st.sampled_from(ADDRESSES), max_size=4)


class ByKey:
    """The same key, the same candidates: the same choice."""

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        return lambda key: candidates[crc32((key or "").encode()) % len(candidates)]


POLICIES: dict[str, type[Policy]] = {
    "round robin": RoundRobin,
    "least request": LeastRequest,
    "by key": ByKey,
}


@dataclass
class Known:
    """What the model knows about one address."""

    open: list[Lease] = field(default_factory=list)
    requests: int = 0
    failures: int = 0
    in_a_row: int = 0
    measured: bool = False
    ejections: int = 0
    ejected_until: float = 0.0
    absent_since: float | None = None


class BalancerMachine(RuleBasedStateMachine):
    """No loop runs, so nothing happens but what a rule does; what is due is seen to by asking."""

    def __init__(self) -> None:
        super().__init__()
        # Thousands of warnings would be kept for a failure's report.
        log.disabled = True

    @initialize(
        first=lists,
        policy=st.sampled_from(sorted(POLICIES)),
        panic_threshold=st.sampled_from([0.5, 0.0, 1.0]),
        max_ejected=st.sampled_from([0.5, 0.5, 1.0]),
        slow_start=st.sampled_from([0.0, 15.0]),
    )
    def make(
        self,
        first: list[Backend],
        policy: str,
        panic_threshold: float,
        max_ejected: float,
        slow_start: float,
    ) -> None:
        self.clock = Ticking()
        self.pool = BackendPool.static(first)
        self.balancer = Balancer(
            self.pool,
            POLICIES[policy](),
            ejection=OutlierEjection(
                consecutive_failures=LIMIT,
                base_ejection_time=BASE,
                max_ejection_time=LONGEST,
                max_ejected=max_ejected,
            ),
            panic_threshold=panic_threshold,
            slow_start=slow_start,
            forget_after=FORGET_AFTER,
            clock=self.clock,
        )
        self.chooses_by_key = policy == "by key"
        # The model.
        self.panic_threshold = panic_threshold
        self.max_ejected = max_ejected
        self.listed = first
        self.known = {str(each): Known() for each in first}

    def is_ejected(self, address: str) -> bool:
        return self.clock.now < self.known[address].ejected_until

    def available(self) -> set[str]:
        return {str(each) for each in self.listed if not self.is_ejected(each)}

    def is_panic(self) -> bool:
        return len(self.available()) < self.panic_threshold * len(self.listed)

    def to_choose_from(self) -> set[str]:
        return {str(each) for each in self.listed} if self.is_panic() else self.available()

    def check_choice(self, key: str | None, exclude: set[str]) -> None:
        allowed = self.to_choose_from() - exclude
        if not allowed:
            with pytest.raises(NoBackends):
                self.balancer.pick(key, exclude)
            with pytest.raises(NoBackends), self.balancer.lease(key, exclude):
                pytest.fail("there was nothing to choose from")
            return
        choice = self.balancer.pick(key, exclude)
        assert choice in allowed
        assert choice in self.listed
        if self.chooses_by_key and key is not None:
            assert self.balancer.pick(key, exclude) == choice

    @rule(key=st.none() | st.text(max_size=3), exclude=some)
    def pick(self, key: str | None, exclude: set[str]) -> None:
        self.check_choice(key, set())
        self.check_choice(key, exclude)

    @rule(key=st.none() | st.text(max_size=3), exclude=some)
    def open(self, key: str | None, exclude: set[str]) -> None:
        allowed = self.to_choose_from() - exclude
        if allowed:
            lease = self.balancer.lease(key, exclude).__enter__()
            assert lease.backend in allowed
            self.known[lease.backend].open.append(lease)

    def opened(self, number: int) -> tuple[str, Lease]:
        every = [(address, lease) for address, known in self.known.items() for lease in known.open]
        address, lease = every[number % len(every)]
        self.known[address].open.remove(lease)
        return address, lease

    def some_is_open(self) -> bool:
        return any(known.open for known in self.known.values())

    def ended_well(self, address: str, lease: Lease) -> None:
        lease.__exit__(None, None, None)
        known = self.known[address]
        known.requests += 1
        known.in_a_row = 0
        known.measured = True

    def broken_off(self, address: str, lease: Lease) -> None:
        known = self.known[address]
        known.requests += 1
        known.failures += 1
        known.in_a_row += 1
        listed = [each for each in self.listed if self.is_ejected(each)]
        most = min(math.floor(len(self.listed) * self.max_ejected), len(self.listed) - 1)
        error = ConnectionResetError("by peer")
        lease.__exit__(type(error), error, None)
        if self.is_ejected(address):
            known.in_a_row = 0
        elif known.in_a_row >= LIMIT and len(listed) < most and address in self.listed:
            self.eject(address)

    def eject(self, address: str) -> None:
        known, now = self.known[address], self.clock.now
        stayed = int((now - known.ejected_until) / BASE) if known.ejections else 0
        known.ejections = max(0, known.ejections - stayed) + 1
        known.ejections = min(known.ejections, math.ceil(LONGEST / BASE))
        known.in_a_row = 0
        # How long is partly chance, and of one that is not listed `explain` does not tell.
        record = self.balancer._builder._registry.get_or_create(Backend(address)).record
        assert record is not None
        assert 1 <= (record.until - now) / min(BASE * known.ejections, LONGEST) <= 1.1
        known.ejected_until = record.until

    @rule(number=st.integers(0, 50))
    @precondition(some_is_open)
    def end_well(self, number: int) -> None:
        self.ended_well(*self.opened(number))

    @rule(number=st.integers(0, 50))
    @precondition(some_is_open)
    def break_off(self, number: int) -> None:
        self.broken_off(*self.opened(number))

    @rule(number=st.integers(0, 4), more=st.integers(0, LIMIT + 2))
    @precondition(lambda self: self.listed)
    def break_off_in_a_row(self, number: int, more: int) -> None:
        address = str(self.listed[number % len(self.listed)])
        for _ in range(more):
            if address in self.to_choose_from():
                lease = self.balancer.lease(exclude=set(ADDRESSES) - {address}).__enter__()
                self.known[address].open.append(lease)
        for lease in [*self.known[address].open]:
            self.known[address].open.remove(lease)
            self.broken_off(address, lease)

    @rule(
        number=st.integers(0, 50),
        error=st.sampled_from([asyncio.CancelledError, GeneratorExit, ValueError]),
    )
    @precondition(some_is_open)
    def end_otherwise(self, number: int, error: type[BaseException]) -> None:
        address, lease = self.opened(number)
        lease.__exit__(error, error(), None)
        self.known[address].measured = True

    @rule(seconds=st.sampled_from([0.1, 4.0, 11.0, 28.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(pushed=lists)
    def update(self, pushed: list[Backend]) -> None:
        self.push(pushed)

    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        self.push(data.draw(st.permutations(self.listed)))

    @rule(address=st.sampled_from(ADDRESSES), weight=st.sampled_from([1, 2, 9]))
    def change_one_weight(self, address: str, weight: int) -> None:
        changed = Backend(address, weight=weight)
        self.push([changed if each == address else each for each in self.listed])

    @rule(address=st.sampled_from(ADDRESSES))
    def lose_one(self, address: str) -> None:
        self.push([each for each in self.listed if each != address])

    def push(self, pushed: Sequence[Backend]) -> None:
        now = self.clock.now
        self.pool.update(pushed)
        self.listed = list(pushed)
        for address, known in self.known.items():
            if address not in self.listed and known.absent_since is None:
                known.absent_since = now
        for each in pushed:
            known = self.known.setdefault(str(each), Known())
            since = known.absent_since
            if since is not None and now - since >= FORGET_AFTER and not known.open:
                self.known[str(each)] = known = Known()
            known.absent_since = None
        self.check_choice(None, set())

    @invariant()
    def agrees(self) -> None:
        explanation = self.balancer.explain()
        assert [each.backend for each in explanation.backends] == self.listed
        assert [each.weight for each in explanation.backends] == [
            each.weight for each in self.listed
        ]
        for each in explanation.backends:
            known = self.known[each.backend]
            state = "ejected" if self.is_ejected(each.backend) else "available"
            assert (each.state, each.ejected_for is not None) == (state, state == "ejected")
            assert each.in_flight == len(known.open)
            assert (each.requests, each.failures) == (known.requests, known.failures)
            assert (each.latency is not None) == known.measured
            assert each.ejections == known.ejections
        assert explanation.available == len(self.available())
        assert explanation.is_panic == self.is_panic()

    def teardown(self) -> None:
        while hasattr(self, "known") and self.some_is_open():
            self.ended_well(*self.opened(0))
        if hasattr(self, "known"):
            self.push([Backend(address) for address in ADDRESSES])
            self.agrees()
        log.disabled = False


BalancerMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
TestTheBalancerBehavesAsItsModel = BalancerMachine.TestCase


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


def test_what_is_in_flight_at_an_ejection_and_fails_too_does_not_count_after_its_return(
    clock: Ticking,
) -> None:
    balancer = Balancer(BackendPool.static([A, B]), clock=clock)
    with contextlib.ExitStack() as together:
        for _ in range(10):
            together.enter_context(balancer.lease(exclude=[B])).failed("503")
    assert chosen(balancer) == {B}
    clock.advance(34)
    fail(balancer, A, 4)
    assert chosen(balancer) == {A, B}
    fail(balancer, A)
    assert chosen(balancer) == {B}


def test_what_a_backend_did_before_a_long_absence_is_not_remembered(clock: Ticking) -> None:
    pool = BackendPool.static([A, B])
    balancer = Balancer(pool, clock=clock, forget_after=60)
    fail(balancer, A, 4)
    pool.update([B])
    balancer.pick()
    clock.advance(61)
    # Nothing happens to the list meanwhile.
    pool.update([A, B])
    fail(balancer, A)
    assert chosen(balancer) == {A, B}
    assert balancer.explain().backends[0].requests == 1


def test_without_a_loop_an_ejection_ends_also_when_nobody_was_left_to_choose(
    clock: Ticking,
) -> None:
    pool = BackendPool.static([A, B])
    balancer = Balancer(pool, clock=clock, panic_threshold=0)
    fail(balancer, A, 5)
    pool.update([A])
    with pytest.raises(NoBackends):
        balancer.pick()
    clock.advance(34)
    assert balancer.pick() == A


def test_without_a_loop_an_ejection_ends_also_for_whom_all_others_are_excluded(
    clock: Ticking,
) -> None:
    balancer = Balancer(BackendPool.static([A, B]), clock=clock)
    fail(balancer, A, 5)
    with pytest.raises(NoBackends):
        balancer.pick(exclude=[B])
    clock.advance(34)
    assert balancer.pick(exclude=[B]) == A


def test_without_a_loop_a_lease_that_is_cancelled_sees_to_it_that_another_returns(
    clock: Ticking,
) -> None:
    balancer = Balancer(BackendPool.static([A, B]), clock=clock)
    fail(balancer, A, 5)
    clock.advance(34)
    with contextlib.suppress(GeneratorExit), balancer.lease():
        raise GeneratorExit
    assert chosen(balancer) == {A, B}


def test_whoever_asks_is_told_of_the_present_also_without_a_loop(clock: Ticking) -> None:
    balancer = Balancer(BackendPool.static([A, B]), clock=clock)
    fail(balancer, A, 5)
    assert balancer.explain().available == 1
    clock.advance(34)
    assert balancer.explain().available == 2
    assert chosen(balancer) == {A, B}
