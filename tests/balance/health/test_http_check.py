from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from checked import ward
from listening import has_ipv6, http_server, nobody, tcp_server
from servers import until

from backendpool_async import Backend, BackendPoolError
from backendpool_async.balance.health import CheckFailed, HttpCheck


async def checked(check: HttpCheck, backend: Backend) -> None:
    """Check once, within a time, and close the check."""
    try:
        async with asyncio.timeout(5):
            await check.check(backend)
    finally:
        await check.aclose()


@pytest.mark.parametrize("status", [200, 204, 299])
async def test_success_is_well(status: int) -> None:
    async with http_server() as server:
        server.status = status
        await checked(HttpCheck("/health"), server.backend)
        (request,) = server.requests
        assert (request.method, request.path) == ("GET", "/health")


@pytest.mark.parametrize("status", [304, 400, 404, 429, 500, 503])
async def test_another_status_is_not_well(status: int) -> None:
    async with http_server() as server:
        server.status = status
        with pytest.raises(CheckFailed, match=f"^status {status}$"):
            await checked(HttpCheck("/health"), server.backend)


async def test_other_statuses_can_be_expected() -> None:
    async with http_server() as server:
        server.status = 404
        await checked(HttpCheck(expect={404, 405}), server.backend)
        server.status = 200
        with pytest.raises(CheckFailed, match="200"):
            await checked(HttpCheck(expect={404, 405}), server.backend)


async def test_a_redirect_is_not_followed() -> None:
    async with http_server() as server:
        server.status, server.headers = 302, {"Location": "/elsewhere"}
        with pytest.raises(CheckFailed, match="302"):
            await checked(HttpCheck("/health"), server.backend)
        assert [request.path for request in server.requests] == ["/health"]
        await checked(HttpCheck(expect=range(200, 400)), server.backend)


async def test_the_path_is_sent_as_it_is_given() -> None:
    async with http_server() as server:
        await checked(HttpCheck("/a%20b;c?deep=1&x=%2F"), server.backend)
        assert server.requests[0].raw_path == "/a%20b;c?deep=1&x=%2F"


async def test_the_host_header_is_the_backend_or_what_is_given() -> None:
    async with http_server() as server:
        await checked(HttpCheck(), server.backend)
        await checked(HttpCheck(host="api.internal:8443"), server.backend)
        hosts = [request.headers["Host"] for request in server.requests]
        assert hosts == [server.backend, "api.internal:8443"]


async def test_another_port_can_be_asked_than_the_backends_own() -> None:
    async with http_server() as server:
        await checked(HttpCheck(port=server.backend.port), Backend("127.0.0.1:1"))
        assert len(server.requests) == 1


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback")
async def test_an_ipv6_backend_is_asked_by_ipv6() -> None:
    async with http_server("::1") as server:
        await checked(HttpCheck(), server.backend)
        assert server.requests[0].headers["Host"] == server.backend


async def test_a_name_is_looked_up_as_the_system_does() -> None:
    async with http_server() as server:
        await checked(HttpCheck(), Backend(f"localhost:{server.backend.port}"))
        assert server.requests


async def test_every_check_connects_anew_and_keeps_nothing() -> None:
    async with http_server() as server:
        server.headers = {"Set-Cookie": "a=b"}
        check = HttpCheck()
        for _ in range(3):
            await check.check(server.backend)
        await check.aclose()
        assert len(server.connections) == 3
        assert all("Cookie" not in request.headers for request in server.requests)


async def test_the_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://{nobody()}")
    async with http_server() as server:
        await checked(HttpCheck(), server.backend)
        assert len(server.requests) == 1


async def test_what_refuses_connections_is_not_well() -> None:
    with pytest.raises(aiohttp.ClientConnectorError):
        await checked(HttpCheck(), nobody())


