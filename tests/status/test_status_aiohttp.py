"""The status for aiohttp.web."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from aiohttp import web
from backends import served_by_aiohttp

from backendpool_async import BackendPool, Balancer
from backendpool_async.status.aiohttp import status_routes

BALANCER = Balancer(BackendPool.static(["10.0.0.1:80"]))


def plain() -> web.Application:
    app = web.Application()
    app.add_routes(status_routes(api=BALANCER, path="/ops/status", title="Shop"))
    return app


def nested() -> web.Application:
    inner = web.Application()
    inner.add_routes(status_routes(api=BALANCER, path="", title="Shop"))
    app = web.Application()
    app.add_subapp("/ops/status", inner)
    return app


@pytest.mark.parametrize("make", [plain, nested])
async def test_it_is_at_its_path_and_below(make: object) -> None:
    app = plain() if make is plain else nested()
    async with served_by_aiohttp(app) as served, aiohttp.ClientSession() as session:
        status = f"http://{served.address}/ops/status"
        for path in ("", "/"):
            async with session.get(status + path) as response:
                assert response.status == 200
                assert "<title>Shop</title>" in await response.text()
                assert "sha256-" in response.headers["content-security-policy"]
                assert response.headers["content-type"] == "text/html; charset=utf-8"
        async with session.get(f"{status}/status.json?match=0.1&limit=5") as response:
            (pool,) = (await response.json())["pools"]
            assert (pool["pool"], pool["available"]) == ("api", 1)
            assert response.headers["cache-control"] == "no-store"
        async with session.get(f"{status}/metrics") as response:
            assert 'backendpool_backends{pool="api"} 1' in await response.text()
            assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_other_methods_paths_and_limits_are_refused() -> None:
    async with served_by_aiohttp(plain()) as served, aiohttp.ClientSession() as session:
        status = f"http://{served.address}/ops/status"
        async with session.head(status) as response:
            assert response.status == 200
        async with session.post(status) as response:
            assert (response.status, response.headers["allow"]) == (405, "GET,HEAD")
        async with session.get(f"{status}/page.js") as response:
            assert response.status == 404
        async with session.get(f"{status}/status.json?limit=x") as response:
            assert response.status == 400


async def test_it_is_at_status_unless_told_otherwise() -> None:
    paths = [route.path for route in status_routes(BALANCER)]
    assert paths == ["/status", "/status/", "/status/status.json", "/status/metrics"]


@pytest.mark.parametrize("name", ["path", "title"])
def test_a_pool_cannot_be_called_like_a_keyword(name: str) -> None:
    pool: Any = BackendPool.static(["10.0.0.1:80"])
    with pytest.raises(TypeError, match=f"{name} is a str, not <BackendPool static"):
        status_routes(**{name: pool})
