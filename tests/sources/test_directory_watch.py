from __future__ import annotations

import os
from pathlib import Path

import pytest

from backendpool_async.sources.directory_watch import places_on_the_way


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # The way to it is not ours: no link may stand on it.
    return Path(os.path.realpath(tmp_path))


def places(path: Path | str, root: Path) -> dict[str, set[str]]:
    """The places from `root` on."""
    return {
        os.path.relpath(directory, root): names
        for directory, names in places_on_the_way(str(path)).items()
        if Path(directory).is_relative_to(root)
    }


def test_a_plain_file_is_decided_in_its_directory(root: Path) -> None:
    (root / "list").touch()
    assert places(root / "list", root) == {".": {"list"}}


def test_every_directory_above_but_the_root_itself_is_one_that_can_be_renamed(root: Path) -> None:
    (root / "etc" / "app").mkdir(parents=True)
    above = [root / "etc", root, *root.parents[:-1]]
    assert places_on_the_way(str(root / "etc" / "app" / "list")) == {
        str(root / "etc" / "app"): {"list"},
        **{str(directory): set() for directory in above},
    }


@pytest.mark.parametrize(
    ("spelling", "through"),
    [("./list", {}), ("etc/../list", {"etc": set()}), ("etc//..//./list", {"etc": set()}),
     ("list/", {})],
)  # fmt: skip
def test_a_way_has_many_spellings(
    root: Path, spelling: str, through: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "etc").mkdir()
    (root / "list").touch()
    monkeypatch.chdir(root)
    assert places(spelling, root) == {".": {"list"}} | through


def test_a_file_that_is_not_there_is_awaited_in_its_directory(root: Path) -> None:
    assert places(root / "list", root) == {".": {"list"}}


def test_a_directory_that_is_not_there_is_awaited_in_the_nearest_one(root: Path) -> None:
    assert places(root / "etc" / "app" / "list", root) == {".": {"etc"}}


def test_a_file_in_the_way_is_awaited_to_become_a_directory(root: Path) -> None:
    (root / "etc").touch()
    assert places(root / "etc" / "list", root) == {".": {"etc"}}


def test_every_link_on_the_way_is_a_place_where_it_can_change(root: Path) -> None:
    # A ConfigMap: list -> ..data/list, ..data -> ..1, and a link to the whole of it.
    (root / "volume" / "..1").mkdir(parents=True)
    (root / "volume" / "..1" / "list").touch()
    (root / "volume" / "..data").symlink_to("..1")
    (root / "volume" / "list").symlink_to("..data/list")
    (root / "etc").symlink_to(root / "volume")
    assert places(root / "etc" / "list", root) == {
        ".": {"etc"},
        "volume": {"list", "..data"},
        os.path.join("volume", "..1"): {"list"},
    }


def test_two_dots_lead_up_from_where_a_link_led(root: Path) -> None:
    (root / "releases" / "5").mkdir(parents=True)
    (root / "releases" / "list").touch()
    (root / "current").symlink_to("releases/5")
    way = root / "current" / ".." / "list"
    assert way.samefile(root / "releases" / "list")
    assert places(f"{root}/current/../list", root) == {
        ".": {"current"},
        "releases": {"list"},
        os.path.join("releases", "5"): set(),
    }


def test_a_link_to_nowhere_is_followed_to_where_the_way_ends(root: Path) -> None:
    (root / "list").symlink_to("gone/list")
    assert places(root / "list", root) == {".": {"list", "gone"}}


def test_links_that_lead_in_a_circle_come_to_an_end(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    assert places(root / "a", root) == {".": {"a", "b"}}


def test_the_root_itself_is_no_place() -> None:
    assert places_on_the_way("/") == {}
    assert places_on_the_way("/..") == {}
