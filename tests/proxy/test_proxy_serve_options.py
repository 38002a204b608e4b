"""``backendpool serve``: what its options do, and what it says of wrong ones."""

from __future__ import annotations

import http.client
import importlib.util
import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from typing import IO

import pytest
from commands import PROMPT, complaints, driven, interrupt, no_blocking_call_but, started
from servers import nobody
from test_proxy_serve_draining import LISTEN, listening
from threaded_backend import ThreadedBackend, asked, asking, threaded_backend

from backendpool_async.cli import main
from backendpool_async.proxy import ProxyRequest
from backendpool_async.proxy.client_address import client_address
from backendpool_async.proxy.networks import Networks


@pytest.fixture(autouse=True)
def no_blocking_call() -> Iterator[None]:
    with no_blocking_call_but("backendpool_async/cli_serve.py", "ready"):
        yield


@pytest.fixture
def backend() -> Iterator[ThreadedBackend]:
    with threaded_backend() as backend:
        yield backend


Served = Callable[..., None]


@pytest.fixture
def served(backend: ThreadedBackend, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Run the command with options, and call a function with its address meanwhile."""

    def serve(use: Callable[[str], None], *options: str, url: str = "") -> None:
        def drive(lines: IO[str]) -> None:
            use(listening(lines))
            interrupt(signal.SIGTERM)

        arguments = ("serve", url or f"static:{backend.address}", *LISTEN, *options)
        assert driven(monkeypatch, drive, *arguments) == 0

    return serve


def headers_of(address: str, **request: str) -> dict[str, str]:
    status, body = asked(address, "/", **request)
    assert status == 200
    got = json.loads(body)
    assert isinstance(got, dict)
    return {name.lower(): value for name, value in got.items()}


def test_it_serves_and_keeps_the_client_s_host(served: Served) -> None:
    def use(address: str) -> None:
        got = headers_of(address, Host="api.test", **{"X-Forwarded-For": "203.0.113.7"})
        assert got["host"] == "api.test"
        assert got["x-forwarded-for"] == "127.0.0.1"
        with asking(address) as response:
            # One that the backend sent, and none of the server's own.
            assert len(response.headers.get_all("Server", [])) == 1
            assert len(response.headers.get_all("Date", [])) == 1

    served(use)


@pytest.mark.parametrize(
    "policy", ["round-robin", "random", "least-request", "peak-ewma", "maglev"]
)
def test_every_policy_serves(policy: str, served: Served) -> None:
    served(lambda address: headers_of(address) and None, "--policy", policy)


def test_host_of_the_backend_or_a_name(backend: ThreadedBackend, served: Served) -> None:
    def gets(host: str) -> Callable[[str], None]:
        def use(address: str) -> None:
            assert headers_of(address)["host"] == host

        return use

    served(gets(backend.address), "--host", "backend")
    served(gets("shop.test"), "--host", "shop.test")


def test_a_trusted_proxy_is_believed(served: Served) -> None:
    def use(address: str) -> None:
        got = headers_of(address, **{"X-Forwarded-For": "203.0.113.7"})
        assert got["x-forwarded-for"] == "203.0.113.7, 127.0.0.1"

    served(use, "--trusted-proxies", "10.0.0.0/8, 127.0.0.1")


def test_no_backend_outside_of_the_networks_is_asked(served: Served) -> None:
    def use(address: str) -> None:
        assert asked(address)[0] == 503

    served(use, "--allow-networks", "10.0.0.0/8")


def test_the_key_is_the_client_that_trusted_proxies_tell_of() -> None:
    def client(*lines: bytes, peer: str | None = "10.0.0.1") -> str | None:
        headers = [(b"host", b"a"), *((b"x-forwarded-for", line) for line in lines)]
        request = ProxyRequest(b"GET", b"/", headers, peer, "http", "1.1")
        return client_address(request, Networks("trusted_proxies", ["10.0.0.0/8"]))

    assert client() == "10.0.0.1"
    assert client(b"203.0.113.7") == "203.0.113.7"
    assert client(b"198.51.100.1", b"203.0.113.7, 10.0.0.2") == "203.0.113.7"
    assert client(b"10.0.0.3, ,10.0.0.2") == "10.0.0.3"
    assert client(b"203.0.113.7", peer="192.0.2.1") == "192.0.2.1"
    assert client(b"203.0.113.7", peer=None) is None


def test_clients_behind_a_trusted_proxy_are_not_one(
    backend: ThreadedBackend, served: Served
) -> None:
    with threaded_backend() as other:

        def asked_of(address: str) -> set[str]:
            return {
                headers_of(address, **{"X-Forwarded-For": f"203.0.113.{number}"})["host"]
                for number in range(40)
            }

        def use(several: bool) -> Callable[[str], None]:
            def asking_as_many(address: str) -> None:
                assert (len(asked_of(address)) > 1) is several

            return asking_as_many

        options = ("--policy", "maglev", "--host", "backend")
        url = f"static:{backend.address},{other.address}"
        served(use(True), *options, "--trusted-proxies", "127.0.0.1", url=url)
        served(use(False), *options, url=url)


def test_a_backend_that_takes_too_long_is_left(served: Served) -> None:
    def use(address: str) -> None:
        assert asked(address, "/slow")[0] == 504

    served(use, "--idle-timeout", "0.1")
    served(use, "--total-timeout", "0.1")


def test_longer_bodies_are_refused(served: Served) -> None:
    def use(address: str) -> None:
        for size, status in ((1024, 200), (1025, 413)):
            with asking(address, method="POST", body=b"x" * size) as response:
                assert response.status == status

    served(use, "--max-body", "1k")


def test_more_at_once_are_refused(backend: ThreadedBackend, served: Served) -> None:
    def use(address: str) -> None:
        with asking(address, "/stream") as response:
            assert response.read(5) == b"first"
            assert asked(address)[0] == 503
            backend.release.set()
            response.read()

    served(use, "--concurrency", "1")


def test_the_status_is_shown_where_it_is_asked_for(served: Served) -> None:
    def use(address: str) -> None:
        assert b"<html" in asked(address, "/health/status")[1]
        data = json.loads(asked(address, "/health/status/status.json")[1])
        assert data["pools"][0]["policy"] == "RoundRobin"
        headers_of(address)

    served(use, "--status", "/health/status/")


def test_backends_are_checked(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    def use(address: str) -> None:
        while not json.loads(asked(address, "/status/status.json")[1])["pools"][0]["unhealthy"]:
            pass

    served(use, "--check", "tcp", "--status", "/status", url=f"static:{nobody()}")
    assert "unhealthy" in capsys.readouterr().err


def test_retries_of_idempotent_requests_are_accepted(served: Served) -> None:
    served(lambda address: headers_of(address) and None, "--idempotent-retries")


def test_an_answer_that_breaks_off_is_told_in_one_line(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    def use(address: str) -> None:
        with (
            asking(address, "/broken") as response,
            pytest.raises((http.client.IncompleteRead, ConnectionError)),
        ):
            response.read()

    served(use)
    (line,) = capsys.readouterr().err.splitlines()
    assert "broke off" in line


def test_an_address_of_ipv6(backend: ThreadedBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def drive(lines: IO[str]) -> None:
        assert listening(lines).startswith("[::1]:")
        interrupt(signal.SIGTERM)

    url = f"static:{backend.address}"
    assert driven(monkeypatch, drive, "serve", url, "--listen", "[::1]:0") == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--listen", "8080"), "'8080' is not HOST:PORT"),
        (("--listen", "127.0.0.1:65536"), "is not HOST:PORT"),
        (("--listen", "::1:80"), "is not HOST:PORT"),
        (("--listen", ":80"), "is not HOST:PORT"),
        (("--listen", "a..b:80"), "'a..b:80' is not HOST:PORT: 'a..b' is no host"),
        (("--listen", f"{'a' * 64}:80"), "is no host"),
        (("--policy", "best"), "invalid choice: 'best'"),
        (("--check", "udp"), "'udp' is neither"),
        (("--host", "a b"), "host='a b'"),
        (("--trusted-proxies", "10.0.0.1/8"), "trusted_proxies: 10.0.0.1/8 has host bits set"),
        (("--allow-networks", "here"), "allow_networks: 'here'"),
        (("--allow-networks", "10.0.0.0/8", "--check", "tcp"), "allow_networks does not hold"),
        (("--idle-timeout", "0"), "--idle-timeout=0.0"),
        (("--idle-timeout", "soon"), "'soon' is no number of seconds"),
        (("--total-timeout", "-1"), "--total-timeout=-1.0"),
        (("--max-body", "1T"), "'1T' is no size"),
        (("--concurrency", "0"), "--concurrency=0 is not at least 1"),
        (("--concurrency", "many"), "'many' is no whole number"),
        (("--drain-timeout", "-1"), "--drain-timeout=-1.0 is not 0 or more and finite"),
        (("--status", "status"), "'status' is no path"),
        (("--status", "/"), "'/' is no path"),
        (("--status", "/a?b"), "'/a?b' is no path"),
        (("--status", "/a#b"), "'/a#b' is no path"),
    ],
)
def test_a_wrong_option_is_named(
    options: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main(["serve", "static:10.0.0.1:80", *options]))
    assert complaint in capsys.readouterr().err


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in {"uvicorn", "websockets"} else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert main(["serve", "static:10.0.0.1:80"]) == 2
    assert capsys.readouterr().err == (
        "backendpool serve: it needs uvicorn and websockets:"
        " pip install 'backendpool-async[proxy]'\n"
    )


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        with started("serve", "static:10.0.0.1:80", "--listen", address) as process:
            assert process.stderr is not None
            assert process.wait(PROMPT) == 1
            (complaint,) = complaints(process.stderr.read())
            assert complaint == (
                f"backendpool serve: cannot listen on {address}: Address already in use"
            )


def test_an_address_of_another_machine_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "static:10.0.0.1:80", "--listen", "192.0.2.1:80"]) == 1
    assert capsys.readouterr().err == (
        "backendpool serve: cannot listen on 192.0.2.1:80: Cannot assign requested address\n"
    )
