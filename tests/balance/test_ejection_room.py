"""How many backends may be out at once, whatever has become of the list meanwhile."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

import pytest
from ticking import Ticking, chosen, fail, succeed

from backendpool_async import (
    Backend,
    BackendPool,
    Balancer,
    Candidate,
    Chooser,
    FailurePercentage,
    Maglev,
    OutlierEjection,
    Subset,
)
from backendpool_async.balance import ejection as ejection_module
from backendpool_async.balance import outcomes as outcomes_module
from backendpool_async.balance.ejection import Ejector, Listing
from backendpool_async.balance.failures import Failure
from backendpool_async.balance.lease import Lease
from backendpool_async.balance.outcomes import OutcomeRecorder

TEN = [f"10.0.0.{n}:80" for n in range(10)]
MANY = [f"10.1.{n >> 8}.{n & 255}:80" for n in range(1_000)]


def failing(balancer: Balancer, *backends: str) -> list[Lease]:
    """Return five leases of each, that will have failed when they are released."""
    others = balancer.pool.backends()
    leases = [
        balancer.lease(exclude=[each for each in others if each != backend]).acquire()
        for backend in backends
        for _ in range(5)
    ]
    for lease in leases:
        lease.failed("503")
    return leases


def states(balancer: Balancer) -> list[str]:
    return [each.state for each in balancer.explain().backends]


def test_the_last_is_not_ejected_when_nobody_chose_since_the_list_became_shorter() -> None:
    pool = BackendPool.static(TEN)
    balancer = Balancer(pool, panic_threshold=0)
    leases = failing(balancer, *TEN[:2])
    pool.update(TEN[:2])
    for lease in leases:
        lease.release()
    assert states(balancer) == ["ejected", "available"]
    assert chosen(balancer) == {TEN[1]}


def test_the_last_is_not_ejected_when_nobody_chose_since_the_other_turned_sick() -> None:
    pool = BackendPool.static(TEN[:2])
    balancer = Balancer(pool, panic_threshold=0)
    leases = failing(balancer, TEN[0])
    balancer._view.listed[1].is_healthy = False
    balancer._builder.invalidate()
    for lease in leases:
        lease.release()
    assert states(balancer) == ["available", "unhealthy"]


def test_nor_where_a_policy_prepares_slowly_and_the_view_is_an_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    balancer = Balancer(BackendPool.static(TEN[:4]), Maglev(), panic_threshold=0)
    balancer.pick("a")
    monkeypatch.setattr(balancer._builder, "invalidate", lambda: None)
    leases = failing(balancer, TEN[3])
    for each in balancer._view.listed[:3]:
        each.is_healthy = False
    for lease in leases:
        lease.release()
    assert states(balancer) == ["unhealthy"] * 3 + ["available"]


class Held:
    """A policy that prepares a long list when the test lets it."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.raises: Exception | None = None

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        if self.raises is not None:
            raise self.raises
        assert self.gate.wait(10)
        return lambda _: candidates[0]


@pytest.mark.parametrize("size", [None, 200])
def test_of_a_long_list_not_more_are_ejected_than_it_still_allows(size: int | None) -> None:
    policy, pool = Held(), BackendPool.static(MANY)
    subset = None if size is None else Subset(client=0, size=300)
    balancer = Balancer(pool, policy, panic_threshold=0, subset=subset)
    balancer.pick()
    some = [str(each.backend) for each in balancer._view.listed][:150]
    leases = failing(balancer, *some)
    policy.gate.clear()
    pool.update(some if size is None else [*some, *sorted(set(MANY) - set(some))[:50]])
    for lease in leases:
        lease.release()
    ejected = [each for each in balancer._view.listed if each.ejections]
    # Half of 150, or half of 200.
    assert len(ejected) == (75 if size is None else 100)
    policy.gate.set()
    balancer._builder.join()


def test_a_policy_that_fails_fails_whoever_chooses_and_not_whoever_ends_a_lease() -> None:
    policy, pool = Held(), BackendPool.static(TEN)
    balancer = Balancer(pool, policy)
    leases = failing(balancer, TEN[0])
    policy.raises = ValueError("out of sorts")
    pool.update(TEN[1:])
    pool.update(TEN)
    for lease in leases:
        lease.release()
    with pytest.raises(ValueError, match="out of sorts"):
        balancer.pick()
    policy.raises = None
    assert states(balancer)[0] == "ejected"


