"""What an entry says of a backend beside its address, through every source."""

from __future__ import annotations

import copy
import pickle
import string
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backendpool_async import Backend, BackendPool, InvalidBackend, SourceError
from backendpool_async.sync import BackendPool as SyncPool

ENTRY = "10.0.0.1:80 weight=3 zone=eu-1a rack=r=7"
OTHER = "b.example:1"

Environment = pytest.MonkeyPatch
Obtain = Callable[[list[str], Path, Environment], Awaitable[tuple[Backend, ...]]]


def write(path: Path, text: str) -> None:
    path.write_bytes(text.encode())


def made(attributes: dict[str, str], weight: int = 1) -> Backend:
    return Backend("a:1", weight=weight, **attributes)


async def parsed(entries: list[str], path: Path, environment: Environment) -> tuple[Backend, ...]:
    return tuple(Backend.parse(entry) for entry in entries)


async def fixed(entries: list[str], path: Path, environment: Environment) -> tuple[Backend, ...]:
    return BackendPool.static(entries).backends()


async def initial(entries: list[str], path: Path, environment: Environment) -> tuple[Backend, ...]:
    return BackendPool.env_prefix("NOT_SET", initial=entries).backends()


async def without_a_loop(
    entries: list[str], path: Path, environment: Environment
) -> tuple[Backend, ...]:
    return SyncPool.static(entries).backends()


async def pushed(entries: list[str], path: Path, environment: Environment) -> tuple[Backend, ...]:
    pool = BackendPool.static([])
    pool.update(entries)
    return pool.backends()


async def of_a_url(entries: list[str], path: Path, environment: Environment) -> tuple[Backend, ...]:
    return BackendPool.from_url(f"static:{','.join(entries)}").backends()


async def environment_of(
    entries: list[str], path: Path, environment: Environment
) -> tuple[Backend, ...]:
    for number, entry in enumerate(entries):
        environment.setenv(f"API_{number}", f" {entry}\t")
    return (await BackendPool.env_prefix("API").refresh()).backends


async def lines(entries: list[str], path: Path, environment: Environment) -> tuple[Backend, ...]:
    write(path, "".join(f"\t{entry} \r\n" for entry in entries))
    return (await BackendPool.file(path).refresh()).backends


async def answered(entries: list[str], path: Path, environment: Environment) -> tuple[Backend, ...]:
    async def answer() -> list[str]:
        return entries

    return (await BackendPool(answer).refresh()).backends


