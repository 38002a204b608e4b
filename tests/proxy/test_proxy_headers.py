"""Which header lines pass, which are dropped, and which are set."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest

from backendpool_async import BackendPool, Balancer
from backendpool_async.proxy import ProxyLimits, ReverseProxy
from backendpool_async.proxy.forwarded import Pair
from backendpool_async.proxy.framing import ABSENT, CHUNKED
from backendpool_async.proxy.headers import HeaderRules
from backendpool_async.proxy.refusal import Refusal
from backendpool_async.proxy.request import (
    ProxyRequest,
    asgi_target,
    forwarded_once,
    request_line,
    with_own_target,
)

HOST = (b"host", b"api")
CLIENT = "192.0.2.1"
PROXY = "10.0.0.9"


def rules(**keywords: object) -> HeaderRules:
    balancer = Balancer(BackendPool.static(["10.0.0.1:80"]))
    proxy = ReverseProxy(balancer, trusted_proxies=["10.0.0.0/24"], **keywords)  # type: ignore[arg-type]  # each test knows its keywords
    return proxy.rules


def passed(*headers: Pair, client: str | None = CLIENT, version: str = "1.1") -> list[Pair]:
    return rules().request([HOST, *headers], client, "http", version).pairs


def values(pairs: list[Pair], name: bytes) -> list[bytes]:
    return [value for each, value in pairs if each == name]


def refused(*headers: Pair, version: str = "1.1") -> int:
    with pytest.raises(Refusal) as refusal:
        rules().request(headers, CLIENT, "http", version)
    return refusal.value.status


def test_what_is_for_this_hop_only_goes_no_further() -> None:
    hop = [
        (b"connection", b"close, X-Once , te"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"proxy-authenticate", b"Basic"),
        (b"proxy-authorization", b"Basic eA=="),
        (b"te", b"trailers"),
        (b"trailer", b"x"),
        (b"upgrade", b"h2c"),
        (b"http2-settings", b"AAMAAABk"),
        (b"x-once", b"1"),
    ]
    pairs = passed(*hop, (b"accept", b"*/*"))
    assert not {name for name, _ in hop} & {name for name, _ in pairs}
    assert values(pairs, b"accept") == [b"*/*"]


def test_who_asks_is_set_after_what_connection_names_was_dropped() -> None:
    pairs = passed((b"connection", b"x-forwarded-for, forwarded, via"), client=PROXY)
    assert values(pairs, b"x-forwarded-for") == [PROXY.encode()]
    assert values(pairs, b"forwarded") == [b'for=10.0.0.9;host="api";proto=http']
    claimed = passed(
        (b"x-forwarded-for", b"1.2.3.4"), (b"connection", b"x-forwarded-for"), client=PROXY
    )
    assert values(claimed, b"x-forwarded-for") == [PROXY.encode()]


def test_what_belongs_to_the_message_cannot_be_dropped_by_naming_it() -> None:
    head = rules().request(
        [HOST, (b"connection", b"content-length, host, cookie"), (b"content-length", b"5"),
         (b"cookie", b"a=1")],
        CLIENT, "http", "1.1",
    )  # fmt: skip
    assert (head.host, head.length) == (b"api", 5)
    assert values(head.pairs, b"cookie") == [b"a=1"]


CLAIMS = [
    (b"x-forwarded-for", b"1.2.3.4"),
    (b"x-forwarded-for", b"5.6.7.8"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"shop"),
    (b"x-forwarded-port", b"443"),
    (b"x-real-ip", b"1.2.3.4"),
    (b"forwarded", b"for=1.2.3.4"),
]


def test_what_a_stranger_says_of_itself_is_dropped() -> None:
    pairs = passed(*CLAIMS)
    assert values(pairs, b"x-forwarded-for") == [b"192.0.2.1"]
    assert values(pairs, b"x-forwarded-proto") == [b"http"]
    assert values(pairs, b"x-forwarded-host") == [b"api"]
    assert values(pairs, b"forwarded") == [b'for=192.0.2.1;host="api";proto=http']
    assert not values(pairs, b"x-forwarded-port") + values(pairs, b"x-real-ip")


def test_what_a_trusted_proxy_says_is_added_to() -> None:
    pairs = passed(*CLAIMS, client=PROXY)
    assert values(pairs, b"x-forwarded-for") == [b"1.2.3.4, 5.6.7.8, 10.0.0.9"]
    assert values(pairs, b"x-forwarded-proto") == [b"https"]
    assert values(pairs, b"x-forwarded-host") == [b"shop"]
    assert values(pairs, b"x-forwarded-port") == [b"443"]
    assert values(pairs, b"x-real-ip") == [b"1.2.3.4"]
    assert values(pairs, b"forwarded") == [b'for=1.2.3.4, for=10.0.0.9;host="api";proto=http']


@pytest.mark.parametrize("client", [CLIENT, PROXY])
@pytest.mark.parametrize(
    "name", [b"x_forwarded_for", b"x-forwarded_for", b"transfer_encoding", b"x_real_ip", b"host_"]
)
def test_a_spelling_with_underscores_is_no_way_around(client: str, name: bytes) -> None:
    pairs = passed((name, b"1.2.3.4"), (b"x_other", b"1"), client=client)
    assert values(pairs, name) == ([b"1.2.3.4"] if name == b"host_" else [])
    assert values(pairs, b"x_other") == [b"1"]


def test_an_ipv6_client_stands_in_brackets_where_rfc_7239_wants_them() -> None:
    pairs = passed(client="2001:db8::1")
    assert values(pairs, b"x-forwarded-for") == [b"2001:db8::1"]
    assert values(pairs, b"forwarded") == [b'for="[2001:db8::1]";host="api";proto=http']


@pytest.mark.parametrize("client", [None, "/run/socket"])
def test_a_client_without_an_address_is_unknown(client: str | None) -> None:
    pairs = passed(client=client)
    assert values(pairs, b"x-forwarded-for") == [b"unknown"]
    assert values(pairs, b"forwarded") == [b'for=unknown;host="api";proto=http']


@pytest.mark.parametrize(
    ("scheme", "told"), [("https", b"https"), ("wss", b"https"), ("ws", b"http")]
)
def test_the_scheme_is_that_of_the_client(scheme: str, told: bytes) -> None:
    pairs = rules().request([HOST], CLIENT, scheme, "1.1").pairs
    assert values(pairs, b"x-forwarded-proto") == [told]


def test_via_is_added_to_by_each_hop() -> None:
    pairs = passed((b"via", b"1.0 a"), (b"via", b"2 b"), version="2")
    assert values(pairs, b"via") == [b"1.0 a, 2 b, 2 backendpool"]
    answer = rules(via="edge").answer(200, [(b"Via", b"1.1 c")], "1.0")
    assert values(answer.pairs, b"via") == [b"1.1 c, 1.0 edge"]
    assert values(rules().request([HOST], CLIENT, "http", "4").pairs, b"via") == [
        b"1.1 backendpool"
    ]


def test_lines_of_the_same_name_keep_their_order_and_number() -> None:
    lines = [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3"), (b"x-b", b"2")]
    assert passed(*lines)[:4] == lines
    cookies = [
        (b"Set-Cookie", b"a=1"),
        (b"X", b"y"),
        (b"Set-Cookie", b"b=2"),
        (b"Set-Cookie", b"a=1"),
    ]
    answer = rules().answer(200, cookies, "1.1").pairs
    assert answer[:4] == [(name.lower(), value) for name, value in cookies]


def test_cookies_that_http_2_divided_are_one_again() -> None:
    cookies = [(b"cookie", b"a=1"), (b"cookie", b"b=2")]
    assert values(passed(*cookies, version="2"), b"cookie") == [b"a=1; b=2"]
    assert values(passed(*cookies), b"cookie") == [b"a=1", b"b=2"]


def test_the_end_of_a_body_is_read_of_one_field() -> None:
    def length(*headers: Pair) -> int:
        return rules().request([HOST, *headers], CLIENT, "http", "1.1").length

    assert length() == ABSENT
    assert length((b"content-length", b"0")) == 0
    assert length((b"content-length", b"5"), (b"content-length", b"5")) == 5
    assert length((b"transfer-encoding", b"Chunked")) == CHUNKED


@pytest.mark.parametrize(
    "headers",
    [
        [HOST, HOST],
        [],
        [(b"host", b"a b")],
        [(b"host", b"a" * 513)],
        [HOST, (b"content-length", b"5"), (b"content-length", b"6")],
        [HOST, (b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
        [HOST, (b"content-length", b"+5")],
        [HOST, (b"content-length", b"")],
        [HOST, (b"content-length", b"9" * 19)],
        [HOST, (b"transfer-encoding", b"gzip, chunked")],
        [HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        [HOST, (b"x", b"a\rb")],
        [HOST, (b"x", b"a\nb")],
        [HOST, (b"x", b"a\r\nb: c")],
        [HOST, (b"x", b"a\0")],
        [HOST, (b"x", b"\x7f")],
        [HOST, (b"x y", b"z")],
        [HOST, (b"x:", b"z")],
        [HOST, (b"", b"z")],
        [HOST, (b"x\r\ny", b"z")],
        [HOST, (b"x\xe9", b"z")],
        [HOST, (b":authority", b"z")],
        [HOST, (b"cookie", b"a\r\nb")],
    ],
    ids=repr,
)
def test_what_is_malformed_or_ambiguous_is_refused(headers: list[Pair]) -> None:
    assert refused(*headers) == 400


def test_chunks_are_not_for_http_1_0() -> None:
    assert refused((b"transfer-encoding", b"chunked"), version="1.0") == 400
    assert rules().request([], CLIENT, "http", "1.0").host == b""


def test_another_expectation_than_to_continue_is_not_met() -> None:
    assert refused(HOST, (b"expect", b"miracles")) == 417
    assert rules().request([HOST, (b"expect", b"100-Continue")], CLIENT, "http", "1.1")[4]


def test_too_many_header_lines_are_refused() -> None:
    small = rules(limits=ProxyLimits(header_size=500))
    with pytest.raises(Refusal, match=r"^431 request header fields too large"):
        small.request([HOST, (b"x", b"a" * 500)], CLIENT, "http", "1.1")
    with pytest.raises(Refusal, match=r"^502 "):
        small.answer(200, [(b"x", b"a" * 500)], "1.1")


def test_other_bytes_than_ascii_pass_in_values_as_they_are() -> None:
    assert values(passed((b"x", b"caf\xe9\t\xff")), b"x") == [b"caf\xe9\t\xff"]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Content-Length", b"5"), (b"Content-Length", b"6")],
        [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"X", b"a\rb")],
        [(b"X y", b"a")],
    ],
    ids=repr,
)
def test_an_answer_that_is_malformed_is_refused(headers: list[Pair]) -> None:
    with pytest.raises(Refusal, match=r"^502 "):
        rules().answer(200, headers, "1.1")


def test_of_an_answer_what_is_for_this_hop_goes_no_further() -> None:
    headers = [
        (b"Connection", b"close, X-Once"),
        (b"X-Once", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Upgrade", b"h2c"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"Date", b"now"),
    ]
    answer = rules().answer(200, headers, "1.1")
    assert answer.pairs == [(b"date", b"now"), (b"via", b"1.1 backendpool")]
    assert answer.length == CHUNKED


def test_many_clients_and_hosts_are_forgotten_again() -> None:
    made = rules()
    for number in range(3000):
        host = b"h%d" % number
        pairs = made.request([(b"host", host)], CLIENT, "http", "1.1").pairs
        assert values(pairs, b"x-forwarded-host") == [host]
    assert len(made._forwarded._known) <= 1024


@pytest.mark.parametrize(
    ("scope", "target"),
    [
        ({"raw_path": b"/a%2Fb"}, b"/a%2Fb"),
        ({"raw_path": b"/a", "query_string": b"x=%20&y"}, b"/a?x=%20&y"),
        ({"path": "/caf\xe9 au lait"}, b"/caf%C3%A9%20au%20lait"),
        ({"raw_path": b"/api/x", "root_path": "/api"}, b"/x"),
        ({"raw_path": b"/api", "root_path": "/api/"}, b"/"),
        ({"raw_path": b"/%61p%69/x", "root_path": "/api"}, b"/x"),
        ({"raw_path": b"/caf%c3%a9/x", "root_path": "/caf\xe9"}, b"/x"),
        ({"raw_path": b"/apis/x", "root_path": "/api"}, b"/apis/x"),
        ({"raw_path": b"/api%2Fx", "root_path": "/api"}, b"%2Fx"),
        ({"raw_path": b"/api%2fx/y", "root_path": "/api"}, b"%2fx/y"),
        ({"raw_path": b"/api/%2Fx", "root_path": "/api"}, b"/%2Fx"),
        ({"raw_path": b"/x", "root_path": "/api"}, b"/x"),
        ({"raw_path": b"/a%zz", "root_path": "/aaa"}, b"/a%zz"),
        ({"raw_path": b"/a", "root_path": "/aaa"}, b"/a"),
    ],
    ids=repr,
)  # fmt: skip
def test_the_target_is_what_came_without_the_mount(scope: dict[str, object], target: bytes) -> None:
    assert asgi_target({"query_string": b"", **scope}) == target


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        (b"CONNECT", b"a:1", 405),
        (b"TRACE", b"/", 405),
        (b"", b"/", 400),
        (b"GE T", b"/", 400),
        (b"GET", b"/a b", 400),
        (b"GET", b"/a\r\nb", 400),
        (b"GET", b"/a#b", 400),
        (b"GET", b"", 400),
        (b"GET", b"*", 400),
        (b"GET", b"http://a/", 400),
    ],
)
def test_a_first_line_that_cannot_be_passed_on_is_refused(
    method: bytes, target: bytes, status: int
) -> None:
    with pytest.raises(Refusal, match=f"^{status} "):
        request_line(method, target)


@pytest.mark.parametrize(
    ("method", "target", "split"),
    [
        (b"GET", b"http://other/a?b", b"/a?b"),
        (b"GET", b"HTTPS://other?b", b"/?b"),
        (b"GET", b"http://other", b"/"),
        (b"OPTIONS", b"http://other", b"*"),
        (b"OPTIONS", b"http://other/", b"/"),
    ],
)
def test_a_target_with_a_host_is_split(method: bytes, target: bytes, split: bytes) -> None:
    asked = ProxyRequest(method, target, [HOST, (b"x", b"y")], CLIENT, "http", "1.1")
    own = with_own_target(asked)
    assert own.target == split
    assert own.headers == [(b"host", b"other"), (b"x", b"y")]


@pytest.mark.parametrize(
    "target", [b"http://me@other/", b"http:///a", b"ftp://other/", b"other:80", b"a", b"", b"*"]
)
def test_a_target_that_cannot_be_split_is_as_it_was(target: bytes) -> None:
    asked = ProxyRequest(b"GET", target, [HOST], CLIENT, "http", "1.1")
    assert with_own_target(asked) is asked


@pytest.mark.parametrize("said", [b"", b"x", b"-1", b"9" * 10])
def test_how_often_to_forward_is_a_number(said: bytes) -> None:
    headers = [HOST, (b"max-forwards", said)]
    with pytest.raises(Refusal, match=r"^400 "):
        forwarded_once(ProxyRequest(b"OPTIONS", b"/", headers, CLIENT, "http", "1.1"))


def test_the_time_of_an_answer_is_set_only_where_it_is_missing() -> None:
    assert values(rules().answer(200, [(b"Date", b"then")], "1.1").pairs, b"date") == [b"then"]
    for pairs in (rules().answer(200, [], "1.1").pairs, Refusal(502, "no").headers(b"")):
        (date,) = values(pairs, b"date")
        said = parsedate_to_datetime(date.decode())
        assert abs((datetime.now(UTC) - said).total_seconds()) < 60


def test_a_first_line_passes_as_it_is() -> None:
    assert request_line(b"OPTIONS", b"*") == b"OPTIONS * HTTP/1.1\r\n"
    assert request_line(b"PROPFIND", b"/\xff{}|?") == b"PROPFIND /\xff{}|? HTTP/1.1\r\n"


def test_a_refusal_of_a_method_says_which_there_are() -> None:
    assert dict(Refusal(200, "yes").headers(b""))[b"allow"]
    headers = dict(Refusal(405, "no").headers(b""))
    assert re.fullmatch(rb"([A-Z]+(, )?)+", headers[b"allow"])
    assert b"connection" not in headers
    assert dict(Refusal(400, "no").headers(b""))[b"connection"] == b"close"
    assert b"connection" not in dict(Refusal(400, "no").headers(b"", "2"))


@pytest.mark.parametrize(
    "name",
    [b"x-forwarded-user", b"x-forwarded-client-cert", b"x-original-url", b"true-client-ip"],
)
def test_what_only_a_trusted_proxy_may_say_is_known_by_its_beginning(name: bytes) -> None:
    assert not values(passed((name, b"admin")), name)
    assert values(passed((name, b"admin"), client=PROXY), name) == [b"admin"]
    odd = name.replace(b"-", b".")
    assert not values(passed((odd, b"admin"), client=PROXY), odd)
