from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backendpool_async import Backend, Subset


def listed(count: int) -> tuple[Backend, ...]:
    return tuple(Backend(f"10.0.0.{n}:80") for n in range(count))


def uses(count: int, size: int, clients: range) -> Counter[Backend]:
    """How many of these clients have each backend in their subset."""
    backends = listed(count)
    found = Counter(dict.fromkeys(backends, 0))
    for client in clients:
        found.update(Subset(client=client, size=size).of(backends))
    return found


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(2, 8), st.integers(0, 20), st.integers(1, 5))
def test_in_whole_rounds_every_backend_is_in_as_many_subsets_as_any_other(
    size: int, subsets: int, first: int, rounds: int
) -> None:
    clients = range(first * subsets, (first + rounds) * subsets)
    assert set(uses(size * subsets, size, clients).values()) == {rounds}


def test_in_one_round_no_backend_is_used_twice_and_the_remainder_not_at_all() -> None:
    for number in range(50):
        found = uses(14, 3, range(number * 4, number * 4 + 4))
        assert Counter(found.values()) == {1: 12, 0: 2}


def test_what_is_left_over_is_another_one_in_each_round() -> None:
    rounds = 1_000
    found = uses(14, 3, range(rounds * 4))
    # Left out at random in 2 of 14 rounds; five standard deviations are 55.
    assert all(abs(times - rounds * 12 / 14) < 55 for times in found.values())


def test_clients_of_different_rounds_share_different_backends() -> None:
    backends = listed(100)
    subsets = {frozenset(Subset(client=n, size=10).of(backends)) for n in range(500)}
    assert len(subsets) == 500


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1_000), st.integers(1, 20), st.integers(0, 40), st.integers())
def test_the_order_of_the_list_decides_the_order_of_the_subset_and_nothing_else(
    client: int, size: int, count: int, seed: int
) -> None:
    subset, backends = Subset(client=client, size=size), list(listed(count))
    expected = set(subset.of(backends))
    random.Random(seed).shuffle(backends)
    assert subset.of(backends) == tuple(each for each in backends if each in expected)
    assert len(expected) == min(size, count)


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_a_list_of_up_to_size_is_used_whole(count: int) -> None:
    for client in (0, 1, 7, 10**12):
        assert Subset(client=client, size=5).of(listed(count)) == listed(count)
    assert len(Subset(client=1, size=5).of(listed(6))) == 5


def test_weights_and_attributes_come_along() -> None:
    backends = [Backend(each, weight=3, zone="near") for each in listed(6)]
    assert {(each.weight, each.zone) for each in Subset(client=1, size=2).of(backends)} == {
        (3, "near")
    }


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused_by_name(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^size={size} is not at least 1"):
        Subset(client=0, size=size)


@pytest.mark.parametrize("client", [-1, -7])
def test_a_client_below_zero_is_refused_by_name(client: int) -> None:
    with pytest.raises(ValueError, match=rf"^client={client} is not at least 0"):
        Subset(client=client, size=1)


@pytest.mark.parametrize("wrong", [1.0, "1", None, True])
@pytest.mark.parametrize("name", ["client", "size"])
def test_what_is_no_whole_number_is_refused_by_name(name: str, wrong: object) -> None:
    numbers = {"client": 1, "size": 1, name: wrong}
    with pytest.raises(TypeError, match=rf"^{name}={wrong!r} is no whole number"):
        Subset(**numbers)  # type: ignore[arg-type]  # what it is for


def test_every_process_and_version_finds_the_same_subset() -> None:
    program = (
        "from backendpool_async import Backend, Subset\n"
        "backends = [Backend(f'10.0.0.{n}:80') for n in range(20)]\n"
        "print(*(each.host.rpartition('.')[2] for each in Subset(client=7, size=4).of(backends)))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    ours = Subset(client=7, size=4).of(listed(20))
    assert printed == {" ".join(each.host.rpartition(".")[2] for each in ours) + "\n"}
    # Clients of one service that run on several Pythons share one shuffle.
    assert printed == {"3 5 15 19\n"}