def test_nobody_who_ends_a_lease_waits_for_a_thread_that_builds() -> None:
    policy, pool = Held(), BackendPool.static(TEN)
    balancer = Balancer(pool, policy)
    leases = failing(balancer, TEN[0])
    policy.gate.clear()
    pool.update(TEN[:9])
    choosing = threading.Thread(target=balancer.pick)
    choosing.start()
    while not balancer._builder._begun > 1:
        pass
    for lease in leases:
        lease.release()
    policy.gate.set()
    choosing.join()
    assert states(balancer)[0] == "ejected"


def test_who_is_ejected_and_unhealthy_counts_once() -> None:
    clock = Ticking()
    balancer = Balancer(
        BackendPool.static(TEN[:6]), ejection=OutlierEjection(max_ejected=0.5), clock=clock
    )
    fail(balancer, TEN[0], 5)
    balancer._view.listed[0].is_healthy = False
    balancer._builder.invalidate()
    fail(balancer, TEN[1], 5)
    fail(balancer, TEN[2], 5)
    fail(balancer, TEN[3], 5)
    assert sum(each != "available" for each in states(balancer)) == 3


def test_who_is_ejected_and_has_left_the_list_does_not_count() -> None:
    pool = BackendPool.static(TEN[:4])
    balancer = Balancer(pool)
    for entry in TEN[:2]:
        fail(balancer, entry, 5)
    pool.update(TEN[2:6])
    for entry in TEN[2:6]:
        fail(balancer, entry, 5)
    assert states(balancer) == ["ejected", "ejected", "available", "available"]


@pytest.mark.parametrize("count", [10, 1_000])
def test_who_is_ejected_again_and_again_in_one_view_counts_once(count: int) -> None:
    ejector = Ejector(OutlierEjection(consecutive_failures=1, base_ejection_time=1), 0.0)
    listed = [Candidate(Backend(entry)) for entry in MANY[:count]]

    def failed(candidate: Candidate, listed: Sequence[Candidate], now: float) -> bool:
        candidate.consecutive_failures += 1
        return ejector.failed(candidate, Listing(listed, 0, len(listed)), now) is not None

    now = 0.0
    for _ in range(5):
        assert failed(listed[0], listed, now)
        assert listed[0].record is not None
        now = listed[0].record.until
    now -= 0.5
    # Another view of the same backends.
    again = list(listed)
    assert sum(failed(each, again, now) for each in again[1:]) == count // 2 - 1


def test_who_is_ejected_while_a_long_list_is_counted_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ejector = Ejector(OutlierEjection(consecutive_failures=1), 0.0)
    listed = [Candidate(Backend(entry)) for entry in MANY]
    is_ejected = ejection_module.is_ejected

    def failed(candidate: Candidate, listed: Sequence[Candidate]) -> bool:
        candidate.consecutive_failures += 1
        return ejector.failed(candidate, Listing(listed, 0, len(listed)), 1.0) is not None

    def interrupted(candidate: Candidate, now: float) -> bool:
        if candidate is listed[0]:
            # As a signal handler does that ends a lease.
            monkeypatch.setattr(ejection_module, "is_ejected", is_ejected)
            assert failed(listed[1], listed)
        return is_ejected(candidate, now)

    assert failed(listed[0], listed)
    monkeypatch.setattr(ejection_module, "is_ejected", interrupted)
    # Another view of the same backends.
    again = list(listed)
    assert sum(failed(each, again) for each in again[2:]) == len(MANY) // 2 - 2


def test_an_ejection_goes_through_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    balancer = Balancer(BackendPool.static(MANY))
    balancer.pick()
    listed, asked = balancer._view.listed, 0
    leases = failing(balancer, *MANY[:300])
    is_ejected = ejection_module.is_ejected

    def counting(candidate: Candidate, now: float) -> bool:
        nonlocal asked
        asked += 1
        return is_ejected(candidate, now)

    # The same view all the time: with a new one, those that are ejected are counted once.
    monkeypatch.setattr(balancer._builder, "invalidate", lambda: None)
    monkeypatch.setattr(ejection_module, "is_ejected", counting)
    for lease in leases:
        lease.release()
    assert sum(each.ejections for each in listed) == 300
    # Each time through the 300, or the 1,000, would be 45,000 or more.
    assert asked < 5_000


