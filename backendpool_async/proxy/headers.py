"""Which header lines pass, and which are set (RFC 9110, section 7.6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

from backendpool_async.proxy.date import http_date
from backendpool_async.proxy.forwarded import CLAIM_PREFIXES, CLAIMS, Forwarded, Pair
from backendpool_async.proxy.framing import AmbiguousFraming, message_framing
from backendpool_async.proxy.grammar import HOST, LONGEST_HOST, TOKEN
from backendpool_async.proxy.refusal import Refusal
from backendpool_async.proxy.settings import ProxySettings

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Of a request each of these is looked at by itself; all others pass as they are.
_APART: Final = (
    HOP_BY_HOP
    | CLAIMS
    | {b"content-length", b"cookie", b"expect", b"host", b"http2-settings", b"via"}
)
# CGI and WSGI, and what is built upon them, take other characters for dashes: X_Forwarded.For.
_DASHED: Final = bytes(
    byte if chr(byte).isalnum() and byte < 128 else ord("-") for byte in range(256)
)
_ANSWER_APART: Final = HOP_BY_HOP | {b"content-length", b"date", b"via"}
# What nobody may have dropped by naming it in Connection: it is the message's, not the hop's.
_NOT_THE_HOPS: Final = frozenset({b"content-length", b"host", b"cookie", b"via", b"expect"})
# RFC 9110, section 5.5: no control character but the tabulator; CR and LF divide lines.
_CONTROLS: Final = bytes({*range(32), 127} - {9})
_ONLY_THIS_HOP: Final = frozenset({b"close", b"keep-alive"})


class RequestHead(NamedTuple):
    """What a backend is told of a request, but for its Host and its framing.

    `lines` are the `pairs` as they are sent, each with its CRLF. `host` is the client's own Host,
    ``b""`` when there was none. `length` is that of the body, or `framing.CHUNKED` or
    `framing.ABSENT`.
    """

    pairs: list[Pair]
    lines: bytes
    host: bytes
    length: int
    expects_continue: bool


class AnswerHead(NamedTuple):
    """What a client is told of an answer; `length` as in `RequestHead`."""

    pairs: list[Pair]
    length: int


class HeaderRules:
    """Makes the header lines for backends and for clients of those that came.

    >>> from backendpool_async import BackendPool, Balancer
    >>> from backendpool_async.proxy import ReverseProxy
    >>> rules = ReverseProxy(Balancer(BackendPool.static(["10.0.0.1:80"]))).rules
    >>> headers = [(b"host", b"api"), (b"connection", b"close, x-once"), (b"x-once", b"1")]
    >>> for name, value in rules.request(headers, "192.0.2.1", "http", "1.1").pairs:
    ...     print(name.decode(), value.decode())
    x-forwarded-for 192.0.2.1
    x-forwarded-proto http
    x-forwarded-host api
    forwarded for=192.0.2.1;host="api";proto=http
    via 1.1 backendpool
    """

    __slots__ = ("_forwarded", "_header_size", "_via")

    def __init__(self, settings: ProxySettings) -> None:
        self._header_size = settings.limits.header_size
        self._forwarded = Forwarded(settings.trusted_proxies)
        self._via = {
            version: b"%b %b" % (version.encode(), settings.via)
            for version in ("1.0", "1.1", "2", "3")
        }

    def request(
        self, headers: Iterable[Pair], client: str | None, scheme: str, version: str
    ) -> RequestHead:
        """Return what is passed on of a request's headers, whose names are in lower case.

        `client` is the peer's address (None: not known), `scheme` that of its connection ("http",
        "https", "ws", "wss"), `version` of HTTP ("1.1", "2"). Raises `Refusal`: 400 for what is
        malformed or ambiguous, 417, 431 for what is too long.
        """
        pairs: list[Pair] = []
        apart: list[Pair] = []
        for pair in headers:
            plain = pair[0].translate(_DASHED)
            if plain not in _APART and not plain.startswith(CLAIM_PREFIXES):
                pairs.append(pair)
            elif plain == pair[0]:
                apart.append(pair)
        sorted_out = _SortedOut()
        for name, value in apart:
            sorted_out.take(name, value)
        if sorted_out.of_the_hop:
            pairs = [pair for pair in pairs if pair[0] not in sorted_out.of_the_hop]
        host = _only_host(sorted_out.hosts, version)
        length = _request_framing(sorted_out, version)
        if sorted_out.cookies:
            pairs += _cookies(sorted_out.cookies, version)
        pairs += self._forwarded.lines(client, scheme, host, sorted_out.believable())
        pairs.append((b"via", self._appended_via(sorted_out.vias, version)))
        lines = _joined(pairs)
        if lines is None:
            raise Refusal(400, "a header line is malformed")
        if len(lines) > self._header_size:
            raise Refusal(431, "the header lines are too long")
        return RequestHead(pairs, lines, host, length, sorted_out.expects_continue)

    def answer(self, status: int, headers: Iterable[Pair], version: str) -> AnswerHead:
        """Return what is passed on of an answer's headers; `version` is that of its HTTP.

        Raises `Refusal` with 502 for what is malformed, ambiguous or too long.
        """
        pairs: list[Pair] = []
        apart: list[Pair] = []
        for name, value in headers:
            lowered = name.lower()
            (apart if lowered in _ANSWER_APART else pairs).append((lowered, value))
        lengths, codings, vias, dates, of_the_hop = _taken_apart(apart)
        if of_the_hop:
            pairs = [pair for pair in pairs if pair[0] not in of_the_hop]
        try:
            length = message_framing(lengths, codings, version)
        except AmbiguousFraming as error:
            raise Refusal(502, "the backend's answer is malformed") from error
        # Neither has a body, and a server would wait for one that is announced.
        if length >= 0 and status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            pairs.append((b"content-length", lengths[0]))
        # RFC 9110, section 6.6.1.
        pairs += [(b"date", date) for date in dates] or [(b"date", http_date())]
        pairs.append((b"via", self._appended_via(vias, version)))
        names = b"".join([name for name, _ in pairs])
        values = b"".join([value for _, value in pairs])
        if names.translate(None, TOKEN) or len(values.translate(None, _CONTROLS)) != len(values):
            raise Refusal(502, "the backend's answer is malformed")
        if len(names) + len(values) + 4 * len(pairs) > self._header_size:
            raise Refusal(502, "the backend's header lines are too long")
        return AnswerHead(pairs, length)

    def _appended_via(self, before: Sequence[bytes], version: str) -> bytes:
        own = self._via.get(version) or self._via["1.1"]
        return b", ".join([*before, own]) if before else own


class _SortedOut:
    """The lines of a request that do not simply pass, by what they are for."""

    __slots__ = (
        "claims",
        "codings",
        "cookies",
        "expects_continue",
        "hosts",
        "lengths",
        "of_the_hop",
        "vias",
    )

    def __init__(self) -> None:
        self.hosts: list[bytes] = []
        self.lengths: list[bytes] = []
        self.codings: list[bytes] = []
        self.cookies: list[bytes] = []
        self.vias: list[bytes] = []
        self.claims: list[Pair] = []
        self.of_the_hop: set[bytes] = set()
        self.expects_continue = False

    def take(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self.hosts.append(value)
        elif name == b"cookie":
            self.cookies.append(value)
        elif name == b"connection":
            self.of_the_hop |= _named(value)
        elif name == b"content-length":
            self.lengths.append(value)
        elif name == b"transfer-encoding":
            self.codings.append(value)
        elif name in CLAIMS or name.startswith(CLAIM_PREFIXES):
            self.claims.append((name, value))
        elif name == b"via":
            self.vias.append(value)
        elif name == b"expect":
            self._take_expectation(value)

    def believable(self) -> Sequence[Pair]:
        """What is said of the client, without what was for this hop only."""
        if self.of_the_hop and self.claims:
            return [claim for claim in self.claims if claim[0] not in self.of_the_hop]
        return self.claims

    def _take_expectation(self, value: bytes) -> None:
        if value.lower() != b"100-continue":
            raise Refusal(417, "an expectation other than 100-continue")
        self.expects_continue = True


def _taken_apart(
    apart: Iterable[Pair],
) -> tuple[list[bytes], list[bytes], list[bytes], list[bytes], set[bytes]]:
    """Return lengths, codings, proxies and dates of an answer, and what Connection names."""
    lengths: list[bytes] = []
    codings: list[bytes] = []
    vias: list[bytes] = []
    dates: list[bytes] = []
    of_the_hop: set[bytes] = set()
    for name, value in apart:
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name == b"connection":
            of_the_hop |= _named(value)
        elif name == b"via":
            vias.append(value)
        elif name == b"date":
            dates.append(value)
    return lengths, codings, vias, dates, of_the_hop


def _named(connection: bytes) -> set[bytes]:
    lowered = connection.lower()
    if lowered in _ONLY_THIS_HOP:
        return set()
    return {option.strip() for option in lowered.split(b",")} - _NOT_THE_HOPS


def _only_host(hosts: Sequence[bytes], version: str) -> bytes:
    # RFC 9112, section 3.2.
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise Refusal(400, "not one Host")
    host = hosts[0] if hosts else b""
    if host.translate(None, HOST) or len(host) > LONGEST_HOST:
        raise Refusal(400, "the Host is malformed")
    return host


def _request_framing(sorted_out: _SortedOut, version: str) -> int:
    try:
        return message_framing(sorted_out.lengths, sorted_out.codings, version)
    except AmbiguousFraming as error:
        raise Refusal(400, f"{error}") from error


def _cookies(cookies: Sequence[bytes], version: str) -> list[Pair]:
    # HTTP/2 divides them, HTTP/1.1 may not (RFC 9113, section 8.2.3).
    if len(cookies) > 1 and version not in ("1.0", "1.1"):
        return [(b"cookie", b"; ".join(cookies))]
    return [(b"cookie", cookie) for cookie in cookies]


def _joined(pairs: Sequence[Pair]) -> bytes | None:
    """Return the lines as they are sent, None when one of them is malformed."""
    names = [name for name, _ in pairs]
    if b"".join(names).translate(None, TOKEN) or b"" in names:
        return None
    lines = b"\r\n".join([b"%b: %b" % pair for pair in pairs]) + b"\r\n"
    # Each line has two control characters: its end.
    if len(lines.translate(None, _CONTROLS)) != len(lines) - 2 * len(pairs):
        return None
    return lines
