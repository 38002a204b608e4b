"""How long a line of a file may be: 64 KiB without its newline, wherever it stands."""

from __future__ import annotations

import codecs
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backendpool_async.sources.file_parser import NOTHING, Parsed, parse

LIMIT = 64 * 1024
ENTRY = b"a:1\n"
# So many lines before it: none, about as many as one piece of the parser has, and many pieces.
BEFORE = [0, 1, 4_095, 4_096, 4_097, 16_384, 40_000]
TOO_LONG = [LIMIT + 1, LIMIT + 2, 70_000, 81_919, 81_920, 81_921, 200_000]


def comment(length: int) -> bytes:
    return b"#" * length


def comment_beyond_ascii(length: int) -> bytes:
    return b"#" * (2 - length % 2) + "é".encode() * ((length - 1) // 2)


def entry_in_space(length: int) -> bytes:
    return b"b:1 ".rjust(length)


LINES = [comment, comment_beyond_ascii, entry_in_space]


def parsed(content: bytes, before: Parsed = NOTHING) -> Parsed:
    return parse(content, before, 1_000_000, "backends.txt")


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("count", BEFORE)
def test_one_byte_over_64_kib_is_refused_by_its_number_wherever_the_line_stands(
    count: int, line: Callable[[int], bytes]
) -> None:
    for mark in (b"", codecs.BOM_UTF8):
        head = mark + ENTRY * count
        for tail in (b"", b"\n", b"\nc:1\n", b"\n" + b"c:1\n" * 20_000):
            parsed(head + line(LIMIT) + tail)
            for length in TOO_LONG:
                with pytest.raises(ValueError, match=rf"^line {count + 1} is over 64 KiB long$"):
                    parsed(head + line(length) + tail)


@pytest.mark.parametrize("line", LINES)
def test_lines_of_64_kib_may_follow_each_other(line: Callable[[int], bytes]) -> None:
    content = (line(LIMIT) + b"\n") * 5 + b"c:1\n"
    assert parsed(content).backends[-1] == "c:1"
    with pytest.raises(ValueError, match=r"^line 7 is over"):
        parsed(content + line(LIMIT + 1))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 40_000) | st.integers(LIMIT - 2, LIMIT + 2), max_size=12), st.data())
def test_a_long_line_is_refused_also_where_the_rest_of_the_file_is_known(
    lengths: list[int], data: st.DataObject
) -> None:
    before = parsed(b"".join(comment(min(length, LIMIT)) + b"\n" for length in lengths))
    at = data.draw(st.integers(0, len(lengths)))
    lengths.insert(at, data.draw(st.integers(LIMIT - 2, LIMIT + 2)))
    content = b"\n".join(map(comment, lengths)) + data.draw(st.sampled_from([b"", b"\n"]))
    number = next((n for n, length in enumerate(lengths, 1) if length > LIMIT), None)
    if number is None:
        assert parsed(content, before).content == content
    else:
        with pytest.raises(ValueError, match=rf"^line {number} is over 64 KiB long$"):
            parsed(content, before)


def test_a_text_without_a_line_end_is_refused_and_not_swallowed() -> None:
    with pytest.raises(ValueError, match=r"^line 1 is over 64 KiB long$"):
        parsed(b"x" * 10_000_000)
