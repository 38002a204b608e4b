"""TLS over BackendTransport: the certificate is the logical host's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import ModuleType

import httpx
import pytest
from backends import certificates, echo_backend, raw_backend
from httpx_clients import both, over
from servers import until

from backendpool_async.httpx.flavour import Flavour


@both
async def test_a_backend_is_verified_as_the_logical_host(library: ModuleType) -> None:
    server = certificates().server("api.test")
    async with (
        echo_backend(tls=server) as a,
        over(
            a.address,
            library=library,
            verify=certificates().client(),
            base_url="https://api.test",
        ) as it,
    ):
        for _ in range(3):
            assert (await it.client.get("/")).status_code == 200
        assert a.accepted == 1
        assert a.requests[0].value("Host") == "api.test"


@both
async def test_another_name_than_the_certificates_is_refused(library: ModuleType) -> None:
    server = certificates().server("other.test", "127.0.0.1")
    async with (
        echo_backend(tls=server) as a,
        over(a.address, library=library, verify=certificates().client()) as it,
    ):
        with pytest.raises(library.ConnectError, match="Hostname mismatch"):
            await it.client.get("https://api.test/")
        # Nothing was sent; it is a failure of the backend.
        assert (it.in_flight(), it.outcomes()) == (0, (1, 1))
        assert not a.requests


@both
async def test_an_unknown_authority_is_refused_unless_anybody_is_trusted(
    library: ModuleType,
) -> None:
    server = certificates().server("api.test")
    async with echo_backend(tls=server) as a:
        async with over(a.address, library=library, verify=True, trust_env=False) as it:
            with pytest.raises(library.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await it.client.get("https://api.test/")
        async with over(a.address, library=library, verify=False) as it:
            assert (await it.client.get("https://other.test/")).status_code == 200


@both
async def test_a_connection_verified_for_one_name_is_never_used_for_another(
    library: ModuleType,
) -> None:
    server = certificates().server("api.test", "web.test")
    async with (
        echo_backend(tls=server) as a,
        over(a.address, library=library, verify=certificates().client()) as it,
    ):
        for name in ("api.test", "web.test", "api.test", "web.test"):
            assert (await it.client.get(f"https://{name}/")).status_code == 200
        assert a.accepted == 2
        with pytest.raises(library.ConnectError, match="Hostname mismatch"):
            await it.client.get("https://evil.test/")
        assert it.connections() == "2 idle, 0 active"


@both
async def test_the_sni_hostname_extension_is_what_is_verified(library: ModuleType) -> None:
    server = certificates().server("inner.test")
    async with (
        echo_backend(tls=server) as a,
        over(a.address, library=library, verify=certificates().client()) as it,
    ):
        named = {"sni_hostname": "inner.test"}
        response = await it.client.get("https://api.test/", extensions=named)
        assert response.json()["headers"][0] == ["Host", "api.test"]
        with pytest.raises(library.ConnectError, match="Hostname mismatch"):
            await it.client.get("https://api.test/")


async def test_a_plain_connection_and_one_with_tls_are_kept_apart() -> None:
    server = certificates().server("api")
    async with echo_backend(tls=server) as a, over(a.address, verify=certificates().client()) as it:
        await it.client.get("https://api/")
        with pytest.raises(httpx.TransportError):
            await it.client.get("http://api/")
        await it.client.get("https://api/")
        assert it.connections() == "1 idle, 0 active"


@both
async def test_an_idle_tls_connection_that_the_server_closed_is_not_used(
    library: ModuleType,
) -> None:
    server = certificates().server("api")
    async with (
        echo_backend(tls=server) as a,
        over(a.address, library=library, verify=certificates().client()) as it,
    ):
        for _ in range(3):
            await it.client.get("https://api/")
            await a.stop()
            await a.start_again()
        assert a.accepted == 3


async def test_a_wrong_certificate_is_passed_over_for_the_next_backend() -> None:
    async with (
        echo_backend("wrong", tls=certificates().server("other")) as wrong,
        echo_backend("right", tls=certificates().server("api")) as right,
        over(
            wrong.address, right.address, verify=certificates().client(), base_url="https://api"
        ) as it,
    ):
        for _ in range(4):
            assert (await it.client.post("/", content=b"x")).json()["name"] == "right"


async def test_a_handshake_that_is_cancelled_leaves_no_socket() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with raw_backend(silent) as a, over(a.address, base_url="https://api") as it:
        task = asyncio.create_task(it.client.get("/"))
        await until(lambda: a.open == 1)
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        assert it.connections() == "0 idle, 0 active"
        await until(lambda: a.open == 0)


class Loading:
    """Loads what is trusted when it is let, and counts how often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self.let = threading.Event()
        self.error: Exception | None = None
        original: Callable[..., object] = Flavour.ssl_context

        def load(*arguments: object) -> object:
            self.times += 1
            assert self.let.wait(10)
            if self.error is not None:
                raise self.error
            return original(*arguments)

        monkeypatch.setattr(Flavour, "ssl_context", load)


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Loading:
    return Loading(monkeypatch)


@both
async def test_what_is_trusted_is_loaded_once_for_all_who_come_meanwhile(
    library: ModuleType, loading: Loading
) -> None:
    async with (
        echo_backend(tls=certificates().server("api")) as a,
        over(a.address, library=library, base_url="https://api") as it,
    ):
        tasks = [asyncio.create_task(it.client.get("/")) for _ in range(20)]
        await until(lambda: loading.times == 1)
        tasks[0].cancel()
        await asyncio.wait({tasks[0]})
        # While it is loaded nothing is in use.
        assert it.in_flight() == 0
        loading.let.set()
        answers = await asyncio.gather(*tasks[1:])
        assert {each.status_code for each in answers} == {200}
        assert (await it.client.get("/")).status_code == 200
        assert loading.times == 1


async def test_what_could_not_be_loaded_is_tried_again(loading: Loading) -> None:
    async with (
        echo_backend(tls=certificates().server("api")) as a,
        over(a.address, base_url="https://api") as it,
    ):
        loading.error = FileNotFoundError("the certificates")
        tasks = [asyncio.create_task(it.client.get("/")) for _ in range(3)]
        await until(lambda: loading.times == 1)
        loading.let.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in outcomes} == {FileNotFoundError}
        assert it.outcomes() == (0, 0)
        loading.error = None
        assert (await it.client.get("/")).status_code == 200
        assert loading.times == 2


async def test_a_failure_to_load_that_nobody_waits_for_is_forgotten(loading: Loading) -> None:
    loading.error = FileNotFoundError("the certificates")
    async with over("127.0.0.1:1", base_url="https://api") as it:
        task = asyncio.create_task(it.client.get("/"))
        await until(lambda: loading.times == 1)
        task.cancel()
        await asyncio.wait({task})
        loading.let.set()
        (connections,) = it.transport._connections.values()
        await until(lambda: not connections._loading)


async def test_whoever_waits_for_what_is_trusted_is_told_when_it_is_closed(
    loading: Loading,
) -> None:
    async with over("127.0.0.1:1", base_url="https://api") as it:
        task = asyncio.create_task(it.client.get("/"))
        await until(lambda: loading.times == 1)
        await it.transport.aclose()
        with pytest.raises(RuntimeError, match="the transport was closed"):
            await task
        loading.let.set()