def test_a_failure_goes_through_no_list_while_there_is_no_view() -> None:
    recorder_asked: list[str] = []

    def listing() -> Listing:
        recorder_asked.append("listing")
        return Listing([one, other], 0, 2)

    one, other = Candidate(Backend(TEN[0])), Candidate(Backend(TEN[1]))
    recorder = recorder_of(Ejector(OutlierEjection(), 0.0), listing)
    for expected in (0, 0, 0, 0, 1, 1):
        recorder.failed(one, 0.1, 1.0, Failure.TRANSPORT, "503")
        assert len(recorder_asked) == expected
    assert one.ejections == 1


def recorder_of(ejector: Ejector, listing: Any, told: list[str] | None = None) -> OutcomeRecorder:
    return OutcomeRecorder(
        lambda: 0.0,
        lambda _: None,
        None,
        ejector,
        listing=listing,
        ejected=lambda _: None,
        view_changes=lambda: None if told is None else told.append("due"),
        unreachable=lambda: None,
    )


def test_of_two_threads_that_saw_it_fail_too_often_one_ejects_it() -> None:
    one, other = Candidate(Backend(TEN[0])), Candidate(Backend(TEN[1]))
    listing = Listing([one, other], 0, 2)
    ejector = Ejector(OutlierEjection(), 0.0)
    one.consecutive_failures = 5
    assert ejector.is_due(one, 1.0)
    assert ejector.failed(one, listing, 1.0) is not None
    assert ejector.failed(one, listing, 1.0) is None
    assert one.ejections == 1


RATES = OutlierEjection(failure_percentage=FailurePercentage())


@pytest.mark.parametrize("changes_at", [5.0, 35.0])
def test_a_view_that_is_published_while_what_is_due_is_seen_to_is_seen_to_in_its_time(
    changes_at: float,
) -> None:
    """As if another thread published between any two lines."""

    def run(publish_at_line: int) -> int:
        told: list[str] = []
        recorder = recorder_of(Ejector(RATES, 0.0), lambda: Listing([], 0, 0), told)
        recorder.view_changes_at(changes_at)
        lines = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal lines
            if frame.f_code.co_filename != outcomes_module.__file__:
                return None
            lines += event == "line"
            if event == "line" and lines == publish_at_line:
                sys.settrace(None)
                publishing = threading.Thread(target=recorder.view_changes_at, args=(40.0,))
                publishing.start()
                # It may have to wait for the lock.
                publishing.join(0.01)
                threads.append(publishing)
            return trace

        threads: list[threading.Thread] = []
        before = sys.gettrace()
        with contextlib.ExitStack() as stack:
            stack.callback(sys.settrace, before)
            sys.settrace(trace)
            recorder.succeeded(Candidate(Backend(TEN[0])), 0.1, 11.0)
        for each in threads:
            each.join()
        assert not threads or recorder.due == 21.0
        recorder.succeeded(Candidate(Backend(TEN[0])), 0.1, 21.0)
        assert not threads or recorder.due == 31.0
        told.clear()
        recorder.succeeded(Candidate(Backend(TEN[0])), 0.1, 41.0)
        assert not threads or told == ["due"]
        return lines

    for number in range(1, run(0) + 1):
        run(number)


def test_a_view_that_is_due_is_told_once() -> None:
    told: list[str] = []
    recorder = recorder_of(Ejector(OutlierEjection(), 0.0), lambda: Listing([], 0, 0), told)
    recorder.view_changes_at(10.0)
    for now in (9.0, 10.0, 11.0, 12.0):
        recorder.succeeded(Candidate(Backend(TEN[0])), 0.1, now)
    assert told == ["due"]
    recorder.view_changes_at(13.0)
    recorder.succeeded(Candidate(Backend(TEN[0])), 0.1, 13.0)
    assert told == ["due"] * 2


@pytest.mark.parametrize(("waited", "is_judged"), [(19.9, True), (20.1, False), (7_200, False)])
def test_what_was_long_ago_is_not_judged(waited: float, is_judged: bool) -> None:
    clock = Ticking()
    rules = OutlierEjection(consecutive_failures=None, failure_percentage=FailurePercentage())
    balancer = Balancer(BackendPool.static(TEN[:5]), ejection=rules, clock=clock)
    for entry in TEN[1:5]:
        succeed(balancer, entry, 60)
    fail(balancer, TEN[0], 60)
    clock.advance(waited)
    succeed(balancer, TEN[1])
    assert ("ejected" in states(balancer)) is is_judged
    # Nor does it count in the next interval.
    clock.advance(10)
    succeed(balancer, TEN[1])
    assert states(balancer).count("ejected") == is_judged
