"""What BackendTransport is constructed with, and without which libraries."""

from __future__ import annotations

import socket
import ssl
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
import uvicorn
from backends import echo_backend
from httpx_clients import both, over
from servers import run_script

from backendpool_async import BackendPool, Balancer
from backendpool_async.httpx import BackendTransport
from backendpool_async.httpx.flavour import installed
from backendpool_async.httpx.settings import Settings

DEFAULTS: dict[str, Any] = {
    "verify": True,
    "trust_env": True,
    "http1": True,
    "http2": False,
    "limits": None,
    "max_age": 300.0,
    "local_address": None,
    "socket_options": None,
}


@pytest.fixture
def balancer() -> Balancer:
    return Balancer(BackendPool.static(["10.0.0.1:1"]))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"retries": 3}, TypeError, "retries=3 is no backendpool_async.retries.Retries"),
        ({"key": "user"}, TypeError, "key='user' is no callable of a request"),
        ({"verify": "/etc/ca.pem"}, TypeError, "verify='/etc/ca.pem' is neither an ssl.SSLContext"),
        ({"http1": False}, ValueError, "there is no protocol left"),
        ({"limits": 100}, TypeError, "limits=100 is no httpx.Limits"),
        ({"max_age": 0}, ValueError, "max_age=0 is not above 0"),
        ({"max_age": "300"}, TypeError, "max_age='300' is no number of seconds"),
        ({"local_address": 1}, TypeError, "local_address=1 is no address"),
        ({"limits": httpx.Limits(max_connections=0)}, ValueError, "max_connections=0"),
        (
            {"limits": httpx.Limits(max_keepalive_connections=-1)},
            ValueError,
            "max_keepalive_connections=-1",
        ),
        ({"limits": httpx2.Limits(keepalive_expiry=-1)}, ValueError, "keepalive_expiry=-1"),
        ({"failure_statuses": 503}, TypeError, "failure_statuses=503 is no collection"),
    ],
)
def test_a_keyword_out_of_range_is_refused(
    balancer: Balancer, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        BackendTransport(balancer, **options)


def test_it_is_for_a_balancer() -> None:
    with pytest.raises(TypeError, match=r"for a backendpool_async\.Balancer, not <BackendPool"):
        BackendTransport(BackendPool.static([]))  # type: ignore[arg-type]  # it is not


@both
def test_limits_of_either_library_are_taken(library: ModuleType) -> None:
    limits = library.Limits(max_connections=7, max_keepalive_connections=0, keepalive_expiry=0)
    settings = Settings(**{**DEFAULTS, "limits": limits})
    assert (settings.max_connections, settings.max_keepalive_connections) == (7, 0)
    assert settings.keepalive_expiry == 0
    unlimited = library.Limits(keepalive_expiry=None)
    settings = Settings(**{**DEFAULTS, "limits": unlimited})
    assert (settings.max_connections, settings.keepalive_expiry) == (None, None)


def test_by_default_a_hundred_connections_are_kept_for_four_seconds() -> None:
    settings = Settings(**DEFAULTS)
    assert (settings.max_connections, settings.max_keepalive_connections) == (100, None)
    assert settings.keepalive_expiry == 4.0


def test_an_idle_connection_is_given_up_before_uvicorn_does() -> None:
    expiry = Settings(**DEFAULTS).keepalive_expiry
    patience = uvicorn.Config("app:app").timeout_keep_alive
    assert expiry is not None
    # Whatever is under way between the two has arrived by then.
    assert expiry <= patience - 1


def test_ages_are_spread_and_never_longer_than_said() -> None:
    settings = Settings(**{**DEFAULTS, "max_age": 100.0})
    ages = [settings.retire_at(1000.0) - 1000.0 for _ in range(200)]
    assert 90.0 <= min(ages) < 93.0
    assert 97.0 < max(ages) <= 100.0


async def test_the_connections_options_are_the_sockets() -> None:
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    async with (
        echo_backend() as a,
        over(a.address, socket_options=options, local_address="127.0.0.2") as it,
    ):
        response = await it.client.get("/")
        stream = response.extensions["network_stream"]
        used = stream.get_extra_info("socket")
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.2"


def test_http2_without_h2_is_refused(balancer: Balancer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"http2=True needs h2.*pip install 'httpx\[http2\]'"):
        BackendTransport(balancer, http2=True)


def test_a_context_of_ones_own_is_used_as_it_is(balancer: Balancer) -> None:
    context = ssl.create_default_context()
    settings = Settings(**{**DEFAULTS, "verify": context})
    assert settings.contexts == {}


_WITHOUT = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize(
    ("missing", "left"), [("httpx", "httpx2"), ("httpx2", "httpx"), ("httpcore", "httpx2")]
)
def test_one_of_the_libraries_is_enough(missing: str, left: str) -> None:
    script = f"""
import asyncio, {left} as library
from backendpool_async import BackendPool, Balancer
from backendpool_async.httpx import BackendTransport

transport = BackendTransport(Balancer(BackendPool.static([])))
assert isinstance(transport, library.AsyncBaseTransport)
async def main():
    async with library.AsyncClient(transport=transport) as client:
        await client.get("http://api/")
try:
    asyncio.run(main())
except library.ConnectError as error:
    print(type(error).__name__, {missing!r} in __import__("sys").modules)
"""
    done = run_script(_WITHOUT + script, missing)
    assert (done.code, done.out, done.err) == (0, "NoBackends False\n", "")


def test_without_either_the_error_says_what_to_install() -> None:
    done = run_script(_WITHOUT + "import backendpool_async.httpx", "httpx", "httpx2")
    assert done.code == 1
    assert "ImportError: backendpool_async.httpx needs httpx or httpx2" in done.err
    assert "pip install 'backendpool-async[httpx]' or 'backendpool-async[httpx2]'" in done.err


def test_the_search_for_them_raises_without_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ImportError, match="neither is installed"):
        installed()


def test_when_httpx_is_an_alias_of_httpx2_there_is_one_library() -> None:
    done = run_script(
        """
        import httpx2
        httpx2.alias_httpx()
        from backendpool_async.httpx.flavour import FLAVOURS
        print(*(each.name for each in FLAVOURS))
        """
    )
    assert (done.out, done.err) == ("httpx2\n", "")
