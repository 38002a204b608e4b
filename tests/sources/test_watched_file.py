from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import asyncinotify
import pytest
from servers import until
from watching import NEVER, replace, served, settled, watched, write

from backendpool_async import BackendPool
from backendpool_async.sources import directory_watch
from backendpool_async.sources.directory_watch import DirectoryWatch
from backendpool_async.sources.watched_file import WatchedFileSource

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "backends.txt"
    path.write_text("a:1\n")
    return path


async def test_a_file_that_is_written_anew_is_seen_long_before_the_poll(path: Path) -> None:
    async with watched(path) as (pool, _):
        write(path, "b:1\n")
        await served(pool, "b:1")


async def test_a_file_that_is_renamed_over_is_seen_each_time(path: Path) -> None:
    async with watched(path) as (pool, _):
        for number in range(5):
            replace(path, f"b:{number + 1}\n")
            await served(pool, f"b:{number + 1}")


async def test_a_file_that_is_deleted_and_made_again_is_seen(path: Path) -> None:
    async with watched(path) as (pool, _):
        os.unlink(path)
        await until(lambda: pool.snapshot.error is not None)
        assert pool.backends() == ("a:1",)
        write(path, "b:1\n")
        await served(pool, "b:1")


async def test_a_directory_that_is_deleted_and_made_again_is_seen(tmp_path: Path) -> None:
    directory = tmp_path / "etc" / "app"
    directory.mkdir(parents=True)
    (directory / "list").write_text("a:1\n")
    async with watched(directory / "list") as (pool, _):
        for number in range(3):
            shutil.rmtree(tmp_path / "etc")
            await until(lambda: pool.snapshot.error is not None)
            directory.mkdir(parents=True)
            (directory / "list").write_text(f"b:{number + 1}\n")
            await served(pool, f"b:{number + 1}")


async def test_a_directory_whose_place_another_one_takes_is_let_go(tmp_path: Path) -> None:
    directory, other, old = tmp_path / "etc", tmp_path / "other", tmp_path / "old"
    directory.mkdir()
    other.mkdir()
    (directory / "list").write_text("a:1\n")
    (other / "list").write_text("b:1\n")
    async with watched(directory / "list") as (pool, source):
        directory.rename(old)
        other.rename(directory)
        await served(pool, "b:1")
        await settled(source)
        fetches = source.fetches
        replace(old / "list", "c:1\n")
        shutil.rmtree(old)
        await settled(source)
        assert source.fetches == fetches
        replace(directory / "list", "d:1\n")
        await served(pool, "d:1")


async def test_a_file_that_does_not_exist_yet_is_seen_when_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "app" / "list"
    async with watched(path) as (pool, _):
        assert pool.backends() == ()
        path.parent.mkdir(parents=True)
        write(path, "b:1\n")
        await served(pool, "b:1")


async def test_a_neighbour_that_changes_causes_no_fetch(path: Path) -> None:
    async with watched(path) as (pool, source):
        await settled(source)
        fetches = source.fetches
        for number in range(20):
            (path.parent / f"neighbour{number}").write_text("x")
            replace(path.parent / "other", "y")
        (path.parent / "neighbour0").unlink()
        # Events come in order: this one is the first that concerns the file.
        replace(path, "b:1\n")
        await served(pool, "b:1")
        assert source.fetches == fetches + 1


async def test_a_swapped_config_map_is_seen_although_the_old_one_is_deleted_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def publish(number: int) -> None:
        # As the kubelet does it.
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "list").write_text(f"a:{number}\n")
        (tmp_path / "..tmp").symlink_to(f"..{number}")
        (tmp_path / "..tmp").rename(tmp_path / "..data")
        shutil.rmtree(tmp_path / f"..{number - 1}", ignore_errors=True)

    publish(1)
    (tmp_path / "list").symlink_to("..data/list")
    async with watched(tmp_path / "list") as (pool, _):
        for number in range(2, 12):
            publish(number)
            await served(pool, f"a:{number}")
    assert caplog.messages == []


