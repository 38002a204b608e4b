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


def program(*named: str) -> dict[str, Any]:
    """Run the blocks that have these in them, by themselves; return what they define."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "readme"}
    for name in named:
        (block,) = [block for block in blocks if name in block]
        exec(compile(block, "README.md", "exec"), namespace)
    return namespace


@asynccontextmanager
async def two_backends() -> AsyncIterator[list[str]]:
    """Two that say who they are, in the file that the applications follow."""

    async def order(request: web.Request) -> web.Response:
        assert request.transport is not None
        host, port = request.transport.get_extra_info("sockname")
        number = int(request.match_info["number"])
        if not number:
            return web.Response(status=204)
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
        assert {await served_order(session, number) for number in range(1, 5)} == set(addresses)
        async with session.get("/backends") as answer:
            assert await answer.json() == addresses
        async with session.get("/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            text = await answer.text()
        assert 'backendpool_balancer_picks_total{pool="orders"} 4\n' in text


async def test_the_application_of_fastapi_passes_on_an_answer_without_content() -> None:
    app = program("balancer_lifespan({")["app"]
    async with (
        two_backends(),
        served_by_uvicorn(app) as server,
        aiohttp.ClientSession(f"http://{server.address}") as session,
        session.get("/orders/0") as answer,
    ):
        assert (answer.status, "Content-Type" in answer.headers) == (204, False)


async def test_the_application_of_fastapi_is_tested_as_the_readme_shows() -> None:
    names = program("balancer_lifespan({", "lifespan_context")
    app, served = names["app"], names["served"]
    async with two_backends() as addresses, served(app) as client:
        answers = [await client.get(f"/orders/{number}") for number in (1, 2)]
        assert {answer.json()["by"] for answer in answers} == set(addresses)
        assert (await client.get("/backends")).json() == addresses


async def test_the_application_of_aiohttp_asks_its_backends_and_tells_of_them() -> None:
    app = program("web.run_app")["make_app"]()
    async with (
        two_backends() as addresses,
        TestServer(app) as server,
        aiohttp.ClientSession(server.make_url("/")) as session,
    ):
        assert {await served_order(session, number) for number in range(1, 5)} == set(addresses)
        async with session.get("/backends") as answer:
            assert await answer.json() == addresses


async def served_order(session: aiohttp.ClientSession, number: int) -> str:
    """Return which backend an order came from."""
    async with session.get(f"/orders/{number}") as answer:
        told: dict[str, Any] = await answer.json()
    assert told["order"] == number
    return str(told["by"])
