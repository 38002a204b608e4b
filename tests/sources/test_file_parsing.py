from __future__ import annotations

import codecs
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backendpool_async import Backend, InvalidBackend
from backendpool_async.sources.file_parser import NOTHING, Parsed, parse

settings_here = settings(deadline=None, max_examples=100)

PATH = "backends.txt"
ENTRIES = st.sampled_from(
    ["a:1", "A:1", " a:1\t", "b-2.example.:80", "10.0.0.1:80", "[::1]:80", "[0::1]:80", "a-9:1"]
)
NOISE = st.sampled_from(["", "   ", "\t", "#", "# comment", "  # a:1", "#é", "\x0c", "\x0b", "\r"])
BAD = st.sampled_from(
    ["a", "a:0", "a:1 # no", "a:1,b:1", "é:1", "::1", "\ufeffa:1", "a:1\rb:1", "\0"]
)
LINES = st.lists(ENTRIES | NOISE, max_size=25)


def numbered(count: int, seed: int = 0) -> list[str]:
    """Many lines of many lengths: each piece of 16 KiB ends somewhere else."""
    chance = random.Random(seed)
    return [
        chance.choice([f"10.0.{n >> 8 & 255}.{n & 255}:{n % 999 + 1}", f"h{n}.x{'y' * (n % 50)}:1"])
        for n in range(count)
    ]


def naively(content: bytes) -> tuple[tuple[str, ...], int | None]:
    """Return the backends and the number of the first bad line, by the book."""
    found: dict[str, None] = {}
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).decode().split("\n"), 1):
        entry = line.strip(" \t\r\f\v")
        if not entry or entry.startswith("#"):
            continue
        try:
            found[Backend(entry)] = None
        except InvalidBackend:
            return (), number
    return tuple(found), None


def check(content: bytes, before: Parsed = NOTHING) -> Parsed:
    backends, bad = naively(content)
    if bad is not None:
        with pytest.raises(InvalidBackend) as caught:
            parse(content, before, 100_000, PATH)
        assert caught.value.place == f"line {bad} of '{PATH}'"
        return before
    parsed = parse(content, before, 100_000, PATH)
    assert parsed.content == content
    assert parsed.backends == backends
    assert {type(backend) for backend in parsed.backends} <= {Backend}
    return parsed


@settings_here
@given(LINES, st.booleans(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_file_is_what_its_lines_are_one_by_one(
    lines: list[str], mark: bool, end: str, last_end: bool
) -> None:
    text = end.join([*lines, ""] if last_end else lines)
    check((codecs.BOM_UTF8 if mark else b"") + text.encode())


@settings_here
@given(LINES, BAD, LINES, st.booleans(), st.integers(0, 3000))
def test_a_bad_line_refuses_the_file_by_its_number_wherever_it_stands(
    head: list[str], bad: str, tail: list[str], mark: bool, before: int
) -> None:
    text = "\n".join([*numbered(before), *head, bad, *tail, "also bad"])
    check((codecs.BOM_UTF8 if mark else b"") + text.encode())


@settings_here
@given(st.integers(0, 2**32), st.integers(1, 9_000), LINES, st.integers(0, 9_000))
def test_a_line_across_the_border_of_two_pieces_is_read_whole(
    seed: int, count: int, extra: list[str], at: int
) -> None:
    lines = numbered(count, seed)
    lines[at:at] = extra
    check("\n".join([*lines, ""]).encode())


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "change", "move", "double", "truncate", "append"]),
        st.integers(0, 10_000),
        st.integers(1, 4_000),
        ENTRIES | NOISE | BAD,
    ),
    min_size=1,
    max_size=4,
)


def edited(lines: list[str], kind: str, at: int, length: int, line: str) -> list[str]:
    at %= len(lines) + 1
    before, piece, after = lines[:at], lines[at : at + length], lines[at + length :]
    if kind == "insert":
        return [*before, line, *piece, *after]
    if kind == "delete":
        return before + after
    if kind == "change":
        return [*before, line, *piece[1:], *after]
    if kind == "move":
        return piece + before + after
    if kind == "double":
        return before + piece + piece + after
    return before if kind == "truncate" else [*lines, line]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 9), st.integers(0, 8_000), EDITS, st.booleans())
def test_parsing_after_an_edit_agrees_with_parsing_afresh(
    seed: int, count: int, edits: list[tuple[str, int, int, str]], last_end: bool
) -> None:
    lines = numbered(count, seed)
    parsed = check("\n".join([*lines, ""]).encode())
    for edit in edits:
        lines = edited(lines, *edit)
        text = "\n".join([*lines, ""] if last_end else lines)
        parsed = check(text.encode(), parsed)


@settings_here
@given(st.integers(0, 200), st.sampled_from([b"", codecs.BOM_UTF8]), st.sampled_from([b"", b"\n"]))
def test_a_last_line_that_grows_is_read_again(count: int, mark: bytes, end: bytes) -> None:
    content = "\n".join([*numbered(count), "last:8"]).encode() + end
    parsed = check(content)
    check(content + b"0\n", parsed)
    check(mark + content + b"080", parsed)


@pytest.mark.parametrize("prefix", [b"#", b"x", b" ", codecs.BOM_UTF8, b"a:1\n"])
def test_a_first_line_that_changes_at_its_beginning_is_read_again(prefix: bytes) -> None:
    for lines in (["h:1", "i:1"], ["h:1", *numbered(5_000)]):
        content = "\n".join([*lines, ""]).encode()
        check(prefix + content, check(content))


def test_what_did_not_change_is_not_made_anew() -> None:
    lines = numbered(50_000)
    before = check("\n".join([*lines, ""]).encode())
    lines[25_000] = "changed:1"
    after = check("\n".join([*lines, ""]).encode(), before)
    ids = set(map(id, before.backends))
    assert sum(id(backend) in ids for backend in after.backends) > 48_000


def test_the_first_of_two_duplicates_keeps_its_place_across_pieces() -> None:
    lines = numbered(3_000)
    parsed = check("\n".join([*lines, *reversed(lines), ""]).encode())
    assert parsed.backends == tuple(lines)
    check("\n".join(["new:1", *lines, *reversed(lines), ""]).encode(), parsed)


def test_a_file_that_has_nothing_in_common_with_the_one_before_is_parsed_afresh() -> None:
    parsed = check("\n".join([*numbered(20_000), ""]).encode())
    for lines in (numbered(20_000)[::-1], ["a:1"], [], numbered(20_000)[10_000:]):
        check("\n".join([*lines, ""]).encode(), parsed)


@pytest.mark.parametrize("limit", [2_999, 3_000])
def test_the_limit_holds_for_a_file_that_was_parsed_before(limit: int) -> None:
    lines = numbered(3_000)
    before = parse("\n".join([*lines[:2_000], ""]).encode(), NOTHING, limit, PATH)
    content = "\n".join([*lines, ""]).encode()
    if limit == 3_000:
        assert parse(content, before, limit, PATH).backends == tuple(lines)
    else:
        with pytest.raises(InvalidBackend, match="more than max_backends=2999"):
            parse(content, before, limit, PATH)
