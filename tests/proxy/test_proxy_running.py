"""The proxy in an application: mounted, started, closed, led by discovery."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import struct
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import servers
from aiohttp import web
from backends import (
    certificates,
    connected,
    echo_backend,
    exchange,
    raw_backend,
    read_answer,
    served_by_aiohttp,
    served_by_uvicorn,
)
from fastapi import FastAPI
from proxy_fronts import proxied, served

from backendpool_async import (
    Backend,
    BackendPool,
    BackendPoolError,
    Balancer,
    HealthChecks,
    Maglev,
    TcpCheck,
)
from backendpool_async.cli_serve import _listening
from backendpool_async.proxy import ProxyRequest, ReverseProxy
from backendpool_async.proxy.aiohttp_web import _reset

GET = b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"


async def test_a_mounted_proxy_takes_its_prefix_off_and_the_app_closes_it() -> None:
    async with echo_backend() as echo:
        proxy = ReverseProxy(Balancer(BackendPool.static([echo.address])))

        @contextlib.asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            async with proxy:
                yield

        app = FastAPI(lifespan=lifespan)
        app.mount("/api", proxy)

        @app.get("/own")
        async def own() -> str:
            return "own"

        async with served_by_uvicorn(app) as place, connected(place.address) as (reader, writer):
            for path in (b"/api/a%2Fb?x", b"/api/", b"/%61pi/c", b"/own"):
                writer.write(b"GET %b HTTP/1.1\r\nHost: api\r\n\r\n" % path)
                answer = await read_answer(reader)
                assert answer.status == 200
            assert answer.body == b'"own"'
        assert [request.target for request in echo.requests] == ["/a%2Fb?x", "/", "/c"]
        assert echo.open == 0


async def test_a_handler_of_aiohttp_takes_its_prefix_off() -> None:
    async with echo_backend() as echo:
        proxy = ReverseProxy(Balancer(BackendPool.static([echo.address])))
        app = web.Application()
        app.router.add_route("*", "/api/{path:.*}", proxy.aiohttp_handler(prefix="/api"))
        async with (
            proxy,
            served_by_aiohttp(app) as place,
            connected(place.address) as (reader, writer),
        ):
            for target in (b"/api/a%2Fb?x=%20", b"/api/?"):
                writer.write(b"GET %b HTTP/1.1\r\nHost: api\r\n\r\n" % target)
                assert (await read_answer(reader)).status == 200
        assert [request.target for request in echo.requests] == ["/a%2Fb?x=%20", "/?"]


async def test_an_answer_under_aiohttp_has_no_lines_of_its_own() -> None:
    async def bare(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nX: caf\xe9\r\nContent-Length: 2\r\nDate: now\r\n\r\nok")
        await reader.read()

    async with raw_backend(bare) as backend, proxied("aiohttp", backend.address) as place:
        answer = await exchange(place.address, GET)
    lines = answer.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    assert lines == [
        b"x: caf\xe9",
        b"content-length: 2",
        b"date: now",
        b"via: 1.1 backendpool",
        b"Connection: close",
    ]


async def test_a_client_that_leaves_is_seen_without_the_cancellation_of_handlers() -> None:
    async with (
        echo_backend() as echo,
        proxied("aiohttp", echo.address, handler_cancellation=False) as place,
    ):
        async with connected(place.address) as (_, writer):
            writer.write(b"GET /slow HTTP/1.1\r\nHost: api\r\n\r\n")
            await servers.until(lambda: len(echo.requests) == 1)
        await servers.until(lambda: not place.in_flight())
        assert place.failures() == 0


@pytest.mark.parametrize("has_socket", [True, False])
def test_a_connection_is_reset_as_far_as_there_is_one(has_socket: bool) -> None:
    aborted = []
    with socket.socket() as connection:
        transport = SimpleNamespace(
            get_extra_info=lambda _: connection if has_socket else None,
            abort=lambda: aborted.append(1),
        )
        _reset(SimpleNamespace(transport=transport))  # type: ignore[arg-type]  # all that it looks at
        _reset(SimpleNamespace(transport=None))  # type: ignore[arg-type]  # see above
        lingers = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    assert aborted == [1]
    assert (lingers == struct.pack("ii", 1, 0)) is has_socket


def test_the_command_listens_without_waiting_for_acknowledgements() -> None:
    with _listening("127.0.0.1", 0) as listening:
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_many_backends_are_forgotten_again() -> None:
    proxy = ReverseProxy(Balancer(BackendPool.static(["127.0.0.1:1"])))
    upstream = proxy._core.upstream()
    for port in range(1, 2000):
        upstream._route(Backend(f"127.0.0.1:{port}"))
    assert len(upstream._routes) <= 1024
    await proxy.aclose()


async def test_without_a_lifespan_it_works_and_is_closed_by_hand() -> None:
    async with echo_backend() as echo:
        proxy = ReverseProxy(Balancer(BackendPool.static([echo.address])))
        async with served_by_uvicorn(proxy, lifespan="off") as place:
            assert b" 200 " in await exchange(place.address, GET)
            assert echo.open == 1
        await proxy.aclose()
        await servers.until(lambda: echo.open == 0)
        # Closed, it begins anew, and closing once more does nothing.
        await proxy.aclose()


async def test_the_lifespan_starts_the_balancer_and_closes_it() -> None:
    pool = BackendPool(asyncio_source, poll_interval=60)
    proxy = ReverseProxy(Balancer(pool))
    async with served("uvicorn", proxy):
        assert pool.is_running
        assert pool.backends() == ("127.0.0.1:1",)
    assert not pool.is_running


async def asyncio_source() -> list[str]:
    return ["127.0.0.1:1"]


async def test_a_balancer_that_others_started_is_theirs() -> None:
    pool = BackendPool(asyncio_source, poll_interval=60)
    async with Balancer(pool) as balancer:
        async with ReverseProxy(balancer):
            pass
        assert pool.is_running


async def test_a_source_that_fails_at_the_start_is_waited_for() -> None:
    async def broken() -> list[str]:
        raise OSError("not yet")

    proxy = ReverseProxy(Balancer(BackendPool(broken, poll_interval=60)))
    async with served("uvicorn", proxy) as address:
        assert (await exchange(address, GET)).startswith(b"HTTP/1.1 503 ")


async def test_a_start_that_fails_is_told_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = ReverseProxy(Balancer(BackendPool.static(["127.0.0.1:1"])))
    sent: list[MutableMapping[str, Any]] = []

    async def fail() -> None:
        raise BackendPoolError("no")

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    monkeypatch.setattr(proxy, "start", fail)
    with pytest.raises(BackendPoolError):
        await proxy({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "BackendPoolError: 'no'"}]
    with pytest.raises(ValueError, match="'other'"):
        await proxy({"type": "other"}, receive, send)


def test_the_same_proxy_serves_on_one_loop_after_the_other() -> None:
    proxy = ReverseProxy(Balancer(BackendPool.static(["127.0.0.1:1"])))

    async def once() -> None:
        async with echo_backend() as echo:
            proxy._core.balancer._pool.update([echo.address])
            async with served("uvicorn", proxy) as address:
                assert b" 200 " in await exchange(address, GET)

    asyncio.run(once())
    asyncio.run(once())
    asyncio.run(without_closing(proxy))
    asyncio.run(once())
    assert not proxy._core._upstreams


async def without_closing(proxy: ReverseProxy) -> None:
    proxy._core.upstream()
    await proxy._core.upstream()._connector.close()


@pytest.mark.parametrize(
    ("host", "told"), [("preserve", "api"), ("backend", None), ("shop:8080", "shop:8080")]
)
async def test_the_host_is_kept_or_rewritten(host: str, told: str | None) -> None:
    async with echo_backend() as echo, proxied("uvicorn", echo.address, host=host) as place:
        await exchange(place.address, GET)
        received = echo.requests[0]
        assert received.value("host") == (told or echo.address)
        assert received.value("x-forwarded-host") == "api"


async def test_a_host_never_chooses_the_backend() -> None:
    async with (
        echo_backend("a") as a,
        echo_backend("b") as b,
        proxied("uvicorn", a.address) as place,
    ):
        answer = await exchange(place.address, GET.replace(b"api", b.address.encode()))
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["name"] == "a"
    assert not b.requests


async def test_a_key_chooses_the_backend_where_the_policy_hashes() -> None:
    def key(request: ProxyRequest) -> str | None:
        return dict(request.headers).get(b"x-user", b"").decode() or None

    async with echo_backend("a") as a, echo_backend("b") as b:
        pool = BackendPool.static([a.address, b.address])
        proxy = ReverseProxy(Balancer(pool, Maglev()), key=key)
        async with served("uvicorn", proxy) as address, connected(address) as (reader, writer):
            for _ in range(6):
                writer.write(b"GET / HTTP/1.1\r\nHost: api\r\nX-User: me\r\n\r\n")
                await read_answer(reader)
        assert sorted([len(a.requests), len(b.requests)]) == [0, 6]


async def test_discovery_may_lead_only_where_it_is_allowed() -> None:
    async with echo_backend() as echo:
        for allowed, status in ((["10.0.0.0/8"], b"503"), (["127.0.0.0/8"], b"200")):
            async with proxied("uvicorn", echo.address, allow_networks=allowed) as place:
                answer = await exchange(place.address, GET)
                assert answer.startswith(b"HTTP/1.1 %b " % status)
                assert b"127.0.0.1" not in answer.partition(b"\r\n\r\n")[2] or status == b"200"
    assert len(echo.requests) == 1


def test_networks_are_refused_where_health_checks_would_leave_them() -> None:
    pool = BackendPool.static(["192.0.2.7:80"])
    checked = Balancer(pool, checks=HealthChecks(TcpCheck()))
    with pytest.raises(ValueError, match="health checks"):
        ReverseProxy(checked, allow_networks=["10.0.0.0/8"])
    ReverseProxy(checked)


async def test_a_backend_outside_is_left_for_one_inside(caplog: pytest.LogCaptureFixture) -> None:
    async with echo_backend() as echo:
        backends = ("192.0.2.7:80", echo.address)
        async with proxied("uvicorn", *backends, allow_networks=["127.0.0.1"]) as place:
            for _ in range(4):
                assert b" 200 " in await exchange(place.address, GET)
            assert place.failures() >= 1


async def test_a_name_is_checked_by_the_addresses_that_it_resolves_to() -> None:
    async with echo_backend() as echo:
        name = f"localhost:{echo.backend.port}"
        for allowed, status in ((["10.0.0.0/8"], b"503"), (["127.0.0.0/8"], b"200")):
            async with proxied("uvicorn", name, allow_networks=allowed) as place:
                answer = await exchange(place.address, GET)
                assert answer.startswith(b"HTTP/1.1 %b " % status)
    assert len(echo.requests) == 1


async def test_backends_are_asked_over_tls_in_the_context_that_is_given() -> None:
    context = certificates().client()
    async with (
        echo_backend(tls=certificates().server("127.0.0.1")) as echo,
        proxied("uvicorn", echo.address, tls=context) as place,
    ):
        assert b" 200 " in await exchange(place.address, GET)
    async with (
        echo_backend(tls=certificates().server("other.test")) as echo,
        proxied("uvicorn", echo.address, tls=context) as place,
    ):
        assert b" 502 " in await exchange(place.address, GET)
        assert not echo.requests


@pytest.mark.parametrize(("name", "status"), [("api.internal", b"200"), ("other.test", b"502")])
async def test_certificates_are_verified_for_the_name_that_is_given(
    name: str, status: bytes
) -> None:
    context = certificates().client()
    async with (
        echo_backend(tls=certificates().server("api.internal")) as echo,
        proxied("uvicorn", echo.address, tls=context, tls_name=name) as place,
    ):
        assert (await exchange(place.address, GET)).startswith(b"HTTP/1.1 %b " % status)
    assert len(echo.requests) == (status == b"200")


NGINX = """
daemon off; worker_processes 1; pid {place}/pid; error_log {place}/log;
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
    server {{
        listen 127.0.0.1:{port}; client_max_body_size 1k;
        location / {{ return 200 "$request_uri $http_x_forwarded_for $http_host"; }}
        location /there/ {{
            proxy_pass http://{behind}/; proxy_http_version 1.1;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"""


@contextlib.asynccontextmanager
async def running_nginx(place: Path, behind: str = "127.0.0.1:1") -> AsyncIterator[str]:
    nginx = shutil.which("nginx")
    if nginx is None:
        servers.missing("nginx")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = place / "nginx.conf"
    configuration.write_text(NGINX.format(place=place, port=port, behind=behind))
    log = str(place / "log")
    process = await asyncio.create_subprocess_exec(nginx, "-e", log, "-c", str(configuration))
    address = f"127.0.0.1:{port}"
    try:
        async with asyncio.timeout(servers.PATIENCE):
            while True:
                with contextlib.suppress(OSError):
                    async with connected(address):
                        break
                await asyncio.sleep(0.01)
        yield address
    finally:
        process.terminate()
        await process.wait()


async def test_nginx_behind_it_answers(tmp_path: Path) -> None:
    async with (
        running_nginx(tmp_path) as nginx,
        proxied("uvicorn", nginx) as place,
        connected(place.address) as (reader, writer),
    ):
        for _ in range(3):
            writer.write(b"GET /a%2Fb?x HTTP/1.1\r\nHost: api\r\n\r\n")
            assert (await read_answer(reader)).body == b"/a%2Fb?x 127.0.0.1 api"
        # One that is refused before it was read.
        writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5000000\r\n\r\n")
        writer.write(b"x" * 100_000)
        assert (await read_answer(reader)).status == 413


async def test_nginx_before_it_is_believed_when_it_is_trusted(tmp_path: Path) -> None:
    async with (
        echo_backend() as echo,
        proxied("uvicorn", echo.address, trusted_proxies=["127.0.0.0/8"]) as place,
        running_nginx(tmp_path, place.address) as nginx,
    ):
        answer = await exchange(
            nginx, b"GET /there/x HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
        )
        assert b" 200 " in answer
        assert echo.requests[0].value("x-forwarded-for") == "127.0.0.1, 127.0.0.1"
