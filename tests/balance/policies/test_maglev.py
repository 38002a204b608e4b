from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import pytest
from policy_cases import candidates, fits

from backendpool_async import Backend
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.policies import Maglev
from backendpool_async.balance.policies.maglev_table import maglev_table
from backendpool_async.balance.policies.primes import PRIMES, is_prime
from backendpool_async.balance.policy import Chooser

KEYS = [f"user-{n}" for n in range(20_000)]
UUIDS = [str(uuid.UUID(int=random.Random(n).getrandbits(128), version=4)) for n in range(20_000)]
PATHS = [f"/api/v1/items/{n}/picture.png?size={n % 7}" for n in range(20_000)]
NUMBERS = [str(n) for n in range(20_000)]


def mapping(choose: Chooser, keys: Sequence[str] = KEYS) -> dict[str, str]:
    return {key: str(choose(key).backend) for key in keys}


def by_the_paper(addresses: Sequence[str], size: int) -> list[int]:
    """Fill a table as the pseudocode of the paper does, step by step."""
    orders = []
    for address in addresses:
        digest = blake2b(address.encode(), digest_size=16).digest()
        offset = int.from_bytes(digest[:8], "big") % size
        skip = int.from_bytes(digest[8:], "big") % (size - 1) + 1
        orders.append([(offset + number * skip) % size for number in range(size)])
    following = [0] * len(addresses)
    table = [-1] * size
    filled = 0
    while True:
        for index, order in enumerate(orders):
            while table[order[following[index]]] >= 0:
                following[index] += 1
            table[order[following[index]]] = index
            filled += 1
            if filled == size:
                return table


@pytest.mark.parametrize(
    ("number", "size"), [(1, 2), (1, 7), (3, 7), (7, 7), (9, 7), (5, 257), (40, 4001)]
)
def test_the_table_is_the_one_of_the_paper(number: int, size: int) -> None:
    addresses = [f"10.1.0.{n}:80" for n in range(number)]
    assert list(maglev_table(addresses, [1] * number, size)) == by_the_paper(addresses, size)


@pytest.mark.parametrize(("number", "slots"), [(100, 10_007), (655, 65_537), (10, 65_537)])
def test_shares_of_the_table_are_equal_to_about_a_hundredth(number: int, slots: int) -> None:
    shares = Counter(
        maglev_table([f"b{n}.internal:80" for n in range(number)], [1] * number, slots)
    )
    assert max(shares.values()) - min(shares.values()) <= 1
    assert max(shares.values()) * number / slots <= 1.02


def test_shares_of_the_table_follow_the_weights() -> None:
    weights = [1, 2, 3, 50, 100, 1000]
    shares = Counter(maglev_table([f"b{n}.internal:80" for n in range(6)], weights, 65_537))
    surplus = [shares[n] - 65_537 * weight / sum(weights) for n, weight in enumerate(weights)]
    # A turn that has begun counts in full: at most one too many, at the cost of the heaviest.
    assert all(-1 < each < 1 for each in surplus[:-1])
    assert -len(weights) < surplus[-1] <= 0


def test_many_light_backends_beside_a_heavy_one_get_a_slot_each() -> None:
    shares = Counter(maglev_table([f"b{n}:80" for n in range(500)], [*[1] * 499, 65_535], 65_537))
    assert len(shares) == 500


@pytest.mark.parametrize(
    "keys", [KEYS, UUIDS, PATHS, NUMBERS], ids=["names", "uuids", "paths", "n"]
)
@pytest.mark.parametrize("number", [3, 20, 100])
def test_keys_as_they_are_in_life_spread_evenly(keys: list[str], number: int) -> None:
    choose = Maglev().prepare(candidates(*[1] * number))
    got = Counter(map(choose, keys))
    assert len(got) == number
    # Keys that are numbered spread more evenly than chance would have it, which is no fault.
    assert fits(got, lambda each: 1)


def test_when_one_goes_its_keys_move_and_hardly_any_other() -> None:
    crowd = candidates(*[1] * 50)
    before = mapping(Maglev().prepare(crowd))
    gone = str(crowd[17].backend)
    after = mapping(Maglev().prepare(crowd[:17] + crowd[18:]))
    moved = {key for key in KEYS if before[key] != after[key]}
    orphans = {key for key in KEYS if before[key] == gone}
    assert orphans <= moved
    assert len(orphans) / len(KEYS) == pytest.approx(1 / 50, rel=0.2)
    assert len(moved - orphans) / len(KEYS) < 0.02
    # Nobody in particular inherits.
    heirs = Counter(after[key] for key in orphans)
    assert len(heirs) > 45


@pytest.mark.parametrize(
    ("number", "slots", "times"),
    [(10, 65_537, 1.0), (100, 65_537, 1.6), (300, 65_537, 4), (650, 65_537, 6), (650, 262_147, 4)],
)
def test_the_more_there_are_for_a_slot_the_more_keys_move_when_one_goes(
    number: int, slots: int, times: float
) -> None:
    """As the documentation of `Maglev` has it."""
    all_of_them = sorted(f"10.0.{n // 250}.{n % 250}:80" for n in range(number))
    gone = number // 3
    others = all_of_them[:gone] + all_of_them[gone + 1 :]
    before = maglev_table(all_of_them, [1] * number, slots)
    after = maglev_table(others, [1] * len(others), slots)
    pairs = zip(before, after, strict=True)
    moved = sum(all_of_them[one] != others[other] for one, other in pairs) / slots
    assert moved * number == pytest.approx(times, rel=0.2)


