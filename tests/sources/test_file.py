from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from backendpool_async import (
    BackendPool,
    EmptyAnswer,
    InvalidBackend,
    SourceError,
    SourceTimeout,
)
from backendpool_async.sources import file
from backendpool_async.sources.file import FileSource
from backendpool_async.threads import in_thread


def write(path: Path, content: bytes | str) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)


async def fetched(path: Path) -> tuple[str, ...]:
    return (await FileSource(path, max_entries=100_000).fetch()).backends


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backends.txt"


async def test_a_file_lists_one_backend_a_line(path: Path) -> None:
    write(path, b"b:2\n10.0.0.1:80\n[::1]:80\nb:2\nA:1\n")
    assert await fetched(path) == ("b:2", "10.0.0.1:80", "[::1]:80", "a:1")


async def test_blank_lines_and_comments_on_their_own_lines_are_ignored(path: Path) -> None:
    write(path, "\n# die Bücher\n  #a:1\n\t\n a:1 \t\n\x0c\n".encode())
    assert await fetched(path) == ("a:1",)


async def test_a_comment_behind_an_entry_is_no_comment(path: Path) -> None:
    write(path, b"a:1 # the first\n")
    with pytest.raises(InvalidBackend, match="line 1 of"):
        await fetched(path)


async def test_a_byte_order_mark_and_the_line_ends_of_windows_are_accepted(path: Path) -> None:
    write(path, codecs.BOM_UTF8 + b"a:1\r\n\r\n#c\r\nb:1\r\n")
    assert await fetched(path) == ("a:1", "b:1")


@pytest.mark.parametrize("content", [b"", b"\n", b"# nothing\n", b" \n\n", codecs.BOM_UTF8])
async def test_a_file_without_entries_is_a_negative_answer(path: Path, content: bytes) -> None:
    write(path, content)
    with pytest.raises(EmptyAnswer, match="no entries in the file"):
        await fetched(path)


@pytest.mark.parametrize("before", [0, 1, 7, 20_000])
async def test_a_bad_line_is_named_by_its_number(path: Path, before: int) -> None:
    lines = [f"10.0.{n // 250}.{n % 250}:80" if n % 3 else "# comment" for n in range(before)]
    write(path, "\n".join([*lines, "http://a:1", "also bad", ""]))
    with pytest.raises(InvalidBackend) as caught:
        await fetched(path)
    assert caught.value.place == f"line {before + 1} of '{path}'"
    assert caught.value.entry == "http://a:1"


async def test_a_bad_line_behind_lines_that_were_read_before_is_named_by_its_number(
    path: Path,
) -> None:
    source = FileSource(path, max_entries=100_000)
    good = "".join(f"10.1.{n // 250}.{n % 250}:80\n" for n in range(20_000))
    write(path, good)
    await source.fetch()
    write(path, "# new\n" + good + "a:0\n")
    with pytest.raises(InvalidBackend, match=r"\(line 20002 of"):
        await source.fetch()


async def test_what_is_not_utf_8_is_refused_naming_the_line(path: Path) -> None:
    write(path, b"a:1\n" * 9_000 + b"# B\xfccher\na:1\n")
    with pytest.raises(ValueError, match="line 9001 is not UTF-8"):
        await fetched(path)


@pytest.mark.parametrize("end", [b"", b"\n", b"\na:1\n"])
@pytest.mark.parametrize("before", [0, 1, 9_000])
async def test_an_overlong_line_is_refused(path: Path, before: int, end: bytes) -> None:
    write(path, b"a:1\n" * before + b"#" + b"x" * 100_000 + end)
    with pytest.raises(ValueError, match=f"line {before + 1} is over 64 KiB long"):
        await fetched(path)


async def test_a_hundred_thousand_lines_are_read(path: Path) -> None:
    names = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:8080" for n in range(100_000)]
    write(path, "\n".join([*names, ""]))
    assert await fetched(path) == tuple(names)


async def test_more_lines_than_max_backends_are_refused(path: Path) -> None:
    write(path, "a:1\nb:1\nc:1\n")
    with pytest.raises(InvalidBackend, match="'c:1': more than max_backends=2"):
        await FileSource(path, max_entries=2).fetch()
    with pytest.raises(SourceError, match="max_backends=2"):
        await BackendPool.file(path, max_backends=2).refresh()


async def refusal(path: Path) -> str:
    # Nothing may block: not the loop (blockbuster watches it), and not the thread for long.
    async with asyncio.timeout(5):
        try:
            answer = await fetched(path)
        except OSError as error:
            return str(error)
    raise AssertionError(f"it was read: {answer}")


async def test_a_file_that_is_not_there_is_a_failure(path: Path) -> None:
    assert "No such file" in await refusal(path)


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "a directory, not a regular file" in await refusal(tmp_path)


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero", "/dev/full"])
async def test_a_device_is_refused(device: str) -> None:
    assert "a device, not a regular file" in await refusal(Path(device))


