"""Deploys under load: no request fails because a backend was replaced."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from types import ModuleType
from typing import Any

from aiohttp import web
from backends import echo_backend, served_by_aiohttp, served_by_uvicorn
from httpx_clients import Over, both, over
from servers import until

from backendpool_async import BackendPool, Balancer
from backendpool_async.retries import Retries, RetryBudget


class Load:
    """So many requests at once until it is stopped, and what became of them."""

    def __init__(self, it: Over, workers: int, method: str) -> None:
        self.answers: Counter[str] = Counter()
        self._it = it
        self._method = method
        self._stopping = False
        self._tasks = [asyncio.create_task(self._work()) for _ in range(workers)]

    async def _work(self) -> None:
        # Bounded, so that a test that fails ends.
        for _ in range(20_000):
            if self._stopping:
                return
            response = await self._it.client.request(self._method, "/", content=b"abc")
            self.answers[response.json()["name"]] += 1

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


@both
async def test_a_rolling_deploy_loses_no_request(library: ModuleType) -> None:
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(echo_backend(f"old{n}")) for n in range(3)]
        it = await stack.enter_async_context(
            over(*(each.address for each in running), library=library)
        )
        load = Load(it, 8, "POST")
        for number in range(3):
            old = running.pop(0)
            running.append(await stack.enter_async_context(echo_backend(f"new{number}")))
            it.pool.update([each.address for each in running])
            new = f"new{number}"
            await until(lambda new=new: load.answers[new] > 20)  # type: ignore[misc]  # as it is now
            await until(lambda old=old: old.open == 0)  # type: ignore[misc]  # as it is now
            await old.stop()
        await load.stop()
        assert it.outcomes()[1] == 0
        assert it.in_flight() == 0
        assert it.balancer.explain().retries == 0


@both
async def test_a_kill_without_telling_loses_no_idempotent_request(library: ModuleType) -> None:
    retries = Retries(idempotent=True, budget=RetryBudget(1.0))
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(echo_backend(f"{n}")) for n in range(4)]
        balancer = Balancer(BackendPool.static([each.address for each in running]))
        it = await stack.enter_async_context(
            over(balancer=balancer, library=library, retries=retries)
        )
        load = Load(it, 8, "PUT")
        for killed in running[:2]:
            await until(lambda: all(load.answers[each.name] > 20 for each in running[2:]))
            await killed.kill()
            load.answers.clear()
        await until(lambda: all(load.answers[each.name] > 50 for each in running[2:]))
        await load.stop()
        assert it.in_flight() == 0
        assert it.balancer.explain().retries > 0


@both
async def test_it_works_with_uvicorn_and_aiohttp(library: ModuleType) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"uvicorn " + body})

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=b"aiohttp " + await request.read())

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    async with (
        served_by_uvicorn(app, lifespan="off") as one,
        served_by_aiohttp(application) as other,
        over(one.address, other.address, library=library) as it,
    ):
        answers = [(await it.client.post("/x", content=b"abc")).text for _ in range(4)]
        assert sorted(answers) == ["aiohttp abc"] * 2 + ["uvicorn abc"] * 2
        assert it.connections() == "2 idle, 0 active"
        # Both close what is idle when they stop.
        await one.stop()
        await other.stop()
        it.pool.update([])
        await until(lambda: it.connections() == "0 idle, 0 active")
