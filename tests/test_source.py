from __future__ import annotations

import asyncio
import functools
import itertools
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from backendpool_async import Answer, Backend, BackendPool, InvalidBackend, Source, SourceError
from backendpool_async.bulk import CHUNK, DEFAULT_MAX_BACKENDS
from backendpool_async.source import (
    ClosableSource,
    FunctionSource,
    NotifyingSource,
    as_source,
    checked,
    name_of,
)
from backendpool_async.testing import HintingSource, ScriptedSource, fed_pool


class Registry:
    async def fetch(self) -> list[str]:
        return ["a:1"]


class Named(Registry):
    def __str__(self) -> str:
        return "registry\n" + "x" * 500


async def coroutine_function() -> list[str]:
    return ["a:1"]


def plain_function() -> list[str]:
    return ["a:1"]


async def piecemeal() -> AsyncIterator[str]:
    yield "a:1"


def generator() -> Iterator[str]:
    yield "a:1"


def test_an_answer_holds_parsed_backends_and_a_ttl() -> None:
    answer = Answer(["B:2", "a:1", "b:2"], ttl=10)
    assert answer.backends == ("b:2", "a:1")
    assert all(type(backend) is Backend for backend in answer.backends)
    assert answer.ttl == 10
    assert Answer([]).ttl is None


def test_a_bad_entry_of_an_answer_is_named() -> None:
    with pytest.raises(InvalidBackend, match="entry 2"):
        Answer(["a:1", "b"])


def test_an_answer_is_bounded() -> None:
    with pytest.raises(InvalidBackend, match="max_backends"):
        Answer(itertools.repeat("a:1"))


@pytest.mark.parametrize("ttl", [-1, -0.001, math.nan, math.inf])
def test_a_ttl_is_a_finite_number_of_seconds(ttl: float) -> None:
    with pytest.raises(ValueError, match="no number of seconds"):
        Answer(["a:1"], ttl=ttl)


def test_anything_with_fetch_is_a_source_and_passes_as_it_is() -> None:
    registry = Registry()
    assert isinstance(registry, Source)
    assert as_source(registry) is registry
    assert not isinstance(registry, (NotifyingSource, ClosableSource))
    assert isinstance(HintingSource([]), NotifyingSource)
    assert isinstance(ScriptedSource([]), ClosableSource)


@pytest.mark.parametrize(
    "function",
    [
        coroutine_function,
        functools.partial(asyncio.sleep, 0, ["a:1"]),
        Registry().fetch,
        lambda: coroutine_function(),
    ],
)
async def test_a_callable_that_returns_an_awaitable_is_a_source(
    function: Callable[[], Any],
) -> None:
    assert await as_source(function).fetch() == ["a:1"]


@pytest.mark.parametrize("function", [plain_function, generator, lambda: None])
async def test_a_function_that_returns_no_awaitable_fails_with_a_hint(
    function: Callable[[], Any],
) -> None:
    with pytest.raises(TypeError, match="'async def'"):
        await FunctionSource(function).fetch()


@pytest.mark.parametrize("thing", [None, "a:1", ["a:1"], 80, piecemeal()])
def test_what_cannot_be_asked_is_refused_where_the_pool_is_made(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"a source is a coroutine function.*BackendPool.static"):
        BackendPool(thing)


def test_a_coroutine_that_was_called_already_is_refused_and_closed() -> None:
    # Closed: Python warns of one that was never awaited, and a warning fails a test here.
    with pytest.raises(TypeError, match="without calling it"):
        as_source(coroutine_function())  # type: ignore[arg-type]  # what it is for


def test_an_async_generator_function_is_refused() -> None:
    with pytest.raises(TypeError, match="piecemeal"):
        as_source(piecemeal)  # type: ignore[arg-type]  # what it is for


def test_a_source_is_named_by_its_str_or_else_by_its_class() -> None:
    assert name_of(Registry()) == "Registry"
    assert name_of(as_source(coroutine_function)) == "coroutine_function"
    assert name_of(as_source(functools.partial(coroutine_function))) == "partial"


