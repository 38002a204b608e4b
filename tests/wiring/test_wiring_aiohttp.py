"""An aiohttp.web application with balancers: what its handlers find, start and end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from backendpool_async import BackendPool, Balancer, SourceError
from backendpool_async.aiohttp import balancer_context
from backendpool_async.testing import ScriptedSource

A, B = "10.0.0.1:80", "10.0.0.2:80"
API = web.AppKey("API", Balancer)
USERS = web.AppKey("USERS", BackendPool)


def polled(*steps: Any) -> BackendPool:
    return BackendPool(ScriptedSource(*steps))


async def api(request: web.Request) -> web.Response:
    return web.Response(text=request.config_dict[API].pick())


async def users(request: web.Request) -> web.Response:
    return web.Response(text=" ".join(request.app[USERS].backends()))


def application(*contexts: Callable[[web.Application], Any]) -> web.Application:
    app = web.Application()
    app.cleanup_ctx.extend(contexts)
    app.add_routes([web.get("/api", api), web.get("/users", users)])
    return app


async def text(client: TestClient[web.Request, web.Application], path: str) -> str:
    async with client.get(path) as response:
        return await response.text()


async def test_a_handler_gets_each_balancer_and_pool_by_its_key() -> None:
    balancer, pool = Balancer(polled([A])), polled([B])
    app = application(balancer_context(API, balancer), balancer_context(USERS, pool))
    async with TestClient(TestServer(app)) as client:
        assert balancer._pool.is_running
        assert pool.is_running
        assert await text(client, "/api") == A
        assert await text(client, "/users") == B
    assert not balancer._pool.is_running
    assert not pool.is_running


async def test_a_sub_application_has_its_own_and_finds_that_of_its_parent() -> None:
    parent, pool = Balancer(polled([A])), polled([B])
    inner = application(balancer_context(USERS, pool))
    app = application(balancer_context(API, parent))
    app.add_subapp("/inner", inner)
    async with TestClient(TestServer(app)) as client:
        assert await text(client, "/inner/api") == A
        assert await text(client, "/inner/users") == B
    assert not parent._pool.is_running
    assert not pool.is_running


def test_a_module_level_balancer_lives_through_applications_on_other_loops() -> None:
    loops = []

    async def fetch() -> list[str]:
        loops.append(asyncio.get_running_loop())
        return [[A], [B]][len(loops) - 1]

    balancer = Balancer(BackendPool(fetch))

    async def serve() -> str:
        async with TestClient(TestServer(application(balancer_context(API, balancer)))) as client:
            return await text(client, "/api")

    assert [asyncio.run(serve()), asyncio.run(serve())] == [A, B]
    assert len(set(loops)) == 2


async def test_a_function_makes_it_at_the_start() -> None:
    made: list[BackendPool] = []

    def make() -> BackendPool:
        made.append(polled([A]))
        return made[0]

    app = application(balancer_context(USERS, make))
    assert not made
    async with TestClient(TestServer(app)) as client:
        assert await text(client, "/users") == A
    assert not made[0].is_running


async def test_when_one_cannot_start_those_before_it_are_closed_and_nothing_starts() -> None:
    first, second = polled([A]), polled(OSError("down"))
    app = application(balancer_context(USERS, first), balancer_context(API, Balancer(second)))
    runner = web.AppRunner(app)
    with pytest.raises(SourceError, match="down"):
        await runner.setup()
    await runner.cleanup()
    assert first.backends() == (A,)
    assert not first.is_running
    assert not second.is_running


async def test_what_is_not_required_starts_without_a_list() -> None:
    pool = polled(OSError("down"))
    app = application(balancer_context(USERS, pool, required=False))
    async with TestClient(TestServer(app)) as client:
        assert pool.is_running
        assert await text(client, "/users") == ""
    assert not pool.is_running


async def test_an_error_at_the_end_of_one_does_not_keep_the_others_from_closing() -> None:
    class Failing(Balancer):
        async def aclose(self) -> None:
            await super().aclose()
            raise ValueError("no end")

    pool, failing = polled([A]), Failing(polled([B]))
    app = application(balancer_context(USERS, pool), balancer_context(API, failing))
    runner = web.AppRunner(app)
    await runner.setup()
    assert pool.is_running
    with pytest.raises(ValueError, match="no end"):
        await runner.cleanup()
    assert not pool.is_running
    assert not failing._pool.is_running


def test_a_key_is_for_what_it_says() -> None:
    # The ignores are the test: mypy objects to one that is not needed.
    balancer_context(API, polled([A]))  # type: ignore[arg-type]
    balancer_context(USERS, lambda: Balancer(polled([A])))  # type: ignore[arg-type, return-value]


def test_something_else_than_a_balancer_is_refused_at_once() -> None:
    wrong: Any = "dns://api:80"
    with pytest.raises(TypeError, match="'dns://api:80' is no Balancer"):
        balancer_context(API, wrong)
