"""The directories above a watched file: renamed, replaced, noisy and unreadable."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import asyncinotify
import pytest
from servers import until
from watching import NEVER, replace, served, settled, watched

from backendpool_async import BackendPool
from backendpool_async.sources import directory_watch
from backendpool_async.sources.directory_watch import DirectoryWatch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")

add_watch = asyncinotify.Inotify.add_watch


def list_below(top: Path, backend: str) -> Path:
    """A list two directories below `top`."""
    path = top / "app" / "conf" / "list"
    path.parent.mkdir(parents=True)
    path.write_text(f"{backend}\n")
    return path


def refuse_to_watch(refused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a directory be one that may not be read; the tests may run as root, who may."""

    def add(self: asyncinotify.Inotify, path: Any, mask: asyncinotify.Mask) -> asyncinotify.Watch:
        if Path(path) == refused:
            raise PermissionError(13, "Permission denied")
        return add_watch(self, path, mask)

    monkeypatch.setattr(asyncinotify.Inotify, "add_watch", add)


async def exhaust(watch: DirectoryWatch) -> int:
    """Return how many changes it tells of, when it has told of all until now."""
    changes = 0
    with contextlib.suppress(TimeoutError):
        while True:
            await asyncio.wait_for(watch.changed(), 0.05)
            changes += 1
    return changes


async def settled_watch(path: Path) -> DirectoryWatch:
    watch = DirectoryWatch(str(path), asyncio.get_running_loop())
    await exhaust(watch)
    return watch


def is_woken(watch: DirectoryWatch) -> bool:
    return bool(select.select([watch._inotify.fd], [], [], 0)[0])


