"""Any order of requests, answers, expiry, removal and closing keeps the connections in order."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import httpcore
import httpx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backendpool_async import BackendPool, Balancer
from backendpool_async.httpx.connection import Connection, Kind, Place
from backendpool_async.httpx.connections import Connections
from backendpool_async.httpx.dialer import Dialer
from backendpool_async.httpx.flavour import FLAVOURS, Flavour
from backendpool_async.httpx.settings import Settings
from backendpool_async.testing import VirtualTimeLoop

BACKENDS = [f"10.0.0.{number}:80" for number in range(1, 4)]
MOST = 3
KEPT = 2
EXPIRY = 5.0
MAX_AGE = 20.0


class FakeStream:
    def __init__(self) -> None:
        self.socket, self.server = socket.socketpair()

    def get_extra_info(self, name: str) -> socket.socket:
        return self.socket

    async def aclose(self) -> None:
        self.socket.close()
        self.server.close()


class FakeNetwork:
    async def connect_tcp(self, *_: object) -> FakeStream:
        return FakeStream()


class FakeHttp:
    """A connection that is what the test says; it knows its state as those of httpcore do."""

    def __init__(self, origin: httpcore.Origin, *, network_backend: Any, **_: object) -> None:
        self.network = network_backend
        self.stream: FakeStream | None = None
        self.state = "new"

    async def connect(self) -> None:
        self.stream = await self.network.connect_tcp("", 0)

    def is_idle(self) -> bool:
        return self.state == "idle"

    def is_closed(self) -> bool:
        return self.state == "closed"

    def is_available(self) -> bool:
        return self.state != "closed"

    async def aclose(self) -> None:
        self.state = "closed"


class FakeFlavour:
    connection = FakeHttp
    network_backend = FakeNetwork()
    url = httpcore.URL
    pool_timeout = httpcore.PoolTimeout


KIND = Kind(cast(Flavour, FakeFlavour()), b"http", None)


class TheConnections(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.loop = VirtualTimeLoop()
        self.pool = BackendPool.static(BACKENDS)
        self.chosen_from = self.pool.snapshot
        self.balancer = Balancer(self.pool)
        limits = httpx.Limits(
            max_connections=MOST, max_keepalive_connections=KEPT, keepalive_expiry=EXPIRY
        )
        self.settings = Settings(
            verify=False,
            trust_env=False,
            http1=True,
            http2=False,
            limits=limits,
            max_age=MAX_AGE,
            local_address=None,
            socket_options=None,
        )
        self.used: list[Connection] = []
        self.all: list[Connection] = []
        self.run(self.make())

    async def make(self) -> None:
        self.connections = Connections(self.balancer, self.settings)
        await self.connections.start()

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    # Twice, because whatever else happens ends connections.
    @rule(number=st.integers(0, 2))
    def one_more_request(self, number: int) -> None:
        self.request(number)

    @rule(number=st.integers(0, 2))
    def request(self, number: int) -> None:
        # Without any now, it was chosen just before the change.
        if self.pool.backends():
            self.chosen_from = self.pool.snapshot
        backends, generation = self.chosen_from.backends, self.chosen_from.generation
        place = Place(KIND, backends[number % len(backends)])
        if len(self.used) == MOST:
            assert not self.connections.take_slot_now()
            with pytest.raises(httpcore.PoolTimeout):
                self.run(self.connections.take_slot(KIND, 0.01, lambda: None))
            return
        before = self.connections.idle
        assert self.connections.take_slot_now()
        connection = self.run(self.connections.acquire(place, generation, {}))
        http = connection.http
        if http.state == "new":
            self.all.append(connection)
            self.run(http.connect())
        else:
            assert http.state == "idle"
            assert before > self.connections.idle
            assert http.stream.server.fileno() != -1
            assert self.loop.time() < connection.idle_until <= connection.retire_at
        assert connection.stack.place == place
        assert connection not in self.used
        http.state = "active"
        self.used.append(connection)

    @precondition(lambda self: self.used)
    @rule(data=st.data(), ending=st.sampled_from(["idle", "closed", "active"]))
    def answer(self, data: st.DataObject, ending: str) -> None:
        connection = self.used.pop(data.draw(st.integers(0, len(self.used) - 1)))
        cast(FakeHttp, connection.http).state = ending
        self.connections.release(connection, complete=ending == "idle")

    @precondition(lambda self: any(each.http.is_idle() for each in self.all))
    @rule()
    def server_closes(self) -> None:
        for connection in self.all:
            http = cast(FakeHttp, connection.http)
            if http.state == "idle" and http.stream is not None:
                http.stream.server.close()

    @rule(listed=st.sets(st.sampled_from(BACKENDS)))
    def change(self, listed: set[str]) -> None:
        self.pool.update(sorted(listed))
        self.run(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0, 25.0]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule()
    def close(self) -> None:
        self.run(self.connections.aclose())
        assert self.connections.idle == 0
        assert all(each.http.is_closed() for each in self.all)
        for connection in self.used:
            self.connections.release(connection, complete=False)
        self.used.clear()
        self.run(self.make())

    @invariant()
    def as_many_as_allowed(self) -> None:
        if not hasattr(self, "connections"):
            return
        self.run(asyncio.sleep(0.001))
        held = self.connections
        assert held.open == len(self.used) + held.idle <= MOST
        assert held.idle <= KEPT
        assert held.waiting == 0
        listed = set(self.pool.backends())
        idle = list(held._idle)
        assert all(each.stack.place.backend in listed for each in idle)
        assert sorted(map(id, idle)) == sorted(
            id(each) for stack in held._stacks.values() for each in stack.idle
        )
        assert all(stack.connections for stack in held._stacks.values())
        # What is neither in use nor idle was closed, with its socket.
        for connection in self.all:
            if connection not in self.used and connection not in idle:
                http = cast(FakeHttp, connection.http)
                assert http.state == "closed"
                assert http.stream is not None
                assert http.stream.socket.fileno() == -1
        assert not held._closing
        assert not held._tasks

    @invariant()
    def what_is_too_old_does_not_stay(self) -> None:
        if hasattr(self, "connections"):
            # It is looked for once a second.
            now = self.loop.time()
            assert all(each.idle_until > now - 1.1 for each in self.connections._idle)

    def teardown(self) -> None:
        if hasattr(self, "connections"):
            self.run(self.connections.aclose())
            for connection in self.all:
                self.run(connection.dialer.aclose())
            self.loop.close()


TestTheConnections = TheConnections.TestCase
TestTheConnections.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


async def test_what_opens_after_its_dialer_was_closed_is_closed() -> None:
    stream = FakeStream()

    class Slow:
        async def connect_tcp(self, *_: object) -> FakeStream:
            await dialer.aclose()
            return stream

    dialer = Dialer(cast(httpcore.AsyncNetworkBackend, Slow()))
    with pytest.raises(RuntimeError, match="closed before it was open"):
        await dialer.connect_tcp("10.0.0.1", 80)
    assert stream.socket.fileno() == -1


def test_a_flavour_is_like_the_fake_of_this_module() -> None:
    for flavour in FLAVOURS:
        for name in vars(FakeFlavour):
            assert name.startswith("__") or hasattr(flavour, name)
