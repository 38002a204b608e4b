"""Whom a balancer chooses while there is no view yet: by its rules, and by weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

import pytest
from ticking import Ticking

from backendpool_async import Backend, BackendPool, Subset
from backendpool_async.balance.candidate import EjectionRecord
from backendpool_async.balance.candidate_registry import CandidateRegistry
from backendpool_async.balance.interim import InterimChooser
from backendpool_async.balance.view import ViewRules

HUNDRED = [Backend(f"10.0.0.{n}:80") for n in range(100)]
NEAR = [Backend(f"10.0.1.{n}:80", zone="near") for n in range(10)]
FAR = [Backend(f"10.0.2.{n}:80", zone="far", weight=1 + 8 * (n % 2)) for n in range(90)]


class Interim:
    """A chooser of some backends, of which some are sick."""

    def __init__(
        self,
        backends: Iterable[Backend],
        sick: Collection[Backend] = (),
        *,
        zone: str | None = None,
        panic_threshold: float = 0.5,
        subset: Subset | None = None,
    ) -> None:
        self.pool = BackendPool.static(backends)
        self.registry = CandidateRegistry(600)
        self.clock = Ticking()
        self.rules = ViewRules(
            panic_threshold=panic_threshold, slow_start=0, zone=zone, zone_threshold=0.7
        )
        self.chooser = InterimChooser(self.pool, subset, self.registry, self.rules, self.clock)
        for each in sick:
            self.registry.get_or_create(each).is_healthy = False

    def choose(self, key: str | None = None, avoided: Collection[str] = ()) -> Backend | None:
        found = self.chooser.choose(key, avoided)
        return None if found is None else found.backend

    def many(
        self, by_key: bool, times: int = 2_000, avoided: Collection[str] = ()
    ) -> Counter[Backend | None]:
        keys = (f"user-{n}" if by_key else None for n in range(times))
        return Counter(self.choose(key, avoided) for key in keys)


@pytest.fixture(params=[False, True], ids=["without a key", "by key"])
def by_key(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_it_chooses_by_weight(by_key: bool) -> None:
    heavy = Backend("10.0.9.9:80", weight=100)
    assert 0.4 < Interim([*HUNDRED, heavy]).many(by_key)[heavy] / 2_000 < 0.6


def test_in_a_panic_all_are_chosen_among(by_key: bool) -> None:
    sick = HUNDRED[12:]
    chosen = Interim(HUNDRED, sick).many(by_key)
    assert 0.8 < sum(chosen[each] for each in sick) / 2_000 < 0.95


def test_who_is_not_available_is_not_chosen_where_there_is_no_panic(by_key: bool) -> None:
    for sick in (HUNDRED[55:], HUNDRED[:30]):
        assert set(Interim(HUNDRED, sick).many(by_key)) == set(HUNDRED) - set(sick)
    few = Interim(HUNDRED, HUNDRED[3:], panic_threshold=0)
    assert set(few.many(by_key)) == set(HUNDRED[:3])


def test_what_is_left_is_chosen_by_weight(by_key: bool) -> None:
    heavy = Backend("10.0.9.9:80", weight=9)
    interim = Interim([*HUNDRED, heavy], HUNDRED[1:], panic_threshold=0)
    chosen = interim.many(by_key, 4_000)
    assert 6 < chosen[heavy] / chosen[HUNDRED[0]] < 13


def test_the_own_zone_comes_first(by_key: bool) -> None:
    assert set(Interim([*NEAR, *FAR], zone="near").many(by_key)) == set(NEAR)
    assert set(Interim([*NEAR, *FAR], FAR, zone="near").many(by_key)) == set(NEAR)
    assert set(Interim([*NEAR, *FAR], NEAR[:3], zone="near").many(by_key)) == set(NEAR[3:])


def test_another_zone_comes_next_where_the_own_one_does_not_suffice(by_key: bool) -> None:
    interim = Interim([*NEAR, *FAR], NEAR[:9], zone="near")
    chosen = interim.many(by_key, 5_000)
    assert len(chosen.keys() & set(FAR)) > 60
    assert not chosen.keys() & set(NEAR[:9])
    assert len(Interim(HUNDRED, zone="near").many(by_key)) > 90


def test_another_zone_is_better_than_nothing_and_by_weight(by_key: bool) -> None:
    interim = Interim([*NEAR, *FAR[:2]], zone="near")
    chosen = interim.many(by_key, 4_000, avoided=NEAR)
    assert set(chosen) == set(FAR[:2])
    assert 6 < chosen[FAR[1]] / chosen[FAR[0]] < 13


def test_who_is_ejected_after_the_list_was_gone_through_is_not_chosen(by_key: bool) -> None:
    interim = Interim(HUNDRED[:3], HUNDRED[:1], panic_threshold=0)
    key = "user" if by_key else None
    assert interim.choose(key, avoided=[HUNDRED[1]]) == HUNDRED[2]
    ejected = interim.registry.get_or_create(HUNDRED[2])
    ejected.record = EjectionRecord()
    ejected.record.until = interim.clock.now + 30
    assert set(interim.many(by_key)) == {HUNDRED[1]}
    assert interim.choose(key, avoided=[HUNDRED[1]]) is None


def test_a_key_keeps_its_backend_whatever_else_was_chosen() -> None:
    interim, fresh = Interim(HUNDRED, HUNDRED[70:]), Interim(HUNDRED[::-1], HUNDRED[70:])
    interim.many(by_key=False)
    before = {f"user-{n}": interim.choose(f"user-{n}") for n in range(500)}
    assert interim.chooser._known is not None
    assert interim.chooser._known.among is not None
    assert fresh.choose("user-1") == before["user-1"]
    again = {key: fresh.choose(key) for key in reversed(before)}
    assert again == before


def test_nothing_is_chosen_from_nothing(by_key: bool) -> None:
    assert Interim([]).choose("user" if by_key else None) is None


def test_nobody_goes_through_a_list_of_which_enough_are_available(
    monkeypatch: pytest.MonkeyPatch, by_key: bool
) -> None:
    interim = Interim(HUNDRED, HUNDRED[99:])
    among: Callable[..., object] = lambda *_: pytest.fail("it did")  # noqa: E731 - a method's place
    monkeypatch.setattr(ViewRules, "among", among)
    interim.many(by_key, 50)


def test_whoever_asks_is_told_what_the_rules_say() -> None:
    interim = Interim([*NEAR, *FAR], NEAR[:1], zone="near", subset=Subset(client=0, size=100))
    view = interim.chooser.view()
    assert [each.backend for each in view.chosen_among] == NEAR[1:]
    assert (len(view.listed), len(view.available), view.unhealthy) == (100, 99, 1)
    listing = interim.chooser.listing()
    assert interim.chooser.listing() is listing
    assert (listing.listed, listing.unhealthy, listing.size) == (view.listed, 1, 100)
