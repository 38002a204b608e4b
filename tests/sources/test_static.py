from __future__ import annotations

from typing import Any

import pytest

from backendpool_async import BackendPool, InvalidBackend
from backendpool_async.sources.static import StaticSource


def test_a_fixed_list_is_readable_without_start_and_without_a_loop() -> None:
    pool = BackendPool.static(["B:2", "a:1", "b:2"])
    assert pool.backends() == ("b:2", "a:1")
    assert repr(pool) == "<BackendPool static: 2 backends, generation 0>"


def test_a_generator_is_a_list_too() -> None:
    assert BackendPool.static(f"h{n}:1" for n in range(3)).backends() == ("h0:1", "h1:1", "h2:1")


async def test_start_and_refresh_of_a_fixed_list_change_nothing() -> None:
    pool = BackendPool.static(["a:1"])
    before = pool.snapshot
    async with pool:
        assert await pool.refresh() is before
        await pool.start()
        assert pool.snapshot is before


async def test_a_pushed_list_stays_because_nothing_refreshes_it() -> None:
    async with BackendPool.static(["a:1"]) as pool:
        pool.update(["b:2"])
        assert (await pool.refresh()).backends == ("b:2",)


async def test_a_fixed_list_may_be_empty() -> None:
    async with BackendPool.static([]) as pool:
        assert pool.backends() == ()
        assert pool.snapshot.error is None


@pytest.mark.parametrize("entries", [["a:1", "b"], "a:1", None, {"a:1": 2}])
def test_a_bad_entry_is_refused_where_the_pool_is_made(entries: Any) -> None:
    with pytest.raises(InvalidBackend):
        BackendPool.static(entries)


def test_a_list_beyond_max_backends_is_refused() -> None:
    with pytest.raises(InvalidBackend, match="max_backends=1"):
        BackendPool.static(["a:1", "b:1"], max_backends=1)


async def test_the_source_itself_answers_with_its_list() -> None:
    source = StaticSource(["a:1"])
    assert await source.fetch() == ["a:1"]
    assert str(source) == "static"