async def test_a_fifo_is_refused_without_waiting_for_a_writer(path: Path) -> None:
    os.mkfifo(path)
    assert "a FIFO, not a regular file" in await refusal(path)


async def test_a_fifo_that_takes_the_place_of_a_file_is_refused_when_it_is_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_and_open(name: str, flags: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return os.open(name, flags)

    write(path, "a:1\n")
    monkeypatch.setattr(file, "os", SimpleNamespace(**{**vars(os), "open": replace_and_open}))
    assert "a FIFO, not a regular file" in await refusal(path)


async def test_a_writer_of_a_fifo_is_not_disturbed(path: Path) -> None:
    os.mkfifo(path)
    opened = threading.Event()

    def write() -> None:
        # Waits in open() for a reader: a reader that comes and goes would break its pipe.
        with open(path, "wb", buffering=0) as writer:
            opened.set()
            writer.write(b"a:1\n")

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(20):
        assert "FIFO" in await refusal(path)
    assert not opened.is_set()
    assert await in_thread(path.read_bytes) == b"a:1\n"
    writer.join()


async def test_a_socket_is_refused(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert "a socket, not a regular file" in await refusal(path)


async def test_links_that_lead_in_a_circle_are_a_failure(path: Path) -> None:
    os.symlink(path, path)
    assert "symbolic links" in await refusal(path)


async def test_a_file_of_more_than_64_mib_is_refused_unread(path: Path) -> None:
    write(path, "")
    os.truncate(path, 64 * 1024 * 1024 + 1)
    tracemalloc.start()
    try:
        assert "larger than 67108864 bytes" in await refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


async def test_a_file_that_says_nothing_of_its_size_is_refused_beyond_the_limit_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(descriptor: int) -> object:
        status = os.fstat(descriptor)
        return SimpleNamespace(st_mode=status.st_mode, st_size=0, st_mtime_ns=0)

    write(path, b"a:1\n" * 3)
    monkeypatch.setattr(file, "os", SimpleNamespace(**{**vars(os), "fstat": look}))
    assert await fetched(path) == ("a:1",)
    monkeypatch.setattr(file, "_MAX_BYTES", 10)
    assert "it is larger than" in await refusal(path)


def test_a_file_whose_size_is_unknown_and_that_is_read_in_parts_is_read_whole() -> None:
    # So /proc answers: 0 bytes long, a page or less at a time.
    content, _ = FileSource("/proc/self/smaps", max_entries=1)._read()
    assert len(content) > 8192
    assert content.rstrip().rsplit(b"\n", 1)[-1].startswith(b"VmFlags")


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    if os.geteuid():
        yield
        return
    try:
        os.seteuid(65_534)
    except OSError:
        pytest.skip("runs as root, whom no file refuses, and cannot become anybody else")
    try:
        yield
    finally:
        os.seteuid(0)


async def test_an_unreadable_file_is_a_failure(path: Path) -> None:
    write(path, "a:1\n")
    os.chmod(path, 0)
    with without_privileges():
        assert "Permission denied" in await refusal(path)


@pytest.mark.parametrize("name", ["", "a\0b", b"backends.txt"])
def test_a_path_that_no_file_can_have_is_refused_where_the_pool_is_made(name: str) -> None:
    with pytest.raises(ValueError, match="no file can have the name"):
        BackendPool.file(name)


def test_what_is_no_path_is_refused_where_the_pool_is_made() -> None:
    with pytest.raises(TypeError):
        BackendPool.file(80)  # type: ignore[arg-type]  # what it is for


async def test_a_relative_path_is_taken_from_the_directory_that_is_current_at_each_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FileSource("list", max_entries=10)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list").write_text(f"{name}:1\n")
        monkeypatch.chdir(tmp_path / name)
        assert (await source.fetch()).backends == (f"{name}:1",)
    assert str(source) == "file:list"


async def test_a_read_that_hangs_is_given_up_and_not_joined_by_a_second(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, go_on = threading.Event(), threading.Event()

    def hang(_: str) -> os.stat_result:
        hangs.set()
        assert go_on.wait(5)
        return os.stat(path)

    write(path, "a:1\n")
    pool = BackendPool.file(path, timeout=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(file, "os", SimpleNamespace(**{**vars(os), "stat": hang}))
        with pytest.raises(SourceTimeout, match="no answer within"):
            await pool.refresh()
        assert hangs.is_set()
        with pytest.raises(SourceError, match="an earlier read has not returned yet"):
            await pool.refresh()
        readers = [thread for thread in threading.enumerate() if thread.name == "backendpool"]
        go_on.set()
        for reader in readers:
            reader.join()
    assert (await pool.refresh()).backends == ("a:1",)
