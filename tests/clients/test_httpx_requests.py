"""What a request over BackendTransport looks like, to the backend and to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from backends import echo_backend, raw_backend, read_head, read_request
from backends_misbehaving import informs_first
from httpx_clients import both, over
from servers import nobody, until

from backendpool_async import BackendPool, Balancer, Maglev, NoBackends
from backendpool_async.httpx import BackendTransport


@both
async def test_requests_go_to_the_backends_of_the_list(library: ModuleType) -> None:
    async with (
        echo_backend("a") as a,
        echo_backend("b") as b,
        over(a.address, b.address, library=library) as it,
    ):
        answers = [(await it.client.get("/")).json()["name"] for _ in range(4)]
    assert sorted(answers) == ["a", "a", "b", "b"]


@both
async def test_each_request_sees_the_list_as_it_is_then(library: ModuleType) -> None:
    async with (
        echo_backend("a") as a,
        echo_backend("b") as b,
        over(a.address, library=library) as it,
    ):
        assert (await it.client.get("/")).json()["name"] == "a"
        it.pool.update([b.address])
        assert (await it.client.get("/")).json()["name"] == "b"


@both
async def test_host_and_target_and_headers_are_the_callers(library: ModuleType) -> None:
    async with echo_backend() as a, over(a.address, library=library) as it:
        await it.client.get("/a%2Fb/c?q=%20+&x", headers={"X-Twice": "1"})
        await it.client.get("http://api:8080/", headers={"Host": "other"})
        await it.client.get("http://api:8080/")
    first, second, third = a.requests
    assert first.target == "/a%2Fb/c?q=%20+&x"
    assert (first.value("Host"), first.value("X-Twice")) == ("api", "1")
    assert (second.value("Host"), third.value("Host")) == ("other", "api:8080")


@both
async def test_the_response_is_of_the_logical_host_and_tells_the_backend(
    library: ModuleType,
) -> None:
    async with echo_backend() as a, over(a.address, library=library) as it:
        response = await it.client.get("/x")
        assert isinstance(response, library.Response)
        assert str(response.url) == str(response.request.url) == "http://api/x"
        assert response.extensions["backend"] == a.backend
        assert (response.http_version, response.reason_phrase) == ("HTTP/1.1", "OK")
        peer = response.extensions["network_stream"].get_extra_info("server_addr")
        assert peer == ("127.0.0.1", a.backend.port)


@both
async def test_cookies_belong_to_the_logical_host(library: ModuleType) -> None:
    async with (
        echo_backend("a") as a,
        echo_backend("b") as b,
        over(a.address, b.address, library=library, base_url="http://api.test") as it,
    ):
        await it.client.get("/cookie")
        await it.client.get("/")
        await it.client.get("http://other.test/")
    everything = a.requests + b.requests
    sent = {(each.value("Host"), each.target): each.value("Cookie") for each in everything}
    assert sent["api.test", "/"] == "session=1; theme=dark"
    assert sent["other.test", "/"] is None


@both
@pytest.mark.parametrize("path", ["/redirect", "/redirect/absolute"])
async def test_a_redirect_stays_with_the_logical_host(library: ModuleType, path: str) -> None:
    async with echo_backend() as a, over(a.address, library=library) as it:
        response = await it.client.get(path, follow_redirects=True)
    assert str(response.url) == "http://api/landed"
    assert a.requests[-1].value("Host") == "api"


async def test_mounts_send_only_their_own_host_to_the_list() -> None:
    async with echo_backend("listed") as a, echo_backend("direct") as b:
        transport = BackendTransport(Balancer(BackendPool.static([a.address])), verify=False)
        async with httpx.AsyncClient(mounts={"all://api": transport}) as client:
            assert (await client.get("http://api/")).json()["name"] == "listed"
            assert (await client.get(f"http://{b.address}/")).json()["name"] == "direct"


@both
async def test_a_body_streams_both_ways_at_once(library: ModuleType) -> None:
    sent: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while (chunk := await sent.get()) is not None:
            yield chunk

    async with echo_backend() as a, over(a.address, library=library) as it:
        # httpcore reads an answer after the request was sent; the body is not gathered before.
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(it.client.post("/sink", content=body()))
            await sent.put(b"x" * 100_000)
            await until(lambda: a.running == 1)
            assert not sending.done()
            await sent.put(None)
        assert sending.result().text == "100000"
        await a.chunks.put(b"first")
        async with it.client.stream("GET", "/stream") as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == b"first"
            assert it.in_flight() == 1
            await a.chunks.put(b"second")
            await a.chunks.put(None)
            assert [piece async for piece in pieces] == [b"second"]
        assert it.in_flight() == 0
        assert it.connections() == "1 idle, 0 active"


@both
async def test_head_gzip_and_a_large_answer_arrive_as_they_should(library: ModuleType) -> None:
    async with echo_backend() as a, over(a.address, library=library) as it:
        head = await it.client.head("/bytes/1000")
        assert (head.headers["Content-Length"], head.content) == ("1000", b"")
        assert (await it.client.get("/gzip")).text == "plain"
        assert len((await it.client.get("/bytes/3000000")).content) == 3_000_000
        assert len((await it.client.get("/chunked/300000")).content) == 300_000
        assert it.connections() == "1 idle, 0 active"
        assert a.accepted == 1


@both
async def test_informational_answers_are_passed_over(library: ModuleType) -> None:
    async with raw_backend(informs_first) as a, over(a.address, library=library) as it:
        assert (await it.client.get("/")).text == "ok"


@both
async def test_the_trace_extension_sees_what_it_always_sees(library: ModuleType) -> None:
    names: list[str] = []

    async def trace(name: str, info: dict[str, Any]) -> None:
        names.append(name)

    async with echo_backend() as a, over(a.address, library=library) as it:
        await it.client.get("/", extensions={"trace": trace})
    assert names[0] == "connection.connect_tcp.started"
    assert "http11.receive_response_headers.complete" in names


@both
async def test_a_connection_is_handed_over_after_an_upgrade(library: ModuleType) -> None:
    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n")
        writer.write(await reader.readexactly(4))
        await writer.drain()
        await reader.read()

    async with raw_backend(upgrade) as a, over(a.address, library=library) as it:
        async with it.client.stream("GET", "/", headers={"Upgrade": "echo"}) as response:
            stream = response.extensions["network_stream"]
            await stream.write(b"ping")
            assert await stream.read(100) == b"ping"
            assert it.in_flight() == 1
        await until(lambda: it.connections() == "0 idle, 0 active" and not a.open)


@both
async def test_the_key_of_a_request_chooses_its_backend(library: ModuleType) -> None:
    async with echo_backend("a") as a, echo_backend("b") as b, echo_backend("c") as c:
        pool = BackendPool.static([a.address, b.address, c.address])
        balancer = Balancer(pool, Maglev())
        async with (
            balancer,
            over(
                balancer=balancer,
                library=library,
                key=lambda request: request.headers.get("X-User"),
            ) as it,
        ):
            for user in ("ann", "bob", "cid"):
                same = {
                    (await it.client.get("/", headers={"X-User": user})).extensions["backend"]
                    for _ in range(5)
                }
                assert same == {balancer.pick(user)}
            assert (await it.client.get("/")).status_code == 200


@both
async def test_without_a_backend_the_error_is_of_both_kinds(library: ModuleType) -> None:
    async with over(library=library) as it:
        with pytest.raises(NoBackends, match="there is no backend to choose") as caught:
            await it.client.get("/x")
    assert isinstance(caught.value, library.ConnectError)
    assert str(caught.value.request.url) == "http://api/x"
    assert isinstance(caught.value.__cause__, NoBackends)


@both
async def test_another_scheme_is_refused(library: ModuleType) -> None:
    async with over(nobody(), library=library) as it:
        with pytest.raises(library.UnsupportedProtocol, match="'ftp' is neither 'http' nor"):
            await it.client.get("ftp://api/")


async def test_what_is_no_request_of_theirs_is_refused() -> None:
    transport = BackendTransport(Balancer(BackendPool.static([])), verify=False)
    with pytest.raises(TypeError, match="'GET /' is no request of httpx or httpx2"):
        await transport.handle_async_request("GET /")  # type: ignore[call-overload]  # it is not


async def test_clients_of_both_libraries_share_a_transport_but_no_connection() -> None:
    async with echo_backend() as a, over(a.address) as it:
        await it.client.get("/")
        second = httpx2.AsyncClient(transport=it.transport, base_url="http://api")
        await second.get("/")
        await second.get("/")
        assert it.connections() == "2 idle, 0 active"
        assert a.accepted == 2


async def test_it_works_under_scopes_of_anyio() -> None:
    async with echo_backend() as a, over(a.address) as it:
        with anyio.move_on_after(0.05) as scope:
            await it.client.get("/slow")
        assert scope.cancelled_caught
        assert it.in_flight() == 0
        await until(lambda: it.connections() == "0 idle, 0 active" and not a.running)
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(it.client.get, "/")
        assert it.connections() == "5 idle, 0 active"


async def test_a_response_hook_that_raises_ends_the_lease() -> None:
    async def hook(response: httpx.Response) -> None:
        response.raise_for_status()

    async with echo_backend() as a, over(a.address) as it:
        it.client.event_hooks = {"response": [hook]}
        with pytest.raises(httpx.HTTPStatusError):
            await it.client.get("/status/404")
        assert it.in_flight() == 0
        assert it.outcomes() == (1, 0)


@both
@pytest.mark.parametrize("mounted", [False, True])
async def test_where_a_redirect_to_another_host_goes(library: ModuleType, mounted: bool) -> None:
    async with echo_backend() as elsewhere:

        async def redirects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for line in (f"302 Found\r\nLocation: http://{elsewhere.address}/", "200 OK"):
                heads.append((await read_request(reader))[0])
                writer.write(f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n".encode())
            await reader.read()

        heads: list[bytes] = []
        async with raw_backend(redirects) as a, over(a.address) as it:
            options: dict[str, Any] = {"transport": it.transport}  # of AsyncClient
            if mounted:
                options = {"mounts": {"http://api": it.transport}}
            async with library.AsyncClient(**options, follow_redirects=True) as client:
                answer = await client.get("http://api/")
        # The client of a transport asks that one whatever the host is.
        assert len(elsewhere.requests) == mounted
        assert len(heads) == 2 - mounted
        assert mounted or f"host: {elsewhere.address}".encode() in heads[1].lower()
        assert answer.status_code == 200


@both
@pytest.mark.parametrize(
    ("method", "status", "seconds"),
    [("GET", 101, 0.0), ("CONNECT", 200, 0.0), ("GET", 200, 100.0)],
)
async def test_a_connection_that_is_taken_over_was_answered_when_that_began(
    library: ModuleType, method: str, status: int, seconds: float
) -> None:
    now = 0.0

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 %d Yes\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n" % status)
        await reader.read()

    async with raw_backend(answers) as a:
        balancer = Balancer(BackendPool.static([a.address]), ejection=None, clock=lambda: now)
        async with over(balancer=balancer, library=library) as it:
            headers = {"Upgrade": "echo", "Connection": "upgrade"}
            async with it.client.stream(method, "/", headers=headers) as response:
                assert response.status_code == status
                now = 100.0
            (only,) = balancer.explain().backends
            assert (only.latency, only.requests) == (seconds, 1)