def test_the_name_of_a_source_is_one_short_printable_line() -> None:
    name = name_of(Named())
    assert name.startswith("registry\\nxxx")
    assert name.isprintable()
    assert len(name) <= 120


async def test_an_answer_is_passed_on_as_it_is_when_it_is_not_too_long() -> None:
    answer = Answer(["a:1", "b:1"], ttl=5)
    assert await checked(answer, 2) is answer
    with pytest.raises(InvalidBackend, match="'b:1': more than max_backends=1"):
        await checked(answer, 1)


async def test_a_list_is_parsed_and_has_no_ttl() -> None:
    answer = await checked(["A:1", "b:1", "a:1"], 3)
    assert (answer.backends, answer.ttl) == (("a:1", "b:1"), None)


class Sorted(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise AssertionError("it was sorted")


async def test_a_set_beyond_the_limit_is_refused_before_it_is_sorted() -> None:
    assert (await checked({"b:1", "a:1"}, 2)).backends == ("a:1", "b:1")
    with pytest.raises(InvalidBackend, match="more than max_backends=2"):
        await checked({Sorted(f"h{n}:1") for n in range(3)}, 2)


async def test_a_list_that_says_what_is_held_already_is_not_made_anew() -> None:
    held = (Backend("a:1"), Backend("b:1"))
    for result in (["a:1", "b:1"], ("a:1", "b:1"), list(held)):
        assert (await checked(result, 2, held)).backends is held


@pytest.mark.parametrize("held", [("a:1", 1), ("a:1", 2), ("b:1", 1)])
@pytest.mark.parametrize(
    "result", [["a:1"], ["A:1"], ["b:1"], [Backend("a:1", weight=3)], ["a:1"] * 2]
)
async def test_what_is_held_never_shows_in_what_a_list_says(
    held: tuple[str, int], result: list[str]
) -> None:
    known = (Backend(held[0], weight=held[1]),)
    answer = await checked(result, 2, known)
    assert answer.backends == tuple(dict.fromkeys(map(Backend.parse, result)))
    assert [backend.weight for backend in answer.backends] == [
        getattr(entry, "weight", 1) for entry in dict.fromkeys(result)
    ]


async def test_a_long_list_is_parsed_with_pauses_for_the_loop() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count_turns())
    await checked([f"h{n}:1" for n in range(20 * CHUNK)], DEFAULT_MAX_BACKENDS)
    counter.cancel()
    await asyncio.wait({counter})
    assert turns >= 20


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (None, "not NoneType"),
        ("b:2", "not str"),
        (b"b:2", "not bytes"),
        ({"b:2": 1}, "not dict"),
        (80, "not int"),
        (itertools.repeat("b:2"), "more than max_backends=100000"),
        (["b:2", "c"], "entry 2"),
        ([None], "not a string but NoneType"),
        (["b:2\n"], "control character"),
        ([["b", 2]], "not a string but list"),
    ],
)
@pytest.mark.virtual_time
async def test_a_source_that_lies_is_refused_and_the_served_list_stays(
    lie: object, reason: str
) -> None:
    async with fed_pool("a:1") as (pool, feed):
        feed.then(lie)
        with pytest.raises(SourceError, match=reason) as caught:
            await pool.refresh()
        assert isinstance(caught.value.__cause__, InvalidBackend)
        assert pool.backends() == ("a:1",)
        assert (await feed.answer("c:3")).error is None
        assert pool.backends() == ("c:3",)


@pytest.mark.parametrize("entries", [["a"], None, "a:1", ["a:1", "b:0"], {"a:1": 1}])
async def test_constructors_and_update_refuse_what_is_no_list_of_backends(entries: Any) -> None:
    with pytest.raises(InvalidBackend):
        BackendPool.static(entries)
    with pytest.raises(InvalidBackend):
        BackendPool(Registry(), initial=entries)
    pool = BackendPool.static(["a:1"])
    with pytest.raises(InvalidBackend):
        pool.update(entries)
    assert pool.backends() == ("a:1",)
    assert pool.snapshot.generation == 0
