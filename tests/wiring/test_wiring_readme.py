"""The two small applications of the README, served and asked."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from backends_served import served_by_uvicorn
from commands import publish

README = (Path(__file__).parent.parent.parent / "README.md").read_text()


def program(named: str) -> dict[str, Any]:
    """Run the block that has this in it, by itself; return what it defines."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (block,) = [block for block in blocks if named in block]
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), namespace)
    return namespace


@asynccontextmanager
async def two_backends() -> AsyncIterator[list[str]]:
    """Two that say who they are, in the file that the applications follow."""

    async def order(request: web.Request) -> web.Response:
        assert request.transport is not None
        host, port = request.transport.get_extra_info("sockname")
        number = int(request.match_info["number"])
        return web.json_response({"order": number, "by": f"{host}:{port}"})

    servers = [TestServer(web.Application()) for _ in range(2)]
    for server in servers:
        server.app.router.add_get("/orders/{number}", order)
        await server.start_server()
    addresses = [f"127.0.0.1:{server.port}" for server in servers]
    publish(Path("backends.txt"), *addresses)
    try:
        yield addresses
    finally:
        for server in servers:
            await server.close()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def test_the_application_of_fastapi_asks_its_backends_and_tells_of_them() -> None:
    app = program("balancer_lifespan({")["app"]
    async with (
        two_backends() as addresses,
        served_by_uvicorn(app) as server,
        aiohttp.ClientSession(f"http://{server.address}") as session,
    ):
        assert {await served_order(session, number) for number in range(4)} == set(addresses)
        async with session.get("/backends") as answer:
            assert await answer.json() == addresses
        async with session.get("/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            text = await answer.text()
        assert 'backendpool_balancer_picks_total{pool="orders"} 4\n' in text


async def test_the_application_of_aiohttp_asks_its_backends_and_tells_of_them() -> None:
    app = program("web.run_app")["make_app"]()
    async with (
        two_backends() as addresses,
        TestServer(app) as server,
        aiohttp.ClientSession(server.make_url("/")) as session,
    ):
        assert {await served_order(session, number) for number in range(4)} == set(addresses)
        async with session.get("/backends") as answer:
            assert await answer.json() == addresses


async def served_order(session: aiohttp.ClientSession, number: int) -> str:
    """Return which backend an order came from."""
    async with session.get(f"/orders/{number}") as answer:
        told: dict[str, Any] = await answer.json()
    assert told["order"] == number
    return str(told["by"])
