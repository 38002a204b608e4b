from __future__ import annotations

import copy
import ipaddress
import pickle
import socket
import string

from hypothesis import given, settings
from hypothesis import strategies as st

from backendpool_async import Backend, InvalidBackend
from backendpool_async.bulk import parse_canonical, parse_canonical_text

settings_here = settings(deadline=None, max_examples=150)

LABELS = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=63).filter(
    lambda label: label[0] != "-" != label[-1]
)
NAMES = (
    st.lists(LABELS, min_size=1, max_size=4)
    .map(".".join)
    .filter(lambda name: len(name) <= 253 and not name.rpartition(".")[2].isdigit())
)
HOSTS = st.one_of(
    NAMES,
    NAMES.map(lambda name: name + "."),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address.exploded.upper()}]"),
    st.ip_addresses(v=6).map(lambda address: f"[{address}%eth0]"),
)
VALID = st.builds(lambda host, port: f"{host}:{port}", HOSTS, st.integers(1, 65_535))
# Almost right is where mistakes hide.
ALPHABET = st.sampled_from("aA19.:-_[]%/@ #\t\n\0é٣\N{FULLWIDTH DIGIT ZERO}")
ANYTHING = st.one_of(
    st.text(),
    st.text(ALPHABET, max_size=20),
    st.builds(
        lambda text, at, new: text[:at] + new + text[at:], VALID, st.integers(0, 80), ALPHABET
    ),
    st.builds(lambda text, at: text[:at] + text[at + 1 :], VALID, st.integers(0, 80)),
)


def parsed(text: str) -> Backend | None:
    try:
        return Backend.parse(text)
    except InvalidBackend:
        return None


def refusal(thing: object) -> InvalidBackend | None:
    try:
        Backend.parse(thing)  # type: ignore[arg-type]  # what it is for
    except InvalidBackend as error:
        return error
    return None


@settings_here
@given(VALID)
def test_every_well_formed_text_is_accepted_and_lower_cased(text: str) -> None:
    backend = Backend.parse(text)
    assert backend.port == int(text.rpartition(":")[2])
    if "[" not in text:
        assert backend == text.lower()


@settings_here
@given(st.one_of(VALID, ANYTHING))
def test_whatever_is_accepted_is_a_fixed_point(text: str) -> None:
    backend = parsed(text)
    if backend is not None:
        again = Backend(str(backend))
        assert again == backend == str(backend)
        assert hash(backend) == hash(str(backend))
        assert (again.host, again.port) == (backend.host, backend.port)
        if "%" not in text:
            assert parsed(text.upper()) == backend


@settings_here
@given(st.one_of(ANYTHING, st.none(), st.integers(), st.binary(), st.lists(VALID)))
def test_nothing_but_invalid_backend_is_ever_raised(thing: object) -> None:
    error = refusal(thing)
    if error is not None:
        assert error.entry == thing
        assert error.reason
        assert str(error).isprintable()


@settings_here
@given(ANYTHING)
def test_whatever_is_accepted_can_be_put_into_a_url_as_it_is(text: str) -> None:
    backend = parsed(text)
    if backend is not None:
        assert backend.isascii()
        assert backend.isprintable()
        assert not set(backend) & set(" /?#@\\")
        shown = f"[{backend.host}]" if ":" in backend.host else backend.host
        assert backend == f"{shown}:{backend.port}"


@settings_here
@given(VALID, st.integers(1, 65_535))
def test_a_backend_survives_pickle_and_copy(text: str, weight: int) -> None:
    backend = Backend(text, weight=weight)
    for twin in (pickle.loads(pickle.dumps(backend)), copy.copy(backend), copy.deepcopy(backend)):
        assert (twin, twin.weight, type(twin)) == (backend, weight, type(backend))


@settings_here
@given(st.ip_addresses(v=6), st.booleans())
def test_an_ipv6_address_has_one_spelling(address: ipaddress.IPv6Address, short: bool) -> None:
    host = Backend(f"[{address.compressed if short else address.exploded}]:80").host
    assert socket.inet_pton(socket.AF_INET6, host) == address.packed
    assert host == host.lower()
    # glibc writes embedded IPv4 into compatible addresses too, which RFC 5952 leaves open.
    if int(address) >> 32 not in {0, 0xFFFF}:
        assert host == socket.inet_ntop(socket.AF_INET6, address.packed)


@settings_here
@given(st.ip_addresses(v=4))
def test_a_mapped_address_shows_the_ipv4_address_in_it(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for text in (f"::ffff:{address}", f"::FFFF:{number >> 16:x}:{number & 0xFFFF:X}"):
        assert Backend(f"[{text}]:80").host == f"::ffff:{address}"


@settings_here
@given(st.lists(st.integers(0, 300).map(str) | st.sampled_from(["00", "01", "x"]), max_size=5))
def test_what_looks_like_ipv4_is_what_ipaddress_takes_for_it(octets: list[str]) -> None:
    host = ".".join(octets)
    if octets and octets[-1].isdigit():
        try:
            expected = str(ipaddress.IPv4Address(host))
        except ValueError:
            assert parsed(f"{host}:80") is None
        else:
            assert Backend(f"{host}:80").host == expected == host


@settings_here
@given(st.text(string.hexdigits + ":.%[]", max_size=40))
def test_what_looks_like_ipv6_is_what_inet_pton_takes_for_it(text: str) -> None:
    address, _, zone = text.partition("%")
    try:
        packed = socket.inet_pton(socket.AF_INET6, address)
    except OSError:
        assert parsed(f"[{text}]:80") is None
    else:
        backend = parsed(f"[{text}]:80")
        if backend is not None:
            assert socket.inet_pton(socket.AF_INET6, backend.host.partition("%")[0]) == packed
        else:
            assert "%" in text
            assert not zone or set(zone) & set(":[]%")


@settings_here
@given(st.one_of(VALID, ANYTHING))
def test_the_parser_of_many_takes_only_what_is_canonical_already(text: str) -> None:
    canonical = parsed(text) == text
    for entries in ([text], ["a:1", text, "10.0.0.1:80"], [text, text]):
        found = parse_canonical(entries)
        assert found is None or (canonical and found == entries)
    found = parse_canonical_text(f"{text}\n")
    assert found is None or (canonical and found == [text])
    assert parse_canonical_text(text) is None


@settings_here
@given(
    st.lists(NAMES.map(str.lower) | st.ip_addresses(v=4).map(str), min_size=1),
    st.integers(1, 65_535),
)
def test_the_parser_of_many_takes_the_names_that_lists_consist_of(
    hosts: list[str], port: int
) -> None:
    entries = [f"{host}:{port}" for host in hosts]
    common = all(len(host) <= 63 and not host[-6:].isdigit() and host[0] != "_" for host in hosts)
    found = parse_canonical(entries)
    assert found == entries if common else found in (None, entries)
    assert parse_canonical_text("\n".join([*entries, ""])) == found
