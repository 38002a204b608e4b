from __future__ import annotations

import contextlib
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backendpool_async import BackendPool, InvalidBackend
from backendpool_async.url import naming, parse_url


@pytest.mark.parametrize(
    ("url", "scheme", "arguments", "options"),
    [
        ("static:a:1,b:2", "static", (["a:1", "b:2"],), {}),
        ("static: a:1 , b:2 ", "static", (["a:1", "b:2"],), {}),
        ("static:[fe80::1%eth0]:80", "static", (["[fe80::1%eth0]:80"],), {}),
        ("static:[fe80::1%ed0]:80", "static", (["[fe80::1%ed0]:80"],), {}),
        ("static:a:1%20weight=2,b:2", "static", (["a:1 weight=2", "b:2"],), {}),
        ("static:", "static", ([],), {}),
        ("static:a:1?", "static", (["a:1"],), {}),
        ("env:MY_SVC", "env", ("MY_SVC",), {}),
        ("file:backends.txt", "file", ("backends.txt",), {}),
        ("file:/etc/a%20b%3Fc", "file", ("/etc/a b?c",), {}),
        ("file:///etc/backends", "file", ("/etc/backends",), {}),
        ("file://localhost/etc/backends", "file", ("/etc/backends",), {}),
        ("dns://API.internal:8080", "dns", ("api.internal", 8080), {}),
        ("dns://[::1]:80", "dns", ("::1", 80), {}),
        ("env:A?timeout=2&poll_interval=.5", "env", ("A",), {"timeout": 2, "poll_interval": 0.5}),
        ("env:A?empty_after=1", "env", ("A",), {"empty_after": 1}),
        ("env:A?empty_after=None", "env", ("A",), {"empty_after": None}),
        ("env:A?max_backends=5", "env", ("A",), {"max_backends": 5}),
        ("env:A?initial=a:1,b:2", "env", ("A",), {"initial": ["a:1", "b:2"]}),
        ("env:A?initial=", "env", ("A",), {"initial": []}),
        ("file:x?watch=true", "file", ("x",), {"watch": True}),
        ("file:x?watch=NO", "file", ("x",), {"watch": False}),
        ("dns://a:1?family=any", "dns", ("a", 1), {"family": "any"}),
        ("dns://a:1?resolver=system", "dns", ("a", 1), {"resolver": "system"}),
        ("dns://a:1?nameservers=b:5,[::1]", "dns", ("a", 1), {"nameservers": ["b:5", "[::1]"]}),
        ("dns://a:1?min_ttl=0", "dns", ("a", 1), {"min_ttl": 0.0}),
    ],
)  # fmt: skip
def test_a_url_is_a_constructor_and_its_keywords(
    url: str, scheme: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    assert parse_url(url) == (scheme, arguments, options)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("", "begins with none of static:, env:, file:, dns:"),
        ("a:1,b:2", "begins with none of"),
        ("static", "begins with none of"),
        ("http://api:80", "begins with none of"),
        ("env:", "no prefix after env:"),
        ("env:?poll_interval=1", "no prefix after env:"),
        ("file:", "no path after file:"),
        ("file://server/share", "not on 'server'"),
        ("dns:api:80", "dns://host:port is expected"),
        ("env:A?watch=true", "no keyword 'watch', but poll_interval, timeout"),
        ("static:a:1?poll-interval=1", "no keyword 'poll-interval'"),
        ("dns://a:1?famly=any", "family"),
        ("env:A?timeout=1&timeout=2", "timeout is given twice"),
        ("env:A?timeout", "bad query field"),
        ("env:A?timeout=", "timeout='': it is no number"),
        ("env:A?timeout=soon", "timeout='soon': it is no number"),
        ("env:A?max_backends=1.5", "max_backends='1.5': it is no whole number"),
        ("env:A?empty_after=often", "empty_after='often'"),
        ("file:x?watch=maybe", "neither true nor false"),
        ("env:A?max_backends=" + "9" * 5000, "max_backends='999"),
    ],
)
def test_a_bad_url_is_refused_naming_itself_and_what_is_wrong(url: str, what: str) -> None:
    with pytest.raises(ValueError, match=r"^'") as caught:
        parse_url(url)
    assert what in str(caught.value)
    assert repr(url)[:100] in str(caught.value)


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("static:a:1,b", "b"),
        ("static:a:1,,b:1", ""),
        ("static:a:1,", ""),
        ("static:,", ""),
        ("dns://api", "api"),
        ("dns://api:80/path", "api:80/path"),
        ("dns://api:0", "api:0"),
        ("env:A?initial=a:1,b", "b"),
    ],
)
def test_a_bad_backend_in_a_url_is_an_invalid_backend(url: str, entry: str) -> None:
    with pytest.raises(InvalidBackend) as caught:
        BackendPool.from_url(url)
    assert caught.value.entry == entry


