"""A FastAPI or Starlette application with balancers: what its requests find, start and end."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route, Router

from backendpool_async import BackendPool, Balancer, SourceError
from backendpool_async.fastapi import balancer_from_state, balancer_lifespan, pool_from_state
from backendpool_async.testing import ScriptedSource

A, B = "10.0.0.1:80", "10.0.0.2:80"
Api = Annotated[Balancer, Depends(balancer_from_state("api"))]
Users = Annotated[BackendPool, Depends(pool_from_state("users"))]


def polled(*steps: Any) -> BackendPool:
    return BackendPool(ScriptedSource(*steps))


def application(lifespan: Callable[[Any], Any], **options: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan, **options)

    @app.get("/api")
    async def api(api: Api) -> str:
        return api.pick()

    @app.get("/users")
    async def users(users: Users) -> list[str]:
        return list(users.backends())

    return app


def test_an_endpoint_gets_each_balancer_and_pool_by_its_name() -> None:
    api, users = Balancer(polled([A])), polled([B])
    with TestClient(application(balancer_lifespan({"api": api, "users": users}))) as client:
        assert api._pool.is_running
        assert users.is_running
        assert client.get("/api").json() == A
        assert client.get("/users").json() == [B]
    assert not api._pool.is_running
    assert not users.is_running


def test_websockets_routers_and_mounted_applications_get_it_too() -> None:
    router = APIRouter(prefix="/router")

    @router.websocket("/ws")
    async def ws(websocket: WebSocket, api: Api) -> None:
        await websocket.accept()
        await websocket.send_text(api.pick())
        await websocket.close()

    @router.get("/state")
    async def state(request: Request) -> str:
        api: Balancer = request.state.api
        return api.pick()

    app = application(balancer_lifespan({"api": Balancer(polled([A]))}))
    app.include_router(router)
    inner = FastAPI()
    inner.include_router(router)
    app.mount("/inner", inner)
    with TestClient(app) as client:
        for prefix in ("/router", "/inner/router"):
            with client.websocket_connect(f"{prefix}/ws") as websocket:
                assert websocket.receive_text() == A
            assert client.get(f"{prefix}/state").json() == A


def test_starlette_alone_has_it_in_the_state_of_a_request() -> None:
    async def where(request: StarletteRequest) -> PlainTextResponse:
        api = await balancer_from_state("api")(request)
        assert request.state.api is api
        return PlainTextResponse(api.pick())

    lifespan = balancer_lifespan({"api": Balancer(polled([A]))})
    app = Starlette(routes=[Route("/", where)], lifespan=lifespan)
    with TestClient(app) as client:
        assert client.get("/").text == A


def test_a_router_may_bring_a_lifespan_of_its_own() -> None:
    app = application(balancer_lifespan({"api": Balancer(polled([A]))}))
    router = APIRouter(lifespan=balancer_lifespan({"users": polled([B])}))
    app.include_router(router)
    with TestClient(app) as client:
        assert client.get("/api").json() == A
        assert client.get("/users").json() == [B]


def test_a_dependency_is_called_on_the_loop_and_not_in_a_thread() -> None:
    app = application(balancer_lifespan({"api": Balancer(polled([A]))}))
    threads: set[str] = set()

    @app.get("/thread")
    async def thread(api: Api) -> None:
        threads.update(each.name for each in threading.enumerate())

    with TestClient(app) as client:
        client.get("/thread")
    assert not [name for name in threads if "worker thread" in name]


async def test_a_transport_without_a_server_finds_it_while_the_lifespan_runs() -> None:
    app = application(balancer_lifespan({"api": Balancer(polled([A])), "users": polled([B])}))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        async with app.router.lifespan_context(app):
            assert (await client.get("/api")).json() == A
            assert (await client.get("/users")).json() == [B]
        with pytest.raises(RuntimeError, match="no Balancer 'api' runs here"):
            await client.get("/api")


async def test_without_a_server_mounted_applications_find_it_too() -> None:
    inner, other = application(balancer_lifespan({})), application(balancer_lifespan({}))
    app = application(balancer_lifespan({"api": Balancer(polled([A]))}))
    inner.mount("/other", other)
    app.mount("/inner", inner)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        async with app.router.lifespan_context(app):
            for path in ("/api", "/inner/api", "/inner/other/api"):
                assert (await client.get(path)).json() == A
            # What is nearer comes first.
            async with balancer_lifespan({"api": Balancer(polled([B]))})(inner):
                assert (await client.get("/inner/api")).json() == B
                assert (await client.get("/api")).json() == A
        with pytest.raises(RuntimeError, match="no Balancer 'api' runs here"):
            await client.get("/inner/api")


def test_a_router_without_an_application_has_it_in_the_state_of_a_request() -> None:
    async def where(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse((await balancer_from_state("api")(request)).pick())

    lifespan = balancer_lifespan({"api": Balancer(polled([A]))})
    with TestClient(Router([Route("/", where)], lifespan=lifespan)) as client:
        assert client.get("/").text == A


async def test_the_end_of_one_of_two_lifespans_leaves_what_the_other_runs() -> None:
    app = application(balancer_lifespan({}))
    api, users = Balancer(polled([A])), polled([B])
    transport = httpx.ASGITransport(app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        balancer_lifespan({"api": api})(app),
    ):
        async with balancer_lifespan({"users": users})(app):
            assert (await client.get("/users")).json() == [B]
        assert (await client.get("/api")).json() == A


def test_without_its_lifespan_an_application_says_what_is_missing() -> None:
    app = application(balancer_lifespan({"api": Balancer(polled([A]))}))
    with pytest.raises(RuntimeError, match=r"lifespan=balancer_lifespan\({'api': \.\.\.}\)"):
        TestClient(app).get("/api")


def test_a_name_that_stands_for_something_else_is_named() -> None:
    app = application(balancer_lifespan({"api": polled([A])}))
    with TestClient(app) as client, pytest.raises(RuntimeError, match="'api' is no Balancer but <"):
        client.get("/api")


def test_a_test_replaces_the_dependency() -> None:
    app = application(balancer_lifespan({}))
    app.dependency_overrides[balancer_from_state("api")] = lambda: Balancer(BackendPool.static([B]))
    assert TestClient(app).get("/api").json() == B


def test_a_module_level_balancer_lives_through_repeated_lifespans_on_other_loops() -> None:
    loops = []

    async def fetch() -> list[str]:
        loops.append(asyncio.get_running_loop())
        return [A, B][len(loops) - 1 :]

    app = application(balancer_lifespan({"api": Balancer(BackendPool(fetch))}))
    for _ in range(2):
        with TestClient(app) as client:
            last = client.get("/api").json()
    assert len(set(loops)) == 2
    assert last == B


def test_a_function_makes_another_one_at_each_start() -> None:
    made: list[Balancer] = []

    def make() -> Balancer:
        made.append(Balancer(polled([A])))
        return made[-1]

    app = application(balancer_lifespan({"api": make}))
    assert not made
    for _ in range(2):
        with TestClient(app) as client:
            assert made[-1]._pool.is_running
            assert client.get("/api").json() == A
    assert len(made) == 2
    assert not any(each._pool.is_running for each in made)


def test_when_one_cannot_start_those_before_it_are_closed_and_nothing_starts() -> None:
    first, second = polled([A]), polled(OSError("down"))
    app = application(balancer_lifespan({"first": first, "second": Balancer(second)}))
    with pytest.raises(SourceError, match="down"), TestClient(app):
        pytest.fail("it started")
    assert first.backends() == (A,)
    assert not first.is_running
    assert not second.is_running


def test_what_is_not_required_starts_without_a_list() -> None:
    pool = polled(OSError("down"))
    app = application(balancer_lifespan({"users": pool}, required=False))
    with TestClient(app) as client:
        assert pool.is_running
        assert client.get("/users").json() == []
    assert not pool.is_running


async def test_they_start_in_order_and_close_in_reverse_whatever_one_of_them_raises() -> None:
    said: list[str] = []

    class Told(Balancer):
        def __init__(self, name: str) -> None:
            super().__init__(BackendPool.static([A]))
            self._name = name

        async def start(self, *, required: bool = True) -> None:
            said.append(f"+{self._name}")
            await super().start(required=required)

        async def aclose(self) -> None:
            said.append(f"-{self._name}")
            await super().aclose()
            if self._name == "b":
                raise ValueError("b")

    lifespan = balancer_lifespan({name: Told(name) for name in "abc"})
    with pytest.raises(ValueError, match="b"):
        async with lifespan(FastAPI()):
            said.append("runs")
    assert said == ["+a", "+b", "+c", "runs", "-c", "-b", "-a"]


def test_a_lifespan_of_ones_own_runs_inside_and_adds_to_the_state() -> None:
    pool, said = polled([A]), list[bool]()

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[Mapping[str, str]]:
        said.append(pool.is_running)
        yield {"greeting": "hello"}
        said.append(pool.is_running)

    app = application(balancer_lifespan({"users": pool}, wrapping=own))

    @app.get("/greeting")
    async def greeting(request: Request) -> str:
        return str(request.state.greeting)

    with TestClient(app) as client:
        assert client.get("/greeting").json() == "hello"
        assert client.get("/users").json() == [A]
    assert said == [True, True]
    assert not pool.is_running


async def test_a_lifespan_of_ones_own_may_have_no_state_and_may_fail() -> None:
    pool = polled([A])

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        yield
        raise ValueError("own")

    lifespan = balancer_lifespan({"users": pool}, wrapping=own)
    with pytest.raises(ValueError, match="own"):
        async with lifespan(FastAPI()) as state:
            assert state == {"users": pool}
    assert not pool.is_running


async def test_it_may_be_used_inside_a_lifespan_of_ones_own() -> None:
    pool = polled([A])

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[Mapping[str, object]]:
        async with balancer_lifespan({"users": pool})(app) as state:
            yield {**state, "more": 1}

    async with own(FastAPI()) as state:
        assert state == {"users": pool, "more": 1}
        assert pool.is_running
    assert not pool.is_running


async def test_two_balancers_of_one_pool_start_and_close_it_together() -> None:
    pool = polled([A])
    async with balancer_lifespan({"one": Balancer(pool), "other": Balancer(pool)})(FastAPI()):
        assert pool.is_running
    assert not pool.is_running


@pytest.mark.parametrize("wrong", [[Balancer(BackendPool.static([A]))], BackendPool.static([A])])
def test_what_has_no_name_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"is no mapping of names, as in \{'api': balancer\}"):
        balancer_lifespan(wrong)


@pytest.mark.parametrize("wrong", [None, "dns://api:80", 1])
def test_something_else_than_a_balancer_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match="is no Balancer"):
        balancer_lifespan({"api": wrong})


async def test_a_function_that_makes_something_else_is_refused_at_the_start() -> None:
    def make() -> Any:
        return "a balancer"

    with pytest.raises(TypeError, match="returned 'a balancer'"):
        async with balancer_lifespan({"api": make})(FastAPI()):
            pytest.fail("it started")


async def test_a_coroutine_function_is_refused_at_the_start_and_not_left_unawaited() -> None:
    async def make() -> Any:
        return Balancer(BackendPool.static([A]))

    lifespan: Any = balancer_lifespan({"api": make})  # type: ignore[dict-item]  # it is refused
    with pytest.raises(TypeError, match="returned <coroutine"):
        async with lifespan(FastAPI()):
            pytest.fail("it started")
    gc.collect()


async def test_a_start_that_is_cancelled_leaves_nothing_running() -> None:
    fetching = asyncio.Event()

    async def fetch() -> list[str]:
        fetching.set()
        await asyncio.Event().wait()
        raise AssertionError

    first, second = polled([A]), BackendPool(fetch)

    async def start() -> None:
        async with balancer_lifespan({"first": first, "second": second})(FastAPI()):
            pytest.fail("it started")

    starting = asyncio.create_task(start())
    await fetching.wait()
    assert first.is_running
    starting.cancel()
    await asyncio.wait({starting})
    assert starting.cancelled()
    assert not first.is_running
    assert not second.is_running
