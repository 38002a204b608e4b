from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backendpool_async import Backend, InvalidBackend
from backendpool_async.bulk import CHUNK, Collector, parse_backends, parse_chunk, parsed_chunks

ENTRIES = st.sampled_from(
    ["a:1", "A:1", "b.c:2", "10.0.0.1:80", "[::1]:80", "[0::1]:80", Backend("a:1"), "x.:65535"]
)
BAD = st.sampled_from(
    ["", "a", "a:0", "a:1\n", "a:1\nb:2", "10.0.0.256:1", "é:1", "a :1", "::1:80"]
)


def one_by_one(entries: Iterable[str]) -> tuple[Backend, ...]:
    return tuple(dict.fromkeys(Backend.parse(entry) for entry in entries))


@settings(deadline=None)
@given(st.lists(ENTRIES, max_size=30), st.integers(0, 3))
def test_a_good_list_is_what_its_entries_are_one_by_one(entries: list[str], times: int) -> None:
    # Long lists too: several chunks, the last of them whole or not.
    entries = entries * (1 + times * CHUNK // max(len(entries), 1))
    backends = parse_backends(entries, len(entries))
    assert backends == one_by_one(entries)
    assert {type(backend) for backend in backends} <= {Backend}


@settings(deadline=None)
@given(st.lists(ENTRIES, max_size=30), BAD, st.integers(0, 2 * CHUNK + 5))
def test_one_bad_entry_refuses_the_list_and_is_named_by_its_number(
    entries: list[str], bad: str, before: int
) -> None:
    good = list(itertools.islice(itertools.cycle(["a:1", *entries]), before))
    with pytest.raises(InvalidBackend) as caught:
        parse_backends([*good, bad, *entries, "also bad"], 10 * CHUNK)
    with pytest.raises(InvalidBackend) as alone:
        Backend(bad)
    assert caught.value.place == f"entry {before + 1}"
    assert (caught.value.entry, caught.value.reason) == (bad, alone.value.reason)


def test_duplicates_collapse_and_the_first_keeps_its_place_and_weight() -> None:
    heavy = Backend("a:1", weight=2)
    backends = parse_backends(["b:1", heavy, "B:1", "a:1", "c:1", "b:1"], 10)
    assert backends == ("b:1", "a:1", "c:1")
    assert backends[1] is heavy


def test_a_duplicate_in_a_later_chunk_collapses_too() -> None:
    many = [f"10.0.{n // 250}.{n % 250}:80" for n in range(2 * CHUNK)]
    assert parse_backends(many + many[::-1], 4 * CHUNK) == tuple(many)


def test_backends_that_are_parsed_already_are_kept_as_they_are() -> None:
    backends = tuple(Backend(f"a{n}:1") for n in range(3))
    assert all(map(lambda a, b: a is b, parse_backends(backends, 3), backends))


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_the_limit_counts_entries_and_names_the_first_beyond_it(size: int) -> None:
    entries = [f"h{n}:1" for n in range(size)]
    assert len(parse_backends(entries, size)) == size
    with pytest.raises(InvalidBackend) as caught:
        parse_backends(entries, size - 1)
    assert caught.value.entry == f"h{size - 1}:1"
    assert caught.value.reason == f"more than max_backends={size - 1} entries"


def test_the_limit_counts_duplicates_too() -> None:
    with pytest.raises(InvalidBackend, match="max_backends=2"):
        parse_backends(["a:1", "a:1", "a:1"], 2)


def test_an_endless_iterator_ends_at_the_limit() -> None:
    taken = itertools.count()
    endless = (f"h{n}:1" for n in taken)
    with pytest.raises(InvalidBackend, match="more than max_backends=5000"):
        parse_backends(endless, 5_000)
    assert next(taken) <= 5_000 + CHUNK


@pytest.mark.parametrize(
    "thing", [None, "a:1", b"a:1", bytearray(b"a:1"), {"a:1": 1}, 80, 1.5, object()]
)
def test_what_is_no_list_is_refused_with_its_type(thing: object) -> None:
    with pytest.raises(InvalidBackend) as caught:
        parse_backends(thing, 10)  # type: ignore[arg-type]  # what it is for
    assert caught.value.reason == f"a list of 'host:port' is expected, not {type(thing).__name__}"
    assert caught.value.entry is thing


@pytest.mark.parametrize("make", [list, tuple, iter, lambda names: dict.fromkeys(names).keys()])
def test_any_iterable_of_strings_is_a_list_in_its_own_order(
    make: Callable[[list[str]], Iterable[str]],
) -> None:
    assert parse_backends(make(["b:1", "a:1"]), 10) == ("b:1", "a:1")


@pytest.mark.parametrize("make", [set, frozenset])
def test_a_set_has_one_order_whatever_the_order_of_its_hashes(
    make: Callable[[Iterable[str]], Iterable[str]],
) -> None:
    names = [f"host-{n:03}:80" for n in range(200)]
    assert parse_backends(make(names), 200) == tuple(names)


@pytest.mark.parametrize("thing", [None, 80, b"a:1", ["a:1"]])
def test_an_entry_that_is_no_string_is_named_by_its_number(thing: object) -> None:
    with pytest.raises(InvalidBackend, match=r"entry 2\): not a string but"):
        parse_backends(["a:1", thing, "b:1"], 10)  # type: ignore[list-item]  # what it is for


def test_what_an_iterator_raises_comes_through() -> None:
    def broken() -> Iterable[str]:
        yield "a:1"
        raise ConnectionResetError("peer")

    with pytest.raises(ConnectionResetError):
        parse_backends(broken(), 10)


def test_chunks_come_one_by_one_so_that_a_caller_can_pause() -> None:
    chunks = parsed_chunks(f"h{n}:1" for n in range(2 * CHUNK + 1))
    assert [len(chunk) for chunk in chunks] == [CHUNK, CHUNK, 1]
    assert list(parsed_chunks([])) == []


def test_a_place_is_asked_for_only_when_an_entry_is_bad() -> None:
    asked: list[int] = []

    def place(index: int) -> str:
        asked.append(index)
        return "there"

    assert parse_chunk(["A:1", "b:1"], place) == ["a:1", "b:1"]
    assert asked == []
    with pytest.raises(InvalidBackend, match="there"):
        parse_chunk(["A:1", "b:1", "c"], place)
    assert asked == [2]


def settled(collector: Collector) -> tuple[Backend, ...]:
    for _ in collector.settle():
        pass
    return collector.backends()


def test_a_collector_without_anything_is_empty() -> None:
    assert settled(Collector(0)) == ()


@given(st.lists(st.tuples(st.booleans(), st.lists(ENTRIES, max_size=4)), max_size=6))
def test_what_is_known_to_be_unique_is_still_compared_with_what_is_not(
    parts: list[tuple[bool, list[str]]],
) -> None:
    collector = Collector(100)
    every: list[Backend] = []
    unique: set[Backend] = set()
    for known, entries in parts:
        backends = list(map(Backend.parse, entries))
        if known:
            backends = [each for each in dict.fromkeys(backends) if each not in unique]
            unique.update(backends)
            collector.add_known(backends)
        else:
            collector.add(backends)
        every += backends
    assert settled(collector) == tuple(dict.fromkeys(every))


def test_a_long_list_is_settled_in_steps_and_a_short_one_in_none() -> None:
    short, long = Collector(CHUNK), Collector(100 * CHUNK)
    short.add(parse_backends([f"h{n}:1" for n in range(CHUNK)], CHUNK))
    long.add(parse_backends([f"h{n}:1" for n in range(50 * CHUNK)], 50 * CHUNK))
    assert (len(list(short.settle())), len(list(long.settle()))) == (0, 1)
    assert len(long.backends()) == 50 * CHUNK


def test_a_large_list_costs_the_garbage_collector_nothing() -> None:
    backends = parse_backends([f"h{n}:1" for n in range(3)], 3)
    assert not any(map(gc.is_tracked, backends))