def test_when_one_gets_heavier_it_takes_keys_and_hardly_any_other_moves() -> None:
    before = mapping(Maglev().prepare(candidates(*[10] * 50)))
    weights = [10] * 50
    weights[3] = 5
    crowd = candidates(*weights)
    after = mapping(Maglev().prepare(crowd))
    moved = [key for key in KEYS if before[key] != after[key]]
    lost = [key for key in moved if before[key] == str(crowd[3].backend)]
    assert len(lost) / len(KEYS) == pytest.approx(0.01, rel=0.3)
    assert len(moved) / len(KEYS) < 0.04


def test_the_order_of_the_list_does_not_matter() -> None:
    crowd = candidates(*(1 + n % 3 for n in range(40)))
    shuffled = random.Random(1).sample(crowd, len(crowd))
    assert mapping(Maglev().prepare(crowd)) == mapping(Maglev().prepare(shuffled))


def test_another_process_maps_alike() -> None:
    program = (
        "import json, sys\n"
        "from backendpool_async import Backend\n"
        "from backendpool_async.balance.candidate import Candidate\n"
        "from backendpool_async.balance.policies import Maglev\n"
        "entries = json.loads(sys.argv[1])\n"
        "crowd = [Candidate(Backend(text, weight=weight)) for text, weight in entries]\n"
        "choose = Maglev().prepare(crowd)\n"
        "print(json.dumps({f'user-{n}': choose(f'user-{n}').backend for n in range(2000)}))\n"
    )
    crowd = candidates(*(1 + n % 2 for n in range(30)))
    entries = json.dumps([(each.backend, each.weight) for each in reversed(crowd)])
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program, entries],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        assert json.loads(done.stdout) == mapping(Maglev().prepare(crowd), KEYS[:2000])


def test_a_release_does_not_move_keys() -> None:
    crowd = [Candidate(Backend(f"10.0.0.{n}:8080", weight=1 + n % 2)) for n in range(10)]
    choose = Maglev().prepare(crowd)
    keys = ["", "user-1", "user-2", "/index.html", "ключ", "a" * 1000]
    assert [choose(key).backend.host for key in keys] == [
        "10.0.0.5",
        "10.0.0.8",
        "10.0.0.1",
        "10.0.0.9",
        "10.0.0.1",
        "10.0.0.5",
    ]


def test_a_key_that_is_no_unicode_has_its_backend_too() -> None:
    choose = Maglev().prepare(candidates(1, 1, 1))
    assert choose("\udcff") is choose("\udcff")
    assert len({choose(f"{n}\udcff") for n in range(50)}) == 3


def test_without_a_key_each_is_as_likely_as_its_share() -> None:
    crowd = candidates(1, 2, 3)
    choose = Maglev(rng=random.Random(1)).prepare(crowd)
    got = Counter(choose(None) for _ in range(30_000))
    assert fits(got, lambda each: each.weight)


def test_one_backend_is_every_choice() -> None:
    (only,) = candidates(5)
    choose = Maglev(slots=3).prepare([only])
    assert {choose(key) for key in (None, *KEYS[:20])} == {only}


@pytest.mark.parametrize("slots", [-7, 0, 1, 4, 65_536, 16_777_289])
def test_the_number_of_slots_is_a_prime(slots: int) -> None:
    with pytest.raises(ValueError, match="prime"):
        Maglev(slots=slots)


@pytest.mark.parametrize("slots", [True, 7.0, "7"])
def test_the_number_of_slots_is_a_whole_number(slots: object) -> None:
    with pytest.raises(TypeError, match="whole number"):
        Maglev(slots=slots)  # type: ignore[arg-type]  # what an untyped caller may do


@pytest.mark.parametrize(
    ("slots", "number", "size"),
    [
        (65_537, 655, 65_537),
        (65_537, 656, 262_147),
        (65_537, 10_000, 1_048_583),
        (65_537, 90_000, 4_194_319),
        (1_009, 10, 1_009),
        (1_009, 11, 65_537),
        (16_777_259, 90_000, 16_777_259),
        (16_777_259, 900_000, 16_777_259),
    ],
)
def test_the_table_grows_with_the_list(slots: int, number: int, size: int) -> None:
    assert Maglev(slots=slots)._size(number) == size


def test_all_sizes_are_primes() -> None:
    assert all(map(is_prime, PRIMES))


def test_building_a_table_lets_other_threads_run() -> None:
    crowd = candidates(*[1] * 1500)
    builder = threading.Thread(target=Maglev().prepare, args=(crowd,))
    before = sys.getswitchinterval()
    # Nobody is interrupted: another thread runs when the builder lets it, or not at all.
    sys.setswitchinterval(60.0)
    try:
        builder.start()
        turns = 0
        while builder.is_alive():
            builder.join(0.0001)
            turns += 1
    finally:
        sys.setswitchinterval(before)
    assert turns > 20
