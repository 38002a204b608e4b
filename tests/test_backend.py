from __future__ import annotations

import copy
import enum
import pickle
import sys
from typing import NoReturn

import pytest

from backendpool_async import Backend, InvalidBackend
from backendpool_async.backend import same


class Plain(str):
    __slots__ = ()


class Odd(str):
    """A string whose every method is a trap."""

    __slots__ = ()

    def __str__(self) -> NoReturn:
        raise RuntimeError("str")

    def isascii(self) -> NoReturn:
        raise RuntimeError("isascii")

    def lower(self) -> NoReturn:
        raise RuntimeError("lower")


class Member(str, enum.Enum):  # noqa: UP042 - a StrEnum has the str() that this one lacks
    API = "api.internal:80"


def refusal(text: object) -> InvalidBackend:
    with pytest.raises(InvalidBackend) as caught:
        Backend(text)  # type: ignore[arg-type]  # what it is for
    return caught.value


@pytest.mark.parametrize(
    ("text", "canonical", "host", "port"),
    [
        ("api:80", "api:80", "api", 80),
        ("API.Internal:8080", "api.internal:8080", "api.internal", 8080),
        ("api.internal.:80", "api.internal.:80", "api.internal.", 80),
        ("_http._tcp.api:1", "_http._tcp.api:1", "_http._tcp.api", 1),
        ("a-b--c_d:65535", "a-b--c_d:65535", "a-b--c_d", 65535),
        ("xn--bcher-kva.example:80", "xn--bcher-kva.example:80", "xn--bcher-kva.example", 80),
        ("1.2.3.example:80", "1.2.3.example:80", "1.2.3.example", 80),
        ("3com.1a:80", "3com.1a:80", "3com.1a", 80),
        ("0.0.0.0:1", "0.0.0.0:1", "0.0.0.0", 1),
        ("255.255.255.255:80", "255.255.255.255:80", "255.255.255.255", 80),
        ("10.0.99.100:80", "10.0.99.100:80", "10.0.99.100", 80),
        ("[::]:80", "[::]:80", "::", 80),
        ("[2001:DB8:0:0::1]:443", "[2001:db8::1]:443", "2001:db8::1", 443),
        ("[0:0:0:0:0:ffff:a00:1]:80", "[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1", 80),
        ("[::FFFF:10.0.0.1]:80", "[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1", 80),
        ("[1:0:0:2:0:0:0:3]:80", "[1:0:0:2::3]:80", "1:0:0:2::3", 80),
        ("[FE80::1%Eth0.5]:80", "[fe80::1%Eth0.5]:80", "fe80::1%Eth0.5", 80),
    ],
)
def test_a_backend_is_its_canonical_text(text: str, canonical: str, host: str, port: int) -> None:
    backend = Backend.parse(text)
    assert backend == canonical
    assert (backend.host, backend.port, backend.weight) == (host, port, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("api", "no port"),
        ("[::1]", "no port"),
        ("api:", "no port after the colon"),
        (":80", "no host"),
        (":", "no host"),
        ("api:0", "zero or has a leading zero"),
        ("api:080", "zero or has a leading zero"),
        ("api:65536", "not from 1 to 65535"),
        ("api:99999999999999999999999999", "port 99999999999999999999 is not from 1 to 65535"),
        ("api:+80", "port '+80' is not a number"),
        ("api:8_0", "not a number"),
        ("api:http", "not a number"),
        ("[::1]:x", "not a number"),
        ("[::1]:0", "zero or has a leading zero"),
        ("http://api:80", "scheme"),
        ("me@api:80", "user"),
        ("api:80/path", "path"),
        ("api:80?query", "path"),
        ("api:80#part", "path"),
        ("api:80 ", "space"),
        (" api:80", "space"),
        ("api:80\n", "control character"),
        ("api\t:80", "control character"),
        ("api\0:80", "control character"),
        ("a:1\nb:2", "control character"),
        ("bücher.example:80", "not ASCII"),
        ("api:\N{FULLWIDTH DIGIT EIGHT}0", "not ASCII"),
        ("\N{KELVIN SIGN}:80", "not ASCII"),
        ("\ud800:80", "not ASCII"),
        ("::1:80", "stands in brackets"),
        ("2001:db8::1:80", "stands in brackets"),
        ("[::1:80", "not closed"),
        ("[::1]x:80", "not closed"),
        ("[]:80", "no IPv6 address"),
        ("[10.0.0.1]:80", "no IPv6 address"),
        ("[api]:80", "no IPv6 address"),
        ("[::12345]:80", "no IPv6 address"),
        ("[1:2:3:4:5:6:7:8:9]:80", "no IPv6 address"),
        ("[::ffff:10.0.0.01]:80", "no IPv6 address"),
        ("[fe80::1%]:80", "zone"),
        ("[fe80::1%a%b]:80", "zone"),
        ("[fe80::1%a]b]:80", "zone"),
        ("a..b:80", "empty label"),
        (".a:80", "empty label"),
        (".:80", "empty label"),
        ("a..:80", "empty label"),
        ("-a:80", "begins or ends with '-'"),
        ("a.b-.c:80", "begins or ends with '-'"),
        ("-:80", "begins or ends with '-'"),
        ("a:1,b:2", "comma"),
        ("a&b:80", "character other than"),
        ("a*:80", "character other than"),
        ("a]:80", "character other than"),
        ("10.0.0:80", "IPv4"),
        ("10.0.0.256:80", "IPv4"),
        ("10.0.0.01:80", "IPv4"),
        ("10.0.0.1.:80", "IPv4"),
        ("1.2.3.4.5:80", "IPv4"),
        ("8080:80", "IPv4"),
        ("a.1:80", "IPv4"),
    ],
)
def test_what_is_no_backend_is_refused_with_the_reason(text: str, reason: str) -> None:
    error = refusal(text)
    assert reason in error.reason
    assert error.entry == text
    assert error.place is None