async def read_request(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def test_an_endless_body_is_not_waited_for() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    async with tcp_server(flood) as backend:
        await checked(HttpCheck(), backend)
        await asyncio.sleep(0.05)
    assert sent < 64 << 20


async def test_a_body_that_never_comes_is_not_waited_for() -> None:
    async def head_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        await reader.read()

    async with tcp_server(head_only) as backend:
        await checked(HttpCheck(), backend)


async def test_an_answer_in_a_coding_that_is_not_understood_is_an_answer() -> None:
    async with http_server() as server:
        server.headers = {"Content-Encoding": "gzip"}
        await checked(HttpCheck(), server.backend)
        assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.9\r\n", b"HTTP/1.1 200 O"])
async def test_what_does_not_speak_http_is_not_well(answer: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    async with tcp_server(speak) as backend:
        with pytest.raises(aiohttp.ClientError):
            await checked(HttpCheck(), backend)


async def test_a_server_turns_sick_slow_and_well_again() -> None:
    async with http_server() as server:
        backend = server.backend
        settings: dict[str, Any] = {"interval": 0.03, "timeout": 0.1, "fall": 2, "rise": 2}
        async with ward(HttpCheck("/health"), backend, **settings) as monitored:
            await until(lambda: monitored.verdicts(backend) == [True])
            server.status = 503
            await until(lambda: monitored.verdicts(backend) == [False])
            server.status = 200
            await until(lambda: monitored.verdicts(backend) == [True])
            server.delay = 10.0
            await until(lambda: monitored.verdicts(backend) == [False])
            server.delay = 0.0
            await until(lambda: monitored.verdicts(backend) == [True])
        assert monitored.said == [
            f"{backend} is unhealthy: status 503",
            f"{backend} is healthy again",
            f"{backend} is unhealthy: no answer within 0.1 s",
            f"{backend} is healthy again",
        ]


async def test_closing_during_checks_leaves_nothing() -> None:
    async with http_server() as server:
        server.delay = 10.0
        async with ward(HttpCheck(), server.backend, timeout=20):
            await until(lambda: server.requests)


async def test_a_check_goes_on_after_it_was_closed() -> None:
    async with http_server() as server:
        check = HttpCheck()
        await checked(check, server.backend)
        await checked(check, server.backend)
        await check.aclose()
        assert len(server.requests) == 2


def test_one_check_serves_several_loops_one_after_the_other() -> None:
    check = HttpCheck()

    async def main() -> None:
        async with http_server() as server:
            await check.check(server.backend)

    async def closed() -> None:
        await main()
        await check.aclose()

    # Never closed on its first loop: what that one held is let go without a word.
    asyncio.run(main())
    asyncio.run(closed())
    assert check._client._sessions == {}


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for api.internal, with its key, that signs itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    made = tmp_path / "api.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=api.internal", "-addext", "subjectAltName=DNS:api.internal"]
    files = ["-keyout", str(made), "-out", str(tmp_path / "only.pem")]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    made.write_text(made.read_text() + (tmp_path / "only.pem").read_text())
    return made


async def test_https_is_verified_for_the_host_that_is_given(certificate: Path) -> None:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=certificate)
    async with http_server(tls=serving) as server:
        asked: dict[str, Any] = {"scheme": "https", "tls": trusting}
        await checked(HttpCheck(host="api.internal", **asked), server.backend)
        await checked(HttpCheck(host="api.internal:443", **asked), server.backend)
        for check in (
            HttpCheck(host="other.internal", **asked),
            HttpCheck(**asked),
            HttpCheck(host="api.internal", scheme="https"),
        ):
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await checked(check, server.backend)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"path": "health"}, ValueError),
        ({"path": "/a b"}, ValueError),
        ({"path": "/a\r\nX: y"}, ValueError),
        ({"path": "/a#b"}, ValueError),
        ({"path": "/\u00e9"}, ValueError),
        ({"host": ""}, ValueError),
        ({"host": "a\r\nX: y"}, ValueError),
        ({"host": "a:b:c"}, ValueError),
        ({"host": "a/b"}, ValueError),
        ({"scheme": "ftp"}, ValueError),
        ({"port": 0}, ValueError),
        ({"port": 65_536}, ValueError),
        ({"expect": 200}, TypeError),
        ({"expect": "200"}, TypeError),
    ],
)
def test_a_bad_keyword_is_refused_by_name(keywords: dict[str, Any], error: type[Exception]) -> None:
    (name,) = keywords
    with pytest.raises(error, match=f"^{name}="):
        HttpCheck(**keywords)


def test_without_aiohttp_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "backendpool_async.balance.health.http_client", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ImportError, match=r"pip install 'backendpool-async\[health\]'"):
        HttpCheck()


def test_it_says_what_it_is() -> None:
    assert repr(HttpCheck("/health")) == "HttpCheck('/health')"
    assert issubclass(CheckFailed, BackendPoolError)


async def test_the_session_of_one_loop_asks_all_backends() -> None:
    async with http_server() as one, http_server() as other:
        check = HttpCheck()
        await asyncio.gather(*(check.check(each.backend) for each in (one, other) for _ in "123"))
        assert len(check._client._sessions) == 1
        await check.aclose()
        assert [len(each.requests) for each in (one, other)] == [3, 3]
