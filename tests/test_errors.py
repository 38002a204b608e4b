from __future__ import annotations

import copy
import pickle
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendpool_async import (
    BackendPoolError,
    EmptyAnswer,
    InvalidBackend,
    NoBackends,
    PoolClosed,
    SourceError,
    SourceTimeout,
)
from backendpool_async.errors import counted, describe, quote, without_tracebacks


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (InvalidBackend, (BackendPoolError, ValueError)),
        (SourceError, (BackendPoolError,)),
        (SourceTimeout, (SourceError,)),
        (EmptyAnswer, (SourceError,)),
        (NoBackends, (BackendPoolError, LookupError)),
        (PoolClosed, (BackendPoolError,)),
        (BackendPoolError, (Exception,)),
    ],
)
def test_every_error_has_its_place_in_the_tree(
    error: type[Exception], bases: tuple[type[Exception], ...]
) -> None:
    assert error.__bases__ == bases


def test_the_tree_in_the_docstring_names_every_error() -> None:
    from backendpool_async import errors

    for name, thing in vars(errors).items():
        if isinstance(thing, type) and issubclass(thing, BackendPoolError):
            assert name in str(errors.__doc__)


def test_invalid_backend_says_what_where_and_why() -> None:
    error = InvalidBackend("api", "no port", "line 3 of 'backends.txt'")
    assert str(error) == "invalid backend 'api' (line 3 of 'backends.txt'): no port"
    assert (error.entry, error.reason) == ("api", "no port")
    assert error.place == "line 3 of 'backends.txt'"


def test_invalid_backend_says_no_place_where_there_is_only_one() -> None:
    assert str(InvalidBackend("api", "no port")) == "invalid backend 'api': no port"


def test_a_source_error_names_the_source_what_happened_and_what_is_kept() -> None:
    error = SourceError("env:API", "no such thing", "keeping the 2 backends")
    assert str(error) == "env:API: no such thing; keeping the 2 backends"
    assert (error.source, error.reason, error.kept) == (
        "env:API", "no such thing", "keeping the 2 backends",
    )  # fmt: skip
    assert str(SourceError("env:API", "no such thing")) == "env:API: no such thing"


@pytest.mark.parametrize("kind", [SourceError, SourceTimeout, EmptyAnswer])
def test_a_fresh_copy_has_the_kind_and_the_cause_and_no_traceback(kind: type[SourceError]) -> None:
    cause = OSError("no route")
    with pytest.raises(kind) as caught:
        raise kind("source", "reason", "kept") from cause
    fresh = caught.value.fresh()
    assert fresh is not caught.value
    assert type(fresh) is kind
    assert fresh.args == caught.value.args
    assert fresh.__cause__ is cause
    assert fresh.__traceback__ is None


@pytest.mark.parametrize(
    "error",
    [
        InvalidBackend("api", "no port", "line 3"),
        SourceError("a", "b", "c"),
        SourceTimeout("a", "b"),
        EmptyAnswer("a", "b"),
        NoBackends("none"),
        PoolClosed("closed"),
    ],
)
def test_errors_survive_pickle_and_copy(error: BackendPoolError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert vars(twin) == vars(error)
        assert str(twin) == str(error)


@given(st.text())
def test_foreign_text_is_quoted_on_one_printable_ascii_line_of_bounded_length(text: str) -> None:
    quoted = quote(text)
    assert quoted.isascii()
    assert quoted.isprintable()
    assert len(quoted) <= 120
    assert "\n" not in quoted


@pytest.mark.parametrize("length", [118, 119, 10_000_000])
def test_a_long_text_is_cut_and_says_so(length: int) -> None:
    quoted = quote("x" * length)
    assert len(quoted) <= 120
    assert quoted.endswith("...'") is (length > 118)


def test_an_exception_is_described_on_one_line_by_type_and_message() -> None:
    assert describe(OSError("no such\nhost")) == "OSError: 'no such\\nhost'"
    assert describe(TimeoutError()) == "TimeoutError"


def test_what_was_escaped_already_is_not_escaped_again() -> None:
    error = InvalidBackend("a\nb", "a control character")
    assert describe(error).count("\\") == 1
    assert describe(error).isprintable()


class Unprintable:
    def __str__(self) -> NoReturn:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("thing", [Unprintable(), 10**5000], ids=["no str", "int beyond the limit"])
def test_what_cannot_be_printed_is_quoted_by_its_type(thing: object) -> None:
    assert type(thing).__name__ in quote(thing)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 backends"), (1, "1 backend"), (2, "2 backends")]
)
def test_backends_are_counted_in_english(number: int, text: str) -> None:
    assert counted(number) == text


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    with pytest.raises(type(error)) as caught:
        raise error from cause
    return caught.value


def test_tracebacks_are_taken_off_the_whole_chain_and_every_group() -> None:
    inner = raised(KeyError("inner"))
    member = raised(OSError("member"), raised(ValueError("cause of a member")))
    group = raised(ExceptionGroup("group", [member, ValueError()]), inner)
    context = raised(IndexError())
    inner.__context__ = context
    assert without_tracebacks(group) is group
    for error in (group, inner, member, member.__cause__, context):
        assert error is not None
        assert error.__traceback__ is None


def test_a_chain_that_leads_back_to_itself_ends() -> None:
    one, two = raised(KeyError()), raised(ValueError())
    one.__context__, two.__context__ = two, one
    without_tracebacks(one)
    assert two.__traceback__ is None