async def test_a_file_behind_linked_directories_is_seen(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "app").mkdir(parents=True)
        (tmp_path / name / "app" / "list").write_text(f"{name}:1\n")
    (tmp_path / "etc").symlink_to("one")
    async with watched(tmp_path / "etc" / "app" / "list") as (pool, _):
        (tmp_path / "one" / "app" / "list").write_text("one:2\n")
        await served(pool, "one:2")
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(tmp_path / "etc")
        await served(pool, "two:1")
        (tmp_path / "two" / "app" / "list").write_text("two:2\n")
        await served(pool, "two:2")


async def test_a_directory_that_vanishes_before_it_is_watched_is_looked_for_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    places = directory_watch.places_on_the_way
    lies = [{str(path.parent / "vanished"): {"x"}}, {str(path): {"x"}}]
    monkeypatch.setattr(
        directory_watch, "places_on_the_way", lambda way: lies.pop() if lies else places(way)
    )
    async with watched(path) as (pool, _):
        await until(lambda: not lies)
        replace(path, "b:1\n")
        await served(pool, "b:1")
    assert caplog.messages == []


async def test_an_overflow_of_the_queue_counts_as_a_change(path: Path) -> None:
    watch = DirectoryWatch(str(path), asyncio.get_running_loop())

    class Overflow:
        watch = None
        name = None

    assert watch._concerns(Overflow())  # type: ignore[arg-type]  # what the kernel sends then
    await watch.close()


async def test_where_inotify_is_refused_polling_goes_on_after_one_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = 0

    def refuse() -> object:
        nonlocal attempts
        attempts += 1
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncinotify, "Inotify", refuse)
    async with BackendPool.file(path, watch=True, poll_interval=0.02) as pool:
        write(path, "b:1\n")
        await served(pool, "b:1")
        await until(lambda: attempts > 3)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "it no longer tells of changes (OSError: '[Errno 24] Too many" in record.getMessage()
    assert record.getMessage().startswith(f"file:{path}: ")


def test_without_the_extra_the_import_error_says_what_to_install(path: Path) -> None:
    script = (
        "import sys; sys.modules['asyncinotify'] = None\n"
        "from backendpool_async import BackendPool\n"
        f"BackendPool.file({str(path)!r})\n"
        f"BackendPool.file({str(path)!r}, watch=True)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "ImportError: watch=True needs asyncinotify (Linux): pip install 'backendpool-async[watch]'"
    )


def test_without_the_extra_a_file_can_be_polled(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("directory_watch", "watched_file"):
        monkeypatch.delitem(sys.modules, f"backendpool_async.sources.{name}")
    monkeypatch.setitem(sys.modules, "asyncinotify", None)
    with pytest.raises(ImportError, match=r"pip install 'backendpool-async\[watch\]'"):
        BackendPool.from_url(f"file:{path}?watch=true")
    assert asyncio.run(BackendPool.file(path).refresh()).backends == ("a:1",)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_thousand_starts_and_closes_leave_no_thread_and_no_descriptor(path: Path) -> None:
    before, threads = descriptors(), threading.active_count()

    async def start_and_close(times: int) -> None:
        pool = BackendPool.file(path, watch=True, poll_interval=NEVER)
        for _ in range(times):
            await pool.start()
            await pool.aclose()

    # Several at a time, because the kernel takes 8 ms to take an inotify instance down.
    await asyncio.gather(*(start_and_close(50) for _ in range(20)))
    await until(lambda: threading.active_count() <= threads)
    assert descriptors() == before


async def test_closing_twice_or_before_watching_does_no_harm(path: Path) -> None:
    source = WatchedFileSource(path, max_entries=10)
    await source.aclose()
    await source.changed()
    await source.aclose()
    await source.aclose()


def test_a_pool_that_was_left_on_a_closed_loop_watches_on_another(path: Path) -> None:
    source = WatchedFileSource(path, max_entries=10)
    before = descriptors()
    for _ in range(3):
        asyncio.run(asyncio.wait_for(source.changed(), 5))
        # The descriptor of the loop that is gone is closed with the next one's opening.
        assert descriptors() == before + 2
    asyncio.run(source.aclose())
    gc.collect()
    assert descriptors() == before
