"""The balancer against a model of a few lines, through random scripts of what can happen to it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from zlib import crc32

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ticking import Ticking

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

ADDRESSES = [f"10.0.0.{number}:80" for number in range(1, 6)]
log = logging.getLogger("backendpool_async")
LIMIT, BASE, LONGEST, FORGET_AFTER = 2, 10.0, 25.0, 60.0

backends = st.builds(
    lambda address, weight, zone: Backend(address, weight=weight, zone=zone),
    st.sampled_from(ADDRESSES),
    st.sampled_from([1, 1, 3, 7]),
    st.sampled_from(["near", "far"]),
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
    is_healthy: bool = True
    absent_since: float | None = None


class BalancerMachine(RuleBasedStateMachine):
    """No loop runs, so nothing happens but what a rule does."""

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
        zone=st.sampled_from([None, None, "near"]),
    )
    def make(
        self,
        first: list[Backend],
        policy: str,
        panic_threshold: float,
        max_ejected: float,
        slow_start: float,
        zone: str | None,
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
            zone=zone,
            forget_after=FORGET_AFTER,
            clock=self.clock,
        )
        self.chooses_by_key = policy == "by key"
        # The model.
        self.panic_threshold = panic_threshold
        self.max_ejected = max_ejected
        self.zone = zone
        self.listed = first
        self.known = {str(each): Known() for each in first}

    def is_ejected(self, address: str) -> bool:
        until: float = self.known[address].ejected_until
        return self.clock.now < until

    def is_available(self, address: str) -> bool:
        return self.known[address].is_healthy and not self.is_ejected(address)

    def available(self) -> set[str]:
        return {str(each) for each in self.listed if self.is_available(each)}

    def near(self) -> set[str]:
        """Those of the own zone, if enough of them are available."""
        zone = {str(each) for each in self.listed if each.zone == self.zone}
        left = zone & self.available() if self.zone else set[str]()
        return left if len(left) >= 0.7 * len(zone) else set[str]()

    def is_panic(self) -> bool:
        few = len(self.available()) < self.panic_threshold * len(self.listed)
        return few and not self.near()

    def to_choose_from(self) -> set[str]:
        if self.is_panic():
            return {str(each) for each in self.listed}
        return self.near() or self.available()

    def beside(self, exclude: set[str]) -> set[str]:
        """What is left to choose from: another zone, rather than nothing."""
        return self.to_choose_from() - exclude or self.available() - exclude

    def check_choice(self, key: str | None, exclude: set[str]) -> None:
        allowed = self.beside(exclude)
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
        allowed = self.beside(exclude)
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
        out = sum(not self.is_available(each) for each in self.listed)
        error = ConnectionResetError("by peer")
        lease.__exit__(type(error), error, None)
        if self.is_ejected(address):
            known.in_a_row = 0
        elif known.in_a_row >= LIMIT and address in self.listed and self.may_be_out(out + 1):
            self.eject(address)
            assert self.may_be_out(sum(not self.is_available(each) for each in self.listed))

    def may_be_out(self, out: int) -> bool:
        """At most the share that the rules name, and never everybody."""
        return out <= self.max_ejected * len(self.listed) and out < len(self.listed)

    def candidate(self, address: str) -> Candidate:
        return self.balancer._builder._registry.get_or_create(Backend(address))

    def eject(self, address: str) -> None:
        known, now = self.known[address], self.clock.now
        stayed = int((now - known.ejected_until) / BASE) if known.ejections else 0
        known.ejections = max(0, known.ejections - stayed) + 1
        known.ejections = min(known.ejections, math.ceil(LONGEST / BASE))
        known.in_a_row = 0
        # How long is partly chance, and of one that is not listed `explain` does not tell.
        record = self.candidate(address).record
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
            if address in self.beside(set(ADDRESSES) - {address}):
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
        if self.clock.now >= self.balancer._view.changes_at:
            # As the timer of a loop does; without one, the end of a lease sees to it.
            self.balancer._builder.invalidate()

    @rule(pushed=lists)
    def update(self, pushed: list[Backend]) -> None:
        self.push(pushed)

    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        self.push(data.draw(st.permutations(self.listed)))

    @rule(number=st.integers(0, 4), healthy=st.booleans())
    @precondition(lambda self: self.listed)
    def check_health(self, number: int, healthy: bool) -> None:
        """As the result of a health check has it."""
        address = str(self.listed[number % len(self.listed)])
        candidate = self.candidate(address)
        if candidate.is_healthy is False and healthy:
            candidate.healthy_since = self.clock.now
        changes = candidate.is_healthy is not healthy
        candidate.is_healthy = healthy
        self.known[address].is_healthy = healthy
        if changes:
            self.balancer._availability_changed(logging.INFO, address)

    @rule(address=st.sampled_from(ADDRESSES), weight=st.sampled_from([1, 2, 9]))
    def change_one_weight(self, address: str, weight: int) -> None:
        self.push(
            [
                Backend(each, weight=weight, zone=each.zone or "far") if each == address else each
                for each in self.listed
            ]
        )

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
    def counts(self) -> None:
        """Without asking the balancer, which would build what is due: then no choice ever does."""
        for address, known in getattr(self, "known", {}).items():
            if address not in self.listed or known.absent_since is not None:
                continue
            candidate = self.candidate(address)
            assert candidate.in_flight == len(known.open)
            assert (candidate.requests, candidate.failures) == (known.requests, known.failures)
            assert (candidate.latency is not None) == known.measured
            until = candidate.record.until if candidate.record else 0.0
            assert (self.clock.now < until) == self.is_ejected(address)

    @rule()
    def explain(self) -> None:
        explanation = self.balancer.explain()
        assert [each.backend for each in explanation.backends] == self.listed
        assert [each.weight for each in explanation.backends] == [
            each.weight for each in self.listed
        ]
        for each in explanation.backends:
            known, is_ejected = self.known[each.backend], self.is_ejected(each.backend)
            out = "ejected" if is_ejected else "unhealthy"
            state = "available" if self.is_available(each.backend) else out
            assert (each.state, each.ejected_for is not None) == (state, is_ejected)
            assert each.in_flight == len(known.open)
            assert each.ejections == known.ejections
            assert each.chosen_among == (each.backend in self.to_choose_from())
            assert (each.share > 0) == each.chosen_among
        if self.to_choose_from():
            assert math.isclose(sum(each.share for each in explanation.backends), 1)
        assert explanation.available == len(self.available())
        assert explanation.is_panic == self.is_panic()

    def teardown(self) -> None:
        while hasattr(self, "known") and self.some_is_open():
            self.ended_well(*self.opened(0))
        if hasattr(self, "known"):
            self.push([Backend(address) for address in ADDRESSES])
            self.explain()
        log.disabled = False


BalancerMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
TestTheBalancerBehavesAsItsModel = BalancerMachine.TestCase