@pytest.mark.parametrize("thing", [None, 80, b"api:80", ["api:80"], ("api", 80), 1.5, object()])
def test_what_is_no_string_is_refused_with_its_type(thing: object) -> None:
    error = refusal(thing)
    assert error.reason == f"not a string but {type(thing).__name__}"
    assert error.entry is thing


@pytest.mark.parametrize("end", ["", "."])
def test_a_label_has_63_characters_and_no_more(end: str) -> None:
    assert Backend(f"{'a' * 63}.b{end}:80").host == f"{'a' * 63}.b{end}"
    assert "longer than 63" in refusal(f"{'a' * 64}.b{end}:80").reason
    assert "longer than 63" in refusal(f"b.{'a' * 64}{end}:80").reason


@pytest.mark.parametrize("end", ["", "."])
def test_a_host_has_253_characters_without_the_root_dot_and_no_more(end: str) -> None:
    longest = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    assert len(longest) == 253
    assert Backend(f"{longest}{end}:80").host == longest + end
    assert "longer than 253" in refusal(f"{longest}d{end}:80").reason


@pytest.mark.parametrize("text", ["a." * 50_000, "-" * 100_000, "1." * 50_000 + "1:80", "[" * 9999])
def test_a_hostile_text_is_refused_as_fast_as_it_is_read(text: str) -> None:
    # A pattern that backtracks would not come back from these.
    assert refusal(text).entry == text


def test_a_backend_is_the_plain_string_to_sets_and_dicts() -> None:
    backend = Backend("API:80")
    assert backend == "api:80"
    assert hash(backend) == hash("api:80")
    by_text: dict[str, int] = {backend: 1}
    assert by_text["api:80"] == 1
    assert isinstance(backend, str)
    assert f"{backend}" == "api:80"


def test_the_repr_names_the_class_and_a_weight_that_is_not_one() -> None:
    assert repr(Backend("api:80")) == "Backend('api:80')"
    assert repr(Backend("api:80", weight=3)) == "Backend('api:80', weight=3)"


@pytest.mark.parametrize("backend", [Backend("api:80"), Backend("api:80", weight=2)])
@pytest.mark.parametrize("name", ["host", "port", "weight", "_weight", "zone"])
def test_a_backend_is_immutable(backend: Backend, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(backend, name, 1)
    with pytest.raises(AttributeError):
        delattr(backend, name)
    assert backend.weight in {1, 2}


def test_parse_returns_what_is_a_backend_already() -> None:
    backend = Backend("api:80", weight=3)
    assert Backend.parse(backend) is backend


@pytest.mark.parametrize("cls", [Plain, Odd])
def test_a_subclass_of_str_counts_as_the_text_it_holds(cls: type[str]) -> None:
    backend = Backend(cls("API:80"))
    assert backend == "api:80"
    assert type(backend) is Backend


def test_a_member_of_a_string_enum_counts_as_its_value() -> None:
    assert Backend(Member.API) == "api.internal:80"


def test_a_weight_is_carried_and_is_no_part_of_the_identity() -> None:
    heavy = Backend("API:80", weight=5)
    assert heavy.weight == 5
    assert (heavy.host, heavy.port) == ("api", 80)
    assert heavy == Backend("api:80") == "api:80"
    assert len({heavy, Backend("api:80"), "api:80"}) == 1
    assert isinstance(heavy, Backend)


@pytest.mark.parametrize("weight", [0, -1, 65_536, True, 1.0, "2", None])
def test_a_weight_is_a_whole_number_from_1_to_65535(weight: object) -> None:
    with pytest.raises(InvalidBackend, match="no whole number from 1 to 65535"):
        Backend("api:80", weight=weight)  # type: ignore[arg-type]  # what it is for


@pytest.mark.parametrize("weight", [1, 2, 65_535])
def test_every_protocol_of_pickle_and_copies_keep_a_backend(weight: int) -> None:
    backend = Backend("[::1]:80", weight=weight)
    twins = [
        pickle.loads(pickle.dumps(backend, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    for twin in [*twins, copy.copy(backend), copy.deepcopy(backend)]:
        assert twin == backend
        assert type(twin) is type(backend)
        assert twin.weight == weight


def test_a_plain_backend_is_no_larger_than_its_text_needs() -> None:
    # 100,000 of them are held at a time: a dict or a slot each would double the list.
    assert sys.getsizeof(Backend("10.0.0.1:8080")) <= sys.getsizeof("10.0.0.1:8080") + 48
    assert not hasattr(Backend("10.0.0.1:8080"), "__dict__")


def test_two_lists_are_the_same_when_addresses_order_and_weights_agree() -> None:
    one, two, heavy = Backend("a:1"), Backend("b:1"), Backend("b:1", weight=2)
    ours = (one, two)
    assert same(ours, ours)
    assert same(ours, (one, two))
    assert same(ours, (Backend("a:1"), Backend("b:1")))
    assert same((), ())
    assert not same(ours, (two, one))
    assert not same(ours, (one,))
    assert not same(ours, (one, heavy))
    assert same((one, heavy), (one, Backend("b:1", weight=2)))