SOURCES: dict[str, Obtain] = {
    each.__name__: each
    for each in (
        parsed, fixed, initial, without_a_loop, pushed, of_a_url, environment_of, lines, answered,
    )
}  # fmt: skip
# How each says where a bad second entry stands.
PLACES = {
    "parsed": None,
    "environment_of": "variable API_1",
    "lines": "line 2 of ",
} | dict.fromkeys(
    ["fixed", "initial", "without_a_loop", "pushed", "of_a_url", "answered"], "entry 2"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backends.txt"


@pytest.mark.parametrize("source", SOURCES)
async def test_weight_zone_and_unknown_attributes_come_through_every_source(
    source: str, path: Path, monkeypatch: Environment
) -> None:
    backend, other = await SOURCES[source]([ENTRY, OTHER], path, monkeypatch)
    assert (backend, backend.host, backend.port) == ("10.0.0.1:80", "10.0.0.1", 80)
    assert (backend.weight, backend.zone) == (3, "eu-1a")
    assert backend.attributes == {"zone": "eu-1a", "rack": "r=7"}
    assert (other, other.weight, other.zone, other.attributes) == (OTHER, 1, None, {})


@pytest.mark.parametrize("source", SOURCES)
async def test_spaces_and_tabs_of_any_number_divide(
    source: str, path: Path, monkeypatch: Environment
) -> None:
    entries = ["API:80\tzone=b", "[0::1]:80  \t weight=2 \t\tzone=c"]
    one, other = await SOURCES[source](entries, path, monkeypatch)
    assert (one, one.attributes) == ("api:80", {"zone": "b"})
    assert (other, other.weight, other.attributes) == ("[::1]:80", 2, {"zone": "c"})


REFUSED = [
    ("a:1 weight=3 b", "'b' is no name=value"),
    ("a:1 = zone=b", "attribute '' has no good name"),
    ("a:1 zone=", "attribute zone is '': 1 to 255 visible ASCII characters are expected"),
    ("a:1 zone=b zone=b", "attribute 'zone' is given twice"),
    ("a:1 weight=1 weight=2", "attribute 'weight' is given twice"),
    ("a:1 Zone=b", "attribute 'Zone' has no good name"),
    ("a:1 9zone=b", "attribute '9zone' has no good name"),
    ("a:1 zo/ne=b", "attribute 'zo/ne' has no good name"),
    ("a:1 zoné=b", r"attribute 'zon\\xe9' has no good name"),
    (f"a:1 {'z' * 64}=b", "has no good name"),
    ("a:1 weight=0", "weight '0' is no whole number from 1 to 65535"),
    ("a:1 weight=65536", "weight '65536' is no whole number from 1 to 65535"),
    ("a:1 weight=99999999999999999999", "weight '99999999999999999999' is no whole number"),
    ("a:1 weight=01", "weight '01' is no whole number"),
    ("a:1 weight=x", "weight 'x' is no whole number"),
    ("a:1 weight=1.5", "weight '1.5' is no whole number"),
    ("a:1 weight=-1", "weight '-1' is no whole number"),
    ("a:1 weight=+1", r"weight '\+1' is no whole number"),
    ("a:1 weight=1_0", "weight '1_0' is no whole number"),
    ("a:1 weight=٣", r"attribute weight is '\\u0663'"),
    ("a:1 weight=", "attribute weight is ''"),
    (f"a:1 zone={'b' * 256}", r"attribute zone is 'b+\.\.\.'"),
    ("a:1 zone=é", r"attribute zone is '\\xe9'"),
    ("a:1 zone=b\N{NO-BREAK SPACE}rack=c", r"attribute zone is 'b\\xa0rack=c'"),
    ("a:1 zone=b\x1b[31m", r"attribute zone is 'b\\x1b\[31m'"),
    ("a:1 zone=b\x7f", r"attribute zone is 'b\\x7f'"),
    ("a:1 zone=b\vrack=c", r"attribute zone is 'b\\x0brack=c'"),
    ("a:0 zone=b", "port '0' is zero"),
    ("a zone=b", "no port; host:port is expected"),
    ("zone=b", "no port; host:port is expected"),
    ("a:1\fzone=b", "control character"),
    ("é:1 zone=b", "not ASCII"),
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("entry", "reason"), REFUSED, ids=[ascii(entry) for entry, _ in REFUSED])
async def test_a_bad_attribute_is_refused_with_its_entry_the_reason_and_the_place(
    source: str, entry: str, reason: str, path: Path, monkeypatch: Environment
) -> None:
    with pytest.raises((InvalidBackend, SourceError)) as caught:
        await SOURCES[source]([ENTRY, entry, OTHER], path, monkeypatch)
    refusal = caught.value.__cause__ if type(caught.value) is SourceError else caught.value
    assert isinstance(refusal, InvalidBackend)
    place, expected = refusal.place, PLACES[source]
    assert place is None if expected is None else place and place.startswith(expected)
    assert isinstance(refusal.entry, str)
    assert refusal.entry.strip() == entry
    with pytest.raises(InvalidBackend, match=reason):
        raise refusal
    assert str(refusal).isprintable()
    assert len(str(refusal)) < 500


@pytest.mark.parametrize("entry", [" a:1 zone=b", "a:1 zone=b ", "a:1 zone=b\n", "\ta:1 zone=b"])
def test_space_around_an_entry_is_for_its_source_to_trim(entry: str) -> None:
    with pytest.raises(InvalidBackend):
        Backend.parse(entry)


@pytest.mark.parametrize(
    ("name", "value"),
    [("z" * 63, "b"), ("z_9.a-b", "b"), ("z", "b" * 255), ("z", "=,;\"'\\~!"), ("from", "b")],
)
def test_what_stands_just_within_the_limits_is_kept(name: str, value: str) -> None:
    assert Backend.parse(f"a:1 {name}={value}").attributes == {name: value}
    assert made({name: value}).attributes == {name: value}


@pytest.mark.parametrize("weight", [1, 2, 65_535])
def test_a_weight_is_a_number_and_no_attribute(weight: int) -> None:
    backend = Backend.parse(f"a:1 weight={weight}")
    assert (backend.weight, backend.attributes) == (weight, {})


def test_an_entry_that_says_nothing_but_the_usual_is_a_plain_backend() -> None:
    assert type(Backend.parse("a:1 weight=1")) is Backend
    assert type(Backend("a:1", weight=1)) is Backend


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"zone": ""}, "attribute zone is ''"),
        ({"zone": "a b"}, "attribute zone is 'a b'"),
        ({"zone": None}, "attribute zone is 'None'"),
        ({"zone": 7}, "attribute zone is '7'"),
        ({"Zone": "a"}, "attribute 'Zone' has no good name"),
        ({"weight": "3"}, "weight '3' is no whole number"),
    ],
)
def test_a_caller_is_held_to_the_same_rules(attributes: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidBackend, match=reason) as caught:
        Backend("A:1", **attributes)  # type: ignore[arg-type]  # what it is for
    assert caught.value.entry == "a:1"


def test_a_hostile_entry_is_read_as_fast_as_a_good_one() -> None:
    many = " ".join(f"a{number}=b" for number in range(50_000))
    assert len(Backend.parse(f"a:1 {many}").attributes) == 50_000
    for text in (
        f"a:1 {many} =",
        "a:1" + " \t" * 100_000 + "=",
        "=" * 200_000,
        " " * 200_000 + "=",
    ):
        with pytest.raises(InvalidBackend):
            Backend.parse(text)


