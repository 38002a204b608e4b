"""What a key falls back on when what it is mapped to is excluded."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest

from backendpool_async import Backend, BackendPool, Balancer, Candidate, Chooser, Maglev
from backendpool_async.balance.rendezvous import rendezvous

HEAVY = Backend("10.0.0.1:80", weight=60_000)
SOME = [Backend(f"10.0.0.{n}:80", weight=weight) for n, weight in ((2, 9), (3, 1), (4, 9), (5, 1))]
KEYS = [f"user-{n}" for n in range(4_000)]


class Always:
    """Chooses the heaviest, so that avoiding it always takes the last way out."""

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        heaviest = max(candidates, key=lambda each: each.weight)
        return lambda _: heaviest


def fallbacks(*entries: Backend) -> dict[str, Backend]:
    balancer = Balancer(BackendPool.static(entries), Always())
    return {key: balancer.pick(key, exclude=[HEAVY]) for key in KEYS}


def test_a_key_falls_back_on_the_same_backend_whatever_the_order_of_the_list() -> None:
    assert fallbacks(HEAVY, *SOME) == fallbacks(*SOME[::-1], HEAVY)


@pytest.mark.parametrize("exclude", [[HEAVY], [HEAVY, SOME[0]]])
def test_with_maglev_too(exclude: Sequence[Backend]) -> None:
    one, other = (
        Balancer(BackendPool.static(entries), Maglev())
        for entries in ([HEAVY, *SOME], [*SOME[::-1], HEAVY])
    )
    for key in KEYS[:500]:
        assert one.pick(key, exclude) == other.pick(key, exclude)


def test_keys_fall_back_by_weight() -> None:
    counts = Counter(fallbacks(HEAVY, *SOME).values())
    for each in SOME:
        # Five standard deviations of the heavy ones are 160.
        assert abs(counts[each] - 200 * each.weight) < (160 if each.weight == 9 else 70)


def test_a_key_stays_when_another_backend_goes_or_is_excluded_too() -> None:
    before, after = fallbacks(HEAVY, *SOME), fallbacks(HEAVY, *SOME[1:])
    assert all(after[key] == at for key, at in before.items() if at != SOME[0])
    moved = Counter(after[key] for key, at in before.items() if at == SOME[0])
    assert set(moved) == set(SOME[1:])


def test_any_text_is_a_key() -> None:
    candidates = [Candidate(each) for each in SOME]
    for key in ("", "\udcff", "ключ", "x" * 100_000):
        assert rendezvous(key, candidates) in candidates


def test_every_process_falls_back_alike() -> None:
    program = (
        "from backendpool_async import Backend, Candidate\n"
        "from backendpool_async.balance.rendezvous import rendezvous\n"
        "some = [Candidate(Backend(f'10.0.0.{n}:80')) for n in range(9)]\n"
        "print(*(rendezvous(f'{n}', some).backend.host[-1] for n in range(9)))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "42")
    }
    assert len(printed) == 1
