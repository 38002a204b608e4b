from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from aiohttp import web
from ticking import chosen

from backendpool_async import (
    Backend,
    BackendPool,
    Balancer,
    HealthChecks,
    HttpCheck,
    Subset,
    TcpCheck,
)


class Service:
    """A server of one backend, that says itself how it is."""

    def __init__(self) -> None:
        self.status = 200
        self.checks = 0
        self.backend = ""

    async def health(self, _: web.Request) -> web.Response:
        self.checks += 1
        return web.Response(status=self.status)


@pytest_asyncio.fixture
async def services() -> AsyncIterator[list[Service]]:
    runners = []
    services = [Service(), Service(), Service()]
    for service in services:
        app = web.Application()
        app.router.add_get("/health", service.health)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        service.backend = f"127.0.0.1:{runner.addresses[0][1]}"
        runners.append(runner)
    yield services
    for runner in runners:
        await runner.cleanup()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - real servers and real time decide when
            await asyncio.sleep(0.01)


async def until_chosen(balancer: Balancer, *expected: str) -> None:
    await until(lambda: chosen(balancer, 30) == set(expected))


def checks(path: str = "/health") -> HealthChecks:
    return HealthChecks(HttpCheck(path), interval=0.05, timeout=5, fall=2, rise=2)


async def test_a_server_that_turns_sick_gets_nothing_until_it_is_well(
    services: list[Service], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backendpool_async")
    first, second, third = services
    every = [service.backend for service in services]
    async with Balancer(BackendPool.static(every), checks=checks()) as balancer:
        await until_chosen(balancer, *every)
        first.status = 503
        await until_chosen(balancer, second.backend, third.backend)
        (state,) = [each for each in balancer.explain().backends if each.backend == first.backend]
        assert (state.state, state.ejected_for) == ("unhealthy", None)
        assert "503" in (state.last_failure or "")
        first.status = 200
        await until_chosen(balancer, *every)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in told] == ["WARNING", "INFO"]
    assert told[1][1] == f"static: {first.backend} is healthy again"


async def test_when_all_are_sick_all_are_chosen_among(services: list[Service]) -> None:
    every = [service.backend for service in services]
    async with Balancer(BackendPool.static(every), checks=checks()) as balancer:
        for service in services[:2]:
            service.status = 500
        await until(lambda: balancer.explain().is_panic)
        assert chosen(balancer, 30) == set(every)


async def test_checks_end_with_the_balancer_and_begin_with_it_again(
    services: list[Service],
) -> None:
    balancer = Balancer(BackendPool.static([services[0].backend]), checks=checks())
    for enough in (3, 6):
        async with balancer:
            await until(lambda enough=enough: services[0].checks >= enough)  # type: ignore[misc]  # mypy#15459
    before = services[0].checks
    await asyncio.sleep(0.2)
    assert services[0].checks == before


async def test_only_the_backends_of_a_subset_are_checked(services: list[Service]) -> None:
    pool = BackendPool.static([service.backend for service in services])
    subset = Subset(client=0, size=1)
    (mine,) = subset.of(pool.backends())
    async with Balancer(pool, checks=checks(), subset=subset):
        (service,) = [each for each in services if each.backend == mine]
        await until(lambda: service.checks >= 3)
    assert [each.checks for each in services if each.backend != mine] == [0, 0]


async def test_a_port_that_nobody_listens_on_is_seen_at_the_first_check(
    services: list[Service], unused_tcp_port: int
) -> None:
    dead = Backend(f"127.0.0.1:{unused_tcp_port}")
    pool = BackendPool.static([dead, services[0].backend, services[1].backend])
    settings = HealthChecks(TcpCheck(), interval=60)
    async with Balancer(pool, checks=settings) as balancer:
        await until_chosen(balancer, services[0].backend, services[1].backend)
        assert balancer.explain().backends[0].state == "unhealthy"


@pytest.mark.virtual_time
async def test_a_verdict_on_one_that_comes_back_after_long_is_not_forgotten_with_it() -> None:
    class Sick:
        async def check(self, backend: Backend) -> None:
            if backend == sick:
                raise ConnectionRefusedError

    well, sick = "10.0.0.1:80", "10.0.0.2:80"
    pool, clock = BackendPool.static([well, sick]), asyncio.get_running_loop().time
    settings = HealthChecks(Sick(), interval=30)
    async with Balancer(pool, checks=settings, forget_after=60, clock=clock) as balancer:
        await asyncio.sleep(1)
        assert chosen(balancer) == {well}
        before = balancer._registry.get_or_create(Backend(sick))
        before.requests = 7
        pool.update([well])
        assert balancer.pick() == well
        await asyncio.sleep(100)
        pool.update([well, sick])
        # It is checked, and nobody chooses until that is over.
        await asyncio.sleep(1)
        assert chosen(balancer) == {well}
        state = balancer.explain().backends[1]
        assert (state.state, state.requests) == ("unhealthy", 0)
        assert balancer._registry.totals().requests == 7


@pytest.mark.virtual_time
async def test_one_that_was_checked_after_its_return_is_back_though_nobody_chooses() -> None:
    class Sick:
        async def check(self, backend: Backend) -> None:
            raise ConnectionRefusedError

    one, other = "10.0.0.1:80", "10.0.0.2:80"
    pool, clock = BackendPool.static([one, other]), asyncio.get_running_loop().time
    settings = HealthChecks(Sick(), interval=500)
    async with Balancer(pool, checks=settings, forget_after=60, clock=clock) as balancer:
        balancer.pick()
        pool.update([one])
        assert balancer.pick() == one
        await asyncio.sleep(50)
        pool.update([one, other])
        await asyncio.sleep(100)
        assert [each.state for each in balancer.explain().backends] == ["unhealthy"] * 2
