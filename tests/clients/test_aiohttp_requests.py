"""What a request that goes through the middleware looks like, on both sides."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp_sessions import balancer_of, in_flight, session_of
from backends import certificates, echo_backend, raw_backend, read_head
from servers import until
from yarl import URL

from backendpool_async import BackendPool, Balancer, Maglev, NoBackends
from backendpool_async.aiohttp import BackendConnector, backend_middleware
from backendpool_async.balance.failures import transport_failure
from backendpool_async.retries import Retries


async def test_requests_go_to_one_backend_after_the_other() -> None:
    async with echo_backend("a") as a, echo_backend("b") as b, session_of(balancer_of(a, b)) as s:
        names = [(await (await s.get("http://api/")).json())["name"] for _ in range(4)]
    assert sorted(names) == ["a", "a", "b", "b"]


async def test_the_backend_sees_the_logical_host_and_the_caller_the_logical_url() -> None:
    async with echo_backend() as a, session_of(balancer_of(a)) as s:
        async with s.get("http://api:81/x") as response:
            assert str(response.url) == str(response.real_url) == "http://api:81/x"
            # Which backend it was is to be seen here.
            assert response.request_info.url == URL(f"http://{a.address}/x")
        assert a.requests[0].value("Host") == "api:81"


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//a//b/",
        "/a%2Fb/%7euser/%e4?q=%20+&q=a%26b",
        "/a;b=c/d:e@f?",
        "/?a=b=c&&d",
        "/%00%0a?x=%0D%0A",
        "/ä?ö=%C3%BC",
    ],
)
async def test_path_and_query_stay_byte_by_byte(target: str) -> None:
    async with (
        echo_backend() as a,
        session_of(balancer_of(a)) as s,
        aiohttp.ClientSession() as plain,
    ):
        url = URL(f"http://api{target}", encoded=target.isascii())
        await (await s.get(url)).read()
        await (await plain.get(URL(f"http://{a.address}{target}", encoded=target.isascii()))).read()
        ours, theirs = a.requests
        assert ours.target == theirs.target


async def test_parameters_and_a_fragment_are_as_aiohttp_has_them() -> None:
    async with echo_backend() as a, session_of(balancer_of(a)) as s:
        async with s.get("http://api/x?a=1#part", params={"b": "2 3"}) as response:
            assert response.url.raw_fragment == ""
            assert response.real_url.raw_fragment == "part"
        assert a.requests[0].target == "/x?a=1&b=2+3"


async def test_cookies_belong_to_the_logical_host() -> None:
    # A jar that is not "unsafe" takes none from an address.
    async with echo_backend("a") as a, echo_backend("b") as b, session_of(balancer_of(a, b)) as s:
        await (await s.get("http://api/cookie")).read()
        assert s.cookie_jar.filter_cookies(URL("http://api/")).keys() == {"session", "theme"}
        await (await s.get("http://api/")).read()
        (last,) = [each for each in a.requests + b.requests if each.target == "/"]
        assert last.value("Cookie") == "session=1; theme=dark"


@pytest.mark.parametrize("path", ["/redirect", "/redirect/absolute"])
async def test_a_redirect_stays_with_the_logical_host_and_chooses_anew(path: str) -> None:
    async with echo_backend("a") as a, echo_backend("b") as b:
        balancer = balancer_of(a, b)
        async with session_of(balancer) as s, s.get(f"http://api{path}") as response:
            assert (await response.json())["target"] == "/landed"
            assert str(response.url) == "http://api/landed"
            assert [str(each.url) for each in response.history] == [f"http://api{path}"]
        assert len(a.requests) == len(b.requests) == 1
        assert in_flight(balancer) == 0


async def test_requests_for_other_hosts_pass_untouched() -> None:
    async with echo_backend("a") as a, echo_backend("b") as b, session_of(balancer_of(a)) as s:
        async with s.get(f"http://{b.address}/") as response:
            assert (await response.json())["name"] == "b"
        assert b.requests[0].value("Host") == b.address
        assert not a.requests


async def test_one_session_has_several_logical_hosts() -> None:
    async with echo_backend("a") as a, echo_backend("b") as b:
        # A backend of the first is called as the second's host is.
        first, second = balancer_of(f"localhost:{a.backend.port}"), balancer_of(b)
        async with aiohttp.ClientSession(
            connector=BackendConnector(first, second),
            middlewares=[
                backend_middleware(first, host="first.test"),
                backend_middleware(second, host="LOCALHOST"),
            ],
        ) as s:
            for url, name in (("http://first.test/", "a"), ("http://localhost/", "b")):
                assert (await (await s.get(url)).json())["name"] == name


async def test_sessions_share_a_balancer() -> None:
    async with echo_backend("a") as a, echo_backend("b") as b:
        balancer = balancer_of(a, b)
        for _ in range(4):
            async with session_of(balancer) as s:
                await (await s.get("http://api/")).read()
        assert (len(a.requests), len(b.requests)) == (2, 2)


async def test_a_plain_session_works_without_our_connector() -> None:
    async with echo_backend() as a:
        middleware = backend_middleware(balancer_of(a))
        async with (
            aiohttp.ClientSession() as s,
            s.get("http://api/", middlewares=[middleware]) as response,
        ):
            assert (await response.json())["name"] == "a"


async def test_a_key_chooses_the_backend() -> None:
    async with echo_backend("a") as a, echo_backend("b") as b, echo_backend("c") as c:
        balancer = balancer_of(a, b, c, policy=Maglev())
        seen = []

        def user(request: aiohttp.ClientRequest) -> str | None:
            seen.append(str(request.url))
            return request.headers.get("X-User")

        async with (
            balancer,
            aiohttp.ClientSession(middlewares=[backend_middleware(balancer, key=user)]) as s,
        ):
            names = set()
            for _ in range(6):
                async with s.get("http://api/", headers={"X-User": "7"}) as response:
                    names.add((await response.json())["name"])
            await (await s.get("http://api/")).read()
        assert len(names) == 1
        assert set(seen) == {"http://api/"}


async def test_a_key_that_raises_leaves_nothing_in_flight() -> None:
    def fails(request: aiohttp.ClientRequest) -> str | None:
        raise KeyError("X-User")

    balancer = balancer_of("127.0.0.1:1")
    async with aiohttp.ClientSession(middlewares=[backend_middleware(balancer, key=fails)]) as s:
        with pytest.raises(KeyError):
            await s.get("http://api/")
    assert in_flight(balancer) == 0


async def test_a_later_middleware_sees_the_backend_and_an_earlier_one_the_logical_url() -> None:
    seen = []

    async def note(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        before = str(request.url)
        response = await handler(request)
        seen.append((before, str(request.url), request.server_hostname))
        return response

    async with echo_backend() as a:
        middlewares = [note, backend_middleware(balancer_of(a)), note]
        async with aiohttp.ClientSession(middlewares=middlewares) as s:
            await (await s.get("http://api/")).read()
    there, here = f"http://{a.address}/", "http://api/"
    assert seen == [(there, there, None), (here, here, None)]


async def test_digest_authentication_is_for_a_middleware_before() -> None:
    async def ask_for_digest(reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            if b'uri="/secret"' in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            else:
                writer.write(
                    b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n"
                    b'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"\r\n\r\n'
                )

    async with raw_backend(ask_for_digest) as one, raw_backend(ask_for_digest) as two:
        statuses = []
        for order in (1, -1):
            digest = aiohttp.DigestAuthMiddleware("user", "password")
            balancer = balancer_of(one, two)
            middlewares: list[aiohttp.ClientMiddlewareType]
            middlewares = [digest, backend_middleware(balancer)]
            async with aiohttp.ClientSession(middlewares=middlewares[::order]) as s:
                statuses.append([(await s.get("http://api/secret")).status for _ in range(3)])
            assert in_flight(balancer) == 0
    before, after = statuses
    assert before == [200, 200, 200]
    # What one backend asked for is not told to the next one.
    assert 401 in after


async def test_traces_tell_the_logical_url_and_then_the_backend() -> None:
    seen = []
    config = aiohttp.TraceConfig()

    async def started(
        session: object, context: SimpleNamespace, parameters: aiohttp.TraceRequestStartParams
    ) -> None:
        seen.append(parameters.url)

    async def sent(
        session: object,
        context: SimpleNamespace,
        parameters: aiohttp.TraceRequestHeadersSentParams,
    ) -> None:
        seen.append(parameters.url)

    config.on_request_start.append(started)
    config.on_request_headers_sent.append(sent)
    async with (
        echo_backend() as a,
        session_of(balancer_of(a), trace_configs=[config]) as s,
        s.get("http://api/"),
    ):
        pass
    assert seen == [URL("http://api/"), URL(f"http://{a.address}/")]


async def test_an_error_status_that_the_session_raises_for_names_the_logical_url() -> None:
    async with echo_backend() as a:
        balancer = balancer_of(a)
        async with session_of(balancer, raise_for_status=True) as s:
            with pytest.raises(aiohttp.ClientResponseError, match="'http://api/status/404'"):
                await s.get("http://api/status/404")
        assert in_flight(balancer) == 0


async def test_a_body_streams_up_and_down_at_once() -> None:
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while (piece := await pieces.get()) is not None:
            yield piece

    async with echo_backend() as a:
        balancer = balancer_of(a)
        # aiohttp sends the head together with the first piece.
        pieces.put_nowait(b"one")
        async with (
            session_of(balancer) as s,
            s.post("http://api/upload", data=body()) as response,
        ):
            assert await response.content.readany() == b"one"
            for piece in (b"two", b"three"):
                pieces.put_nowait(piece)
                assert await response.content.readany() == piece
                assert in_flight(balancer) == 1
            pieces.put_nowait(None)
            assert await response.content.readany() == b""
            await until(lambda: in_flight(balancer) == 0)


async def test_without_backends_a_request_raises_what_both_libraries_callers_catch() -> None:
    balancer = balancer_of()
    async with session_of(balancer) as s:
        with pytest.raises(NoBackends, match="there is no backend to choose") as caught:
            await s.get("http://api/")
    assert isinstance(caught.value, aiohttp.ClientConnectionError)
    # Not one of a balancer beneath this one.
    assert transport_failure(caught.value) is None


async def test_tls_verifies_the_logical_name() -> None:
    certificate = certificates()
    async with (
        echo_backend(tls=certificate.server("api")) as a,
        session_of(balancer_of(a)) as s,
        s.get("https://api/", ssl=certificate.client()) as response,
    ):
        assert response.status == 200
        assert str(response.url) == "https://api/"


async def test_tls_refuses_a_backend_with_another_name() -> None:
    certificate = certificates()
    async with echo_backend(tls=certificate.server("other", "127.0.0.1")) as a:
        balancer = balancer_of(a)
        async with session_of(balancer) as s:
            with pytest.raises(aiohttp.ClientConnectorCertificateError, match="'api'"):
                await s.get("https://api/", ssl=certificate.client())
        (state,) = balancer.explain().backends
        assert state.failures == 1
        assert not a.requests


async def test_a_name_for_tls_that_the_caller_gives_is_kept() -> None:
    certificate = certificates()
    async with (
        echo_backend(tls=certificate.server("other")) as a,
        session_of(balancer_of(a)) as s,
        s.get("https://api/", ssl=certificate.client(), server_hostname="other") as response,
    ):
        assert response.status == 200


async def test_a_connection_verified_for_one_name_is_never_used_for_another() -> None:
    certificate = certificates()
    client = certificate.client()
    async with echo_backend(tls=certificate.server("api")) as a:
        first, second = balancer_of(a), balancer_of(a)
        async with aiohttp.ClientSession(
            connector=BackendConnector(first, second, ssl=client),
            middlewares=[
                backend_middleware(first),
                backend_middleware(second, host="secret.test"),
            ],
        ) as s:
            await (await s.get("https://api/")).read()
            await (await s.get("https://api/")).read()
            assert a.accepted == 1
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await s.get("https://secret.test/")
            assert len(a.requests) == 2


async def test_each_name_is_told_to_the_server() -> None:
    certificate = certificates()
    told = []
    server = certificate.server("api")
    server.sni_callback = lambda connection, name, context: told.append(name)
    async with echo_backend(tls=server) as a, session_of(balancer_of(a)) as s:
        await (await s.get("https://api/", ssl=certificate.client())).read()
    assert told == ["api"]


def _arguments(**given: Any) -> dict[str, Any]:
    return {"balancer": Balancer(BackendPool.static([])), **given}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"balancer": BackendPool.static([])}, TypeError, "is for a backendpool_async.Balancer"),
        ({"host": 5}, TypeError, "host=5 is no string"),
        ({"host": ""}, ValueError, "host='' is no name of a host"),
        ({"host": "api:80"}, ValueError, "host='api:80' is no name of a host"),
        ({"host": "http://api/"}, ValueError, "is no name of a host"),
        ({"retries": 3}, TypeError, "retries=3 is no"),
        ({"key": "user"}, TypeError, "key='user' is no callable"),
        ({"failure_statuses": ["503"]}, TypeError, "failure_statuses=.'503'."),
    ],
)
def test_bad_arguments_are_named(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        backend_middleware(**_arguments(**given))


def test_a_middleware_is_made_without_an_event_loop() -> None:
    assert callable(backend_middleware(**_arguments(host="API.test", retries=Retries(attempts=1))))


async def test_an_address_of_version_6_is_sent_to() -> None:
    # Nobody listens there: what counts is where it went.
    async with session_of(balancer_of("[::1]:1")) as s:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await s.get("http://api/")
    assert (caught.value.host, caught.value.port) == ("::1", 1)