async def test_a_parent_whose_place_another_one_takes_is_seen_each_time(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    path = list_below(etc, "a:1")
    async with watched(path) as (pool, source):
        for number in range(1, 6):
            other, old = tmp_path / f"new{number}", tmp_path / f"old{number}"
            list_below(other, f"b:{number}")
            await settled(source)
            etc.rename(old)
            other.rename(etc)
            await served(pool, f"b:{number}")


async def test_what_took_the_place_is_watched_and_what_left_it_is_let_go(tmp_path: Path) -> None:
    etc, other, old = tmp_path / "etc", tmp_path / "other", tmp_path / "old"
    path = list_below(etc, "a:1")
    list_below(other, "b:1")
    async with watched(path) as (pool, source):
        etc.rename(old)
        other.rename(etc)
        await served(pool, "b:1")
        await settled(source)
        fetches = source.fetches
        replace(old / "app" / "conf" / "list", "c:1\n")
        shutil.rmtree(old)
        await settled(source)
        assert source.fetches == fetches
        replace(path, "d:1\n")
        await served(pool, "d:1")
        (etc / "app").rename(tmp_path / "gone")
        await until(lambda: pool.snapshot.error is not None)


async def test_a_parent_that_is_renamed_away_and_back_is_seen_both_times(tmp_path: Path) -> None:
    etc, away = tmp_path / "etc", tmp_path / "away"
    async with watched(list_below(etc, "a:1")) as (pool, source):
        for _ in range(3):
            await settled(source)
            etc.rename(away)
            await until(lambda: pool.snapshot.error is not None)
            assert pool.backends() == ("a:1",)
            await settled(source)
            away.rename(etc)
            await until(lambda: pool.snapshot.error is None)


async def test_a_parent_of_where_a_link_leads_is_seen_too(tmp_path: Path) -> None:
    releases, other = tmp_path / "releases", tmp_path / "other"
    (tmp_path / "list").symlink_to(list_below(releases, "a:1"))
    list_below(other, "b:1")
    async with watched(tmp_path / "list") as (pool, source):
        await settled(source)
        releases.rename(tmp_path / "old")
        other.rename(releases)
        await served(pool, "b:1")


@pytest.mark.parametrize("name", ["etc", "etc/app", "etc/app/conf", "etc/app/conf/list"])
async def test_what_is_renamed_while_nobody_listens_is_told_of_afterwards(
    tmp_path: Path, name: str
) -> None:
    watch = await settled_watch(list_below(tmp_path / "etc", "a:1"))
    (tmp_path / name).rename(tmp_path / "away")
    assert await exhaust(watch) >= 1
    (tmp_path / "away").rename(tmp_path / name)
    assert await exhaust(watch) >= 1
    await watch.close()


async def test_what_else_happens_in_a_parent_does_not_even_wake_the_process(
    tmp_path: Path,
) -> None:
    path = list_below(tmp_path / "etc", "a:1")
    watch = await settled_watch(path)
    for parent in (tmp_path, tmp_path / "etc", tmp_path / "etc" / "app"):
        (parent / "file").write_text("x")
        (parent / "file").rename(parent / "renamed")
        (parent / "renamed").unlink()
        (parent / "directory").mkdir()
        (parent / "directory").rmdir()
    assert not is_woken(watch)
    (tmp_path / "etc").rename(tmp_path / "old")
    assert is_woken(watch)
    await watch.close()


async def test_a_directory_that_was_waited_in_is_quiet_when_the_way_goes_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "etc" / "list"
    watch = await settled_watch(path)
    path.parent.mkdir()
    await exhaust(watch)
    (tmp_path / "neighbour").touch()
    assert not is_woken(watch)
    await watch.close()


async def test_a_directory_that_was_let_go_tells_of_nothing_more(tmp_path: Path) -> None:
    etc, other, old = tmp_path / "etc", tmp_path / "other", tmp_path / "old"
    watch = await settled_watch(list_below(etc, "a:1"))
    list_below(other, "b:1")
    etc.rename(old)
    other.rename(etc)
    # Before the watch can know that it is another directory by now.
    replace(old / "app" / "conf" / "list", "c:1\n")
    # That there are other directories to watch says all.
    assert await exhaust(watch) == 1
    replace(old / "app" / "conf" / "list", "d:1\n")
    shutil.rmtree(old)
    assert not is_woken(watch)
    await watch.close()


async def test_a_parent_that_may_not_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = list_below(tmp_path / "etc", "a:1")
    refuse_to_watch(tmp_path / "etc", monkeypatch)
    async with watched(path) as (pool, source):
        replace(path, "b:1\n")
        await served(pool, "b:1")
        await settled(source)
        assert caplog.messages == []
        path.parent.rename(tmp_path / "gone")
        await until(lambda: pool.snapshot.error is not None)


async def test_a_directory_of_the_file_that_may_not_be_read_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = list_below(tmp_path / "etc", "a:1")
    refuse_to_watch(path.parent, monkeypatch)
    async with BackendPool.file(path, watch=True, poll_interval=NEVER) as pool:
        await until(lambda: caplog.messages)
        assert pool.backends() == ("a:1",)
    (warning,) = caplog.messages
    assert "it no longer tells of changes (PermissionError" in warning


async def test_a_directory_under_two_paths_is_watched_for_the_names_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a bind mount makes it.
    places = {str(tmp_path): {"list"}, os.path.join(tmp_path, "."): set[str]()}
    for lie in (places, dict(reversed(places.items()))):
        monkeypatch.setattr(directory_watch, "places_on_the_way", lambda way, lie=lie: lie)
        watch = await settled_watch(tmp_path / "list")
        (tmp_path / "list").write_text("a:1\n")
        await asyncio.wait_for(watch.changed(), 5)
        await watch.close()


async def test_no_path_is_looked_up_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[threading.Thread] = set()

    def add(self: asyncinotify.Inotify, path: Any, mask: asyncinotify.Mask) -> asyncinotify.Watch:
        threads.add(threading.current_thread())
        return add_watch(self, path, mask)

    monkeypatch.setattr(asyncinotify.Inotify, "add_watch", add)
    async with watched(list_below(tmp_path, "a:1")):
        pass
    assert threads
    assert threading.current_thread() not in threads


async def test_closing_while_the_way_is_looked_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The guards of every test look for a thread, a descriptor and a word on stderr.
    path = list_below(tmp_path, "a:1")
    begun, go_on = threading.Event(), threading.Event()
    places = directory_watch.places_on_the_way

    def slowly(way: str) -> directory_watch.Places:
        begun.set()
        go_on.wait(5)
        return places(way)

    monkeypatch.setattr(directory_watch, "places_on_the_way", slowly)
    pool = BackendPool.file(path, watch=True, poll_interval=NEVER)
    await pool.start()
    await until(begun.is_set)
    await pool.aclose()
    go_on.set()