def test_identity_is_the_address_alone() -> None:
    plain, heavy, far = Backend("a:1"), Backend("a:1", weight=3), Backend("A:1", zone="far")
    assert plain == heavy == far == "a:1"
    assert len({plain, heavy, far, "a:1"}) == 1
    assert {far: "found"}[plain] == "found"
    assert heavy != Backend("b:1", weight=3)
    assert BackendPool.static(["a:1 zone=b", "a:1 zone=c", "a:1"]).backends()[0].zone == "b"


def test_the_repr_tells_weight_and_attributes_and_the_text_does_not() -> None:
    backend = Backend.parse("a:1 zone=eu-1a weight=3 rack=7")
    assert repr(backend) == "Backend('a:1', weight=3, zone='eu-1a', rack='7')"
    assert eval(repr(backend)).attributes == backend.attributes
    assert repr(Backend("a:1", zone="b")) == "Backend('a:1', zone='b')"
    assert (str(backend), f"{backend}", backend.encode()) == ("a:1", "a:1", b"a:1")


def test_nothing_of_a_backend_can_be_changed() -> None:
    given = {"zone": "b"}
    for backend in (made(given), Backend.parse("a:1 zone=b"), Backend("a:1")):
        before = dict(backend.attributes)
        with pytest.raises(TypeError):
            backend.attributes["zone"] = "c"  # type: ignore[index]  # what it is for
        for name in ("attributes", "_attributes", "zone", "weight", "rack"):
            with pytest.raises(AttributeError):
                setattr(backend, name, "c")
        given["zone"] = "c"
        assert backend.attributes == before


NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,62}", fullmatch=True) | st.sampled_from(
    ["zone", "class", "host", "port", "name", "attributes"]
)
VALUES = st.text(
    string.ascii_letters + string.digits + string.punctuation, min_size=1, max_size=255
)
ATTRIBUTES = st.dictionaries(
    NAMES.filter(lambda name: name not in {"weight", "text", "cls"}), VALUES
)
GAPS = st.text(" \t", min_size=1, max_size=3)


@settings(deadline=None, max_examples=150)
@given(ATTRIBUTES, st.integers(1, 65_535), st.randoms(use_true_random=False), st.data())
def test_whatever_is_written_is_read_and_survives_pickle_and_copies(
    attributes: dict[str, str], weight: int, order: object, data: st.DataObject
) -> None:
    pairs = data.draw(st.permutations([("weight", str(weight)), *attributes.items()]))
    entry = "a:1" + "".join(f"{data.draw(GAPS)}{name}={value}" for name, value in pairs)
    backend = Backend.parse(entry)
    twins = [pickle.loads(pickle.dumps(backend, version)) for version in range(6)]
    twins += [copy.copy(backend), copy.deepcopy(backend), Backend.parse(backend)]
    for each in [backend, made(attributes, weight), *twins]:
        assert (each, each.weight, each.attributes) == ("a:1", weight, attributes)
        assert type(each) is type(backend)
    pool = BackendPool.static([entry])
    pool.update([*twins])
    assert pool.snapshot.generation == 0


@pytest.mark.parametrize("name", ["text", "cls"])
def test_no_name_of_an_attribute_is_in_the_way_of_pickle_and_copies(name: str) -> None:
    backend = Backend.parse(f"a:1 {name}=b")
    assert pickle.loads(pickle.dumps(backend)).attributes == {name: "b"}
    assert copy.copy(backend).attributes == {name: "b"}


STEPS = [
    ("a:1 weight=2", 1), ("a:1 weight=2", 1), ("a:1 weight=3", 2), ("a:1", 3), ("a:1 weight=1", 3),
    ("a:1 zone=b", 4), ("a:1 zone=b rack=c", 5), ("a:1  rack=c zone=b", 5), ("a:1 rack=c", 6),
]  # fmt: skip


def test_the_generation_moves_when_only_an_attribute_differs() -> None:
    pool = BackendPool.static(["a:1"])
    for entry, generation in STEPS:
        pool.update([entry])
        assert pool.snapshot.generation == generation
        assert pool.snapshot.backends[0].attributes == Backend.parse(entry).attributes


async def test_the_generation_of_what_a_function_or_a_file_says_moves_so_too(path: Path) -> None:
    entry = "a:1"

    async def answer() -> tuple[str, ...]:
        return (entry,)

    pools = [BackendPool(answer, initial=["a:1"]), BackendPool.file(path, initial=["a:1"])]
    for entry, generation in STEPS:
        write(path, f"{entry}\n")
        for pool in pools:
            snapshot = await pool.refresh()
            assert snapshot.generation == generation
            assert snapshot.backends[0].attributes == Backend.parse(entry).attributes


async def test_an_address_that_was_asked_for_by_dns_has_no_attributes() -> None:
    with pytest.raises(InvalidBackend):
        BackendPool.dns("localhost zone=b", 80)
    snapshot = await BackendPool.dns("127.0.0.1", 80).refresh()
    assert [type(each) for each in snapshot.backends] == [Backend]