@pytest.mark.parametrize("url", ["dns://api", "dns://api:80/path", "dns://api:0"])
def test_a_url_whose_target_is_no_backend_is_an_invalid_backend_that_names_it(url: str) -> None:
    with pytest.raises(InvalidBackend) as caught:
        parse_url(url)
    assert str(caught.value).startswith(f"{url!r}: invalid backend ")
    assert isinstance(caught.value.__cause__, InvalidBackend)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (ValueError("timeout=-1.0"), "timeout=-1.0"),
        (TypeError("no number"), "no number"),
        (InvalidBackend("b", "no port", "entry 2"), "invalid backend 'b' (entry 2): no port"),
    ],
)
def test_an_error_keeps_its_type_and_its_text_and_begins_with_the_url(
    error: Exception, what: str
) -> None:
    with pytest.raises(type(error)) as caught, naming("static:a:1,b"):
        raise error
    assert str(caught.value) == f"'static:a:1,b': {what}"
    assert caught.value.__cause__ is error


def test_a_long_or_strange_url_is_cut_and_escaped_in_its_error() -> None:
    with (
        pytest.raises(ValueError, match=r"^'file:a\\nb\\x1bx+\.\.\.': wrong$"),
        naming("file:a\nb\x1b" + "x" * 10_000),
    ):
        raise ValueError("wrong")


def test_what_is_no_fault_of_the_url_does_not_blame_it() -> None:
    error = ImportError("pip install it")
    with pytest.raises(ImportError) as caught, naming("file:x?watch=true"):
        raise error
    assert caught.value is error


def test_an_invalid_backend_of_a_url_can_be_copied() -> None:
    with pytest.raises(InvalidBackend) as caught:
        parse_url("dns://api:0")
    error = caught.value
    for copied in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert str(copied) == str(error)
        assert (copied.entry, copied.reason, copied.place) == ("api:0", error.reason, error.place)


@pytest.mark.parametrize("url", [None, b"static:a:1", 80, ["static:a:1"], Path("x")])
def test_a_url_is_a_string(url: object) -> None:
    with pytest.raises(TypeError, match=f"a string, not {type(url).__name__}"):
        parse_url(url)  # type: ignore[arg-type]  # what it is for


@pytest.mark.parametrize(
    "query", ["poll_interval=0", "poll_interval=nan", "timeout=-1", "timeout=inf",
              "empty_after=0", "max_backends=0"],
)  # fmt: skip
def test_a_keyword_out_of_range_is_refused_by_name(query: str) -> None:
    with pytest.raises(ValueError, match=query.partition("=")[0]):
        BackendPool.from_url(f"env:A?{query}")


async def test_a_static_url_is_a_pool_that_can_be_read_at_once() -> None:
    assert BackendPool.from_url("static:B:2,a:1").backends() == ("b:2", "a:1")


async def test_an_env_url_is_a_pool_of_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URL_TEST_0", "a:1")
    pool = BackendPool.from_url("env:URL_TEST?initial=b:2")
    assert pool.backends() == ("b:2",)
    assert (await pool.refresh()).backends == ("a:1",)


async def test_a_file_url_is_a_pool_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "back ends?.txt"
    path.write_text("a:1\n")
    for url in (f"file:{tmp_path}/back%20ends%3F.txt", f"file://{tmp_path}/back ends%3f.txt"):
        assert (await BackendPool.from_url(url).refresh()).backends == ("a:1",)


def test_a_dns_url_is_a_pool_of_addresses() -> None:
    assert "api.internal" in repr(BackendPool.from_url("dns://api.internal:8080?family=ipv6"))


@settings(deadline=None)
@given(
    st.sampled_from(["", "static:", "env:", "file:", "file://", "dns:", "dns://", "dns://a:1?"]),
    st.text() | st.text(st.sampled_from("?&=%:,/[]@a1+"), max_size=20),
)
def test_no_string_raises_anything_but_value_error(scheme: str, rest: str) -> None:
    with contextlib.suppress(ValueError):
        parse_url(scheme + rest)
