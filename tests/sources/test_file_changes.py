"""A file that changes: between two reads, during one, and under its own name."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backendpool_async import BackendPool, EmptyAnswer, InvalidBackend, SourceError
from backendpool_async.sources import file
from backendpool_async.sources.file import FileSource


class Observed(FileSource):
    """Runs the next of its steps after each read of the file."""

    def __init__(self, path: Path, *steps: Callable[[], object]) -> None:
        super().__init__(path, max_entries=100_000)
        self.steps = list(steps)
        self.reads = 0

    def _read(self) -> Any:
        result = super()._read()
        self.reads += 1
        if self.steps:
            self.steps.pop(0)()
        return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backends.txt"


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def writes(path: Path, content: bytes) -> Callable[[], object]:
    return lambda: path.write_bytes(content)


async def fetched(source: FileSource) -> tuple[str, ...]:
    return (await source.fetch()).backends


@pytest.mark.virtual_time
async def test_a_file_that_ends_in_a_newline_is_read_once(path: Path) -> None:
    write(path, b"a:80\n")
    source = Observed(path)
    assert await fetched(source) == ("a:80",)
    assert source.reads == 1


@pytest.mark.virtual_time
async def test_a_file_without_a_final_newline_is_believed_when_a_second_read_agrees(
    path: Path,
) -> None:
    write(path, b"a:80\nb:80")
    source = Observed(path)
    assert await fetched(source) == ("a:80", "b:80")
    assert source.reads == 2
    assert asyncio.get_running_loop().time() == 0.05


@pytest.mark.virtual_time
async def test_a_half_written_line_is_not_believed(path: Path) -> None:
    write(path, b"a:80\nb:80")
    source = Observed(path, writes(path, b"a:80\nb:8080\n"))
    assert await fetched(source) == ("a:80", "b:8080")


@pytest.mark.virtual_time
async def test_a_file_that_goes_on_growing_is_read_until_two_reads_agree(path: Path) -> None:
    write(path, b"a:8")
    source = Observed(path, *(writes(path, b"a:8080\nb:8080"[:n]) for n in (4, 5, 6, 10, 13)))
    assert await fetched(source) == ("a:8080", "b:8080")
    assert source.reads == 7


@pytest.mark.virtual_time
async def test_a_file_that_never_stops_changing_is_a_failure_and_the_list_stays(
    path: Path,
) -> None:
    write(path, b"a:1\n")
    source = Observed(path)
    pool = BackendPool(source, timeout=60)
    await pool.refresh()
    write(path, b"x")
    source.steps = [writes(path, b"b" * n) for n in range(1, 100)]
    with pytest.raises(SourceError, match="keeps changing while it is read; keeping the 1 backend"):
        await pool.refresh()
    assert pool.backends() == ("a:1",)
    assert len(source.steps) > 50


@pytest.mark.virtual_time
async def test_a_file_that_is_emptied_to_be_written_anew_is_not_believed_empty(path: Path) -> None:
    write(path, b"a:1\n")
    source = Observed(path)
    pool = BackendPool(source, empty_after=1)
    await pool.refresh()
    write(path, b"")
    source.steps = [writes(path, b"b:1\n")]
    assert (await pool.refresh()).backends == ("b:1",)


@pytest.mark.virtual_time
async def test_a_file_that_stays_empty_is_believed_at_the_count(path: Path) -> None:
    write(path, b"a:1\n")
    pool = BackendPool.file(path, empty_after=2)
    await pool.refresh()
    write(path, b"")
    with pytest.raises(EmptyAnswer, match="1 of 2"):
        await pool.refresh()
    assert pool.backends() == ("a:1",)
    assert (await pool.refresh()).backends == ()


@pytest.mark.virtual_time
async def test_a_file_that_is_written_while_it_is_read_is_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, b"a:1\n")
    looks = 0

    def look(descriptor: int) -> os.stat_result:
        nonlocal looks
        looks += 1
        if looks == 2:
            # What was read just now is old already.
            path.write_bytes(b"a:1\nb:1\n")
        return os.fstat(descriptor)

    monkeypatch.setattr(file, "os", SimpleNamespace(**{**vars(os), "fstat": look}))
    assert await fetched(FileSource(path, max_entries=10)) == ("a:1", "b:1")


@pytest.mark.virtual_time
async def test_unfinished_content_that_is_known_already_is_not_read_twice(path: Path) -> None:
    write(path, b"a:1")
    source = Observed(path)
    await fetched(source)
    assert await fetched(source) == ("a:1",)
    assert source.reads == 3


@pytest.mark.virtual_time
async def test_unchanged_content_keeps_the_very_same_backends(path: Path) -> None:
    write(path, b"a:1\n")
    source = FileSource(path, max_entries=10)
    first = await source.fetch()
    write(path, b"a:1\n")
    assert (await source.fetch()).backends is first.backends


async def test_other_content_of_the_same_size_and_time_is_seen(path: Path) -> None:
    write(path, b"a:1\n")
    status = os.stat(path)
    pool = BackendPool.file(path)
    await pool.refresh()
    write(path, b"b:1\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert os.stat(path).st_mtime_ns == status.st_mtime_ns
    assert (await pool.refresh()).backends == ("b:1",)


PART = 64 * 1024
LONG = [f"h{n:07}:8080" for n in range(4 * PART // 14)]


@pytest.mark.parametrize("keep", [1, PART // 14, PART // 14 + 1, 2 * PART // 14, len(LONG) - 1])
@pytest.mark.parametrize("end", [[], ["new:1"], ["new:1", *LONG], LONG[-1:]])
async def test_a_long_file_that_parts_from_what_it_was_anywhere_is_read_as_it_is(
    path: Path, keep: int, end: list[str]
) -> None:
    source = FileSource(path, max_entries=100_000)
    for lines in (LONG, LONG[:keep] + end, LONG):
        write(path, "\n".join([*lines, ""]).encode())
        assert await fetched(source) == tuple(dict.fromkeys(lines))


@pytest.mark.parametrize("size", [PART - 1, PART, PART + 1, 2 * PART])
async def test_a_long_file_that_is_cut_at_a_border_of_two_reads_is_read_as_it_is(
    path: Path, size: int
) -> None:
    source = FileSource(path, max_entries=100_000)
    padded = b"".join(b"%s\n" % line.encode() for line in LONG)
    write(path, padded)
    await source.fetch()
    # The last line becomes a comment, so that what is cut is whole.
    cut = padded[: size - 20].rpartition(b"\n")[0] + b"\n"
    cut += b"#" * (size - len(cut) - 1) + b"\n"
    for content in (padded, cut, padded[: len(cut)] + padded[len(cut) :], cut + b"last:1\n"):
        write(path, content)
        text = content.decode().split("\n")
        assert await fetched(source) == tuple(line for line in text if line.startswith(("h", "l")))


async def test_a_comment_that_changes_is_no_new_generation(path: Path) -> None:
    write(path, b"a:1\n")
    pool = BackendPool.file(path)
    first = await pool.refresh()
    write(path, b"# new\nA:1\r\n")
    again = await pool.refresh()
    assert again.generation == first.generation
    assert again.backends is first.backends


async def test_a_file_that_is_renamed_over_is_seen(path: Path) -> None:
    write(path, b"a:1\n")
    pool = BackendPool.file(path)
    await pool.refresh()
    (path.parent / "new").write_bytes(b"b:1\n")
    (path.parent / "new").rename(path)
    assert (await pool.refresh()).backends == ("b:1",)


async def test_a_config_map_whose_link_is_swapped_is_seen(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "list").write_text(f"a:{number}\n")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "list").symlink_to("..data/list")
    pool = BackendPool.file(tmp_path / "list")
    await pool.refresh()
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    shutil.rmtree(tmp_path / "..1")
    assert (await pool.refresh()).backends == ("a:2",)


@pytest.mark.parametrize("whole_directory", [False, True])
async def test_a_file_that_is_deleted_is_a_failure_until_it_is_back(
    tmp_path: Path, whole_directory: bool
) -> None:
    directory = tmp_path / "etc"
    directory.mkdir()
    (directory / "list").write_bytes(b"a:1\n")
    pool = BackendPool.file(directory / "list")
    await pool.refresh()
    (directory / "list").unlink()
    if whole_directory:
        directory.rmdir()
    for _ in range(5):
        with pytest.raises(SourceError, match=r"No such file.*; keeping the 1 backend") as caught:
            await pool.refresh()
        assert isinstance(caught.value.__cause__, FileNotFoundError)
        assert pool.backends() == ("a:1",)
    directory.mkdir(exist_ok=True)
    (directory / "list").write_bytes(b"b:1\n")
    assert (await pool.refresh()).backends == ("b:1",)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"b:1\nc\n", r"invalid backend 'c' \(line 2 of '.*backends.txt'\): no port"),
        (b"b:1\n\xff\n", "backends.txt: ValueError: 'line 2 is not UTF-8'"),
        (b"b:1\n#" + b"x" * 100_000, "backends.txt: ValueError: 'line 2 is over 64 KiB long'"),
        (b"b:1\n" * 11, "more than max_backends=10"),
    ],
)
async def test_a_malformed_file_is_a_failure_that_says_where_and_the_list_stays(
    path: Path, content: bytes, what: str
) -> None:
    write(path, b"a:1\n")
    pool = BackendPool.file(path, max_backends=10)
    await pool.refresh()
    write(path, content)
    for _ in range(2):
        with pytest.raises(SourceError, match=what) as caught:
            await pool.refresh()
        assert isinstance(caught.value.__cause__, (InvalidBackend, ValueError))
        assert pool.snapshot.error is not None
        assert pool.backends() == ("a:1",)
    # Exactly what was served before, which is nothing new to the source.
    write(path, b"a:1\n")
    assert (await pool.refresh()).error is None
