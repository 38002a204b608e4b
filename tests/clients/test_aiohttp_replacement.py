"""Backends that are replaced under load."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiohttp
from aiohttp_sessions import balancer_of, in_flight, session_of
from backends import EchoBackend, echo_backend
from servers import until

from backendpool_async import Balancer
from backendpool_async.retries import Retries

USERS = 8


async def user(session: aiohttp.ClientSession, stop: asyncio.Event, method: str) -> int:
    answers = 0
    while not stop.is_set():
        async with session.request(method, "http://api/bytes/20000", data=b"body") as response:
            assert response.status == 200
            assert len(await response.read()) == 20000
        answers += 1
    return answers


async def under_load(
    session: aiohttp.ClientSession, methods: list[str], deploy: asyncio.Task[None]
) -> int:
    stop = asyncio.Event()
    deploy.add_done_callback(lambda _: stop.set())
    async with asyncio.TaskGroup() as group:
        users = [group.create_task(user(session, stop, method)) for method in methods]
        await deploy
    return sum(each.result() for each in users)


async def replace_all(
    stack: AsyncExitStack, balancer: Balancer, backends: list[EchoBackend], *, kill: bool
) -> None:
    for index, old in enumerate(list(backends)):
        backends[index] = new = await stack.enter_async_context(echo_backend())
        entries = [each.address for each in backends]
        if kill:
            await old.kill()
            balancer._pool.update(entries)
        else:
            balancer._pool.update(entries)
            # Drained: the connector closes what leads there.
            await until(lambda old=old: old.open == 0)  # type: ignore[misc]  # a default binds it
            await old.stop()
        await until(lambda new=new: len(new.requests) >= 20)  # type: ignore[misc]  # as above


async def test_no_request_fails_while_backends_are_replaced() -> None:
    async with AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(echo_backend()) for _ in range(3)]
        balancer = balancer_of(*backends)
        session = await stack.enter_async_context(
            session_of(balancer, retries=Retries(attempts=1), max_age=0.2)
        )
        deploy = asyncio.create_task(replace_all(stack, balancer, backends, kill=False))
        assert await under_load(session, ["GET", "POST"] * (USERS // 2), deploy) > USERS
        assert in_flight(balancer) == 0
        assert all(state.failures == 0 for state in balancer.explain().backends)


async def test_no_idempotent_request_fails_while_backends_are_killed() -> None:
    async with AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(echo_backend()) for _ in range(3)]
        balancer = balancer_of(*backends)
        retries = Retries(idempotent=True)
        session = await stack.enter_async_context(session_of(balancer, retries=retries))
        deploy = asyncio.create_task(replace_all(stack, balancer, backends, kill=True))
        await under_load(session, ["PUT"] * USERS, deploy)
        assert in_flight(balancer) == 0
