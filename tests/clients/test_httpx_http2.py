"""HTTP/2 over BackendTransport: one connection for many requests, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import select
import ssl
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from backends import certificates, raw_backend, served_by_hypercorn
from http2_backend import Http2Backend, http2_backend
from httpx_clients import InOrder, Over, both, in_order, over
from servers import nobody, until

from backendpool_async import BackendPool, Balancer, Chooser
from backendpool_async.balance.candidate import Candidate
from backendpool_async.balance.lease import Lease
from backendpool_async.httpx import connection
from backendpool_async.retries import Retries


def with_alpn(*protocols: str) -> ssl.SSLContext:
    context = certificates().server("api")
    context.set_alpn_protocols(list(protocols))
    return context


def tls(**options: Any) -> dict[str, Any]:  # of `over`
    return {"verify": certificates().client(), "http2": True, "base_url": "https://api", **options}


# Without TLS, both sides know that it is HTTP/2.
KNOWN: dict[str, Any] = {"http1": False, "http2": True}


async def held(it: Over, backend: Http2Backend, count: int) -> list[asyncio.Task[httpx.Response]]:
    tasks = [asyncio.create_task(it.client.get("/held")) for _ in range(count)]
    await until(lambda: len(backend.targets) == count)
    return tasks


@both
async def test_requests_at_once_share_one_connection(library: ModuleType) -> None:
    async with (
        http2_backend(tls=with_alpn("h2")) as a,
        over(a.raw.address, library=library, **tls()) as it,
    ):
        tasks = await held(it, a, 20)
        assert it.connections() == "0 idle, 1 active"
        assert it.in_flight() == 20
        a.release.set()
        answers = await asyncio.gather(*tasks)
        assert {each.http_version for each in answers} == {"HTTP/2"}
        assert {each.text for each in answers} == {"1"}
        assert set(a.authorities) == {"api"}
        assert it.connections() == "1 idle, 0 active"
        assert (await it.client.get("/")).text == "1"
        assert it.in_flight() == 0


@both
async def test_a_server_without_http2_gets_a_connection_for_each(library: ModuleType) -> None:
    async with (
        http2_backend(tls=with_alpn("http/1.1")) as a,
        over(a.raw.address, library=library, **tls()) as it,
    ):
        tasks = await held(it, a, 5)
        assert it.connections() == "0 idle, 5 active"
        a.release.set()
        answers = await asyncio.gather(*tasks)
        assert {each.http_version for each in answers} == {"HTTP/1.1"}
        assert it.connections() == "5 idle, 0 active"


@both
async def test_it_is_spoken_without_tls_where_it_is_known(library: ModuleType) -> None:
    async with http2_backend() as a, over(a.raw.address, library=library, **KNOWN) as it:
        assert (await it.client.post("/", content=b"abc")).text == "1"
        assert b"".join(a.bodies) == b"abc"
        answers = await asyncio.gather(*(it.client.get("/") for _ in range(5)))
        assert {each.text for each in answers} == {"1"}


@both
async def test_one_connection_carries_so_many_requests_and_then_there_is_another(
    library: ModuleType,
) -> None:
    async with http2_backend() as a, over(a.raw.address, library=library, **KNOWN) as it:
        tasks = [asyncio.create_task(it.client.get("/held")) for _ in range(150)]
        await until(lambda: len(a.targets) == 150)
        assert it.connections() == "0 idle, 2 active"
        a.release.set()
        await asyncio.gather(*tasks)
        assert it.connections() == "2 idle, 0 active"


@both
async def test_after_a_goaway_there_is_another_connection(library: ModuleType) -> None:
    async with http2_backend() as a, over(a.raw.address, library=library, **KNOWN) as it:
        assert (await it.client.get("/away")).text == "1"
        for _ in range(3):
            assert (await it.client.get("/")).text == "2"
        assert it.outcomes() == (4, 0)


@both
async def test_a_request_that_a_goaway_refused_goes_over_another_connection(
    library: ModuleType,
) -> None:
    async with http2_backend(lives=1) as a, over(a.raw.address, library=library, **KNOWN) as it:
        for number in range(1, 5):
            assert (await it.client.post("/", content=b"abc")).text == str(number)
        assert it.outcomes() == (4, 0)


@both
async def test_a_stream_that_a_goaway_refused_when_it_was_begun_fails(library: ModuleType) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"abc"

    async with http2_backend(lives=1) as a, over(a.raw.address, library=library, **KNOWN) as it:
        await it.client.get("/")
        with pytest.raises(library.RemoteProtocolError, match="closed by the server"):
            await it.client.post("/", content=body())
        assert it.in_flight() == 0


@both
async def test_what_a_server_went_away_from_at_once_is_sent_to_another(library: ModuleType) -> None:
    async with (
        http2_backend(lives=0) as a,
        http2_backend() as b,
        over(balancer=in_order(a.raw.address, b.raw.address), library=library, **KNOWN) as it,
    ):
        response = await it.client.post("/", content=b"abc")
        assert response.extensions["backend"] == b.raw.address
        assert (it.in_flight(), it.outcomes(), it.balancer.explain().retries) == (0, (2, 1), 1)


@both
async def test_if_all_go_away_at_once_it_fails_as_if_it_had_not_been_connected(
    library: ModuleType,
) -> None:
    async with (
        http2_backend(lives=0) as a,
        over(a.raw.address, library=library, **KNOWN) as it,
    ):
        with pytest.raises(library.ConnectError, match="closed by the server before any request"):
            await it.client.get("/")
        assert (it.in_flight(), it.outcomes(), a.raw.accepted) == (0, (1, 1), 1)


@both
async def test_a_stream_that_was_begun_when_the_server_went_away_fails(library: ModuleType) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"abc"

    async with (
        http2_backend(lives=0) as a,
        http2_backend() as b,
        over(balancer=in_order(a.raw.address, b.raw.address), library=library, **KNOWN) as it,
    ):
        with pytest.raises(library.RemoteProtocolError):
            await it.client.post("/", content=body())
        assert not b.targets


@both
async def test_an_idle_connection_that_the_server_closed_is_noticed(library: ModuleType) -> None:
    async with http2_backend() as a, over(a.raw.address, library=library, **KNOWN) as it:
        assert (await it.client.get("/")).text == "1"
        await a.raw.stop()
        await a.raw.start_again()
        assert it.connections() == "1 idle, 0 active"
        assert (await it.client.get("/")).text == "2"


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="closing cannot be told from talking")
@both
async def test_an_idle_connection_on_which_the_server_speaks_is_used(library: ModuleType) -> None:
    async with http2_backend() as a, over(a.raw.address, library=library, **KNOWN) as it:
        response = await it.client.get("/ping")
        a.release.set()
        used = response.extensions["network_stream"].get_extra_info("socket")
        await until(lambda: select.select([used], [], [], 0)[0])
        assert (await it.client.get("/")).text == "1"


@both
async def test_a_stream_that_broke_off_retires_its_connection(library: ModuleType) -> None:
    async with http2_backend() as a, over(a.raw.address, library=library, **KNOWN) as it:
        (task,) = await held(it, a, 1)
        async with it.client.stream("GET", "/part") as response:
            assert response.headers["x-connection"] == "1"
        # The other stream goes on, new ones do not come to it.
        assert (await it.client.get("/")).text == "2"
        assert it.connections() == "1 idle, 1 active"
        a.release.set()
        assert (await task).text == "1"
        assert it.connections() == "1 idle, 0 active"
        await until(lambda: a.raw.open == 1)


@both
async def test_a_removed_backend_finishes_its_streams_and_gets_no_more(library: ModuleType) -> None:
    async with (
        http2_backend() as a,
        http2_backend() as b,
        over(a.raw.address, library=library, **KNOWN) as it,
    ):
        tasks = await held(it, a, 3)
        it.pool.update([b.raw.address])
        await asyncio.sleep(0)
        it.pool.update([a.raw.address])
        assert (await it.client.get("/")).text == "2"
        a.release.set()
        assert {each.text for each in await asyncio.gather(*tasks)} == {"1"}
        assert it.connections() == "1 idle, 0 active"
        await until(lambda: a.raw.open == 1)


@both
async def test_a_reset_stream_is_a_failure_of_that_request(library: ModuleType) -> None:
    async with http2_backend() as a, over(a.raw.address, library=library, **KNOWN) as it:
        with pytest.raises(library.RemoteProtocolError):
            await it.client.get("/reset")
        assert (it.in_flight(), it.outcomes()) == (0, (1, 1))
        assert (await it.client.get("/")).text == "2"


@both
async def test_those_who_wait_for_a_connection_to_open_fail_with_it(library: ModuleType) -> None:
    async with over(nobody(), library=library, retries=Retries(attempts=1), **KNOWN) as it:
        answers = await asyncio.gather(
            *(it.client.get("/") for _ in range(5)), return_exceptions=True
        )
        assert {type(each) for each in answers} == {library.ConnectError}
        assert it.in_flight() == 0


async def test_those_who_wait_go_on_when_the_one_who_opens_is_cancelled() -> None:
    async with http2_backend(tls=with_alpn("h2")) as a, over(a.raw.address, **tls()) as it:
        first = asyncio.create_task(it.client.get("/"))
        others = [asyncio.create_task(it.client.get("/")) for _ in range(3)]
        await until(lambda: it.in_flight() == 4)
        first.cancel()
        answers = await asyncio.gather(*others)
        assert [each.status_code for each in answers] == [200, 200, 200]
        await asyncio.wait({first})
        assert first.cancelled()
        assert it.in_flight() == 0
        assert it.connections() == "1 idle, 0 active"


async def test_waiting_too_long_for_a_connection_to_open_is_a_connect_timeout() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    # No TLS on the other side: the handshake does not come to an end.
    async with (
        raw_backend(silent) as a,
        over(a.address, retries=Retries(attempts=1), timeout=httpx.Timeout(10.0), **tls()) as it,
    ):
        opening = asyncio.create_task(it.client.get("/"))
        await until(lambda: a.open == 1)
        with pytest.raises(httpx.ConnectTimeout):
            await it.client.get("/", timeout=0.05)
        assert it.in_flight() == 1
        opening.cancel()
        await asyncio.wait({opening})
        await until(lambda: not a.open)


async def test_whoever_waited_for_a_slot_shares_what_was_opened_meanwhile() -> None:
    limits = httpx.Limits(max_connections=2)
    async with (
        http2_backend() as a,
        http2_backend() as b,
        http2_backend() as c,
        over(a.raw.address, b.raw.address, limits=limits, **KNOWN) as it,
    ):
        tasks = [asyncio.create_task(it.client.get("/held")) for _ in range(2)]
        await until(lambda: a.targets and b.targets)
        it.pool.update([c.raw.address])
        waiting = [asyncio.create_task(it.client.get("/")) for _ in range(3)]
        await until(lambda: "3 waited for" in it.connections())
        # Two slots become free at once, and one connection is enough.
        a.release.set()
        b.release.set()
        await asyncio.gather(*tasks, *waiting)
        assert {number for number, _ in c.targets} == {1}
        assert len(c.targets) == 3
        assert it.connections() == "1 idle, 0 active"
        # The other slot was given back.
        a.release.clear()
        b.release.clear()
        it.pool.update([a.raw.address, b.raw.address])
        tasks = [asyncio.create_task(it.client.get("/held")) for _ in range(2)]
        await until(lambda: len(a.targets) == len(b.targets) == 2)
        a.release.set()
        b.release.set()
        await asyncio.gather(*tasks)


ONE = httpx.Limits(max_connections=1)


async def test_while_all_connections_are_shared_a_request_goes_to_a_backend_that_has_one() -> None:
    async with (
        http2_backend() as a,
        http2_backend() as b,
        over(balancer=in_order(a.raw.address, b.raw.address), limits=ONE, **KNOWN) as it,
    ):
        (task,) = await held(it, a, 1)
        for _ in range(4):
            assert (await it.client.get("/")).extensions["backend"] == a.raw.address
        assert not b.targets
        a.release.set()
        await task
        # Then it is the other one's turn, which has no connection yet.
        assert (await it.client.get("/")).extensions["backend"] == b.raw.address
        picks = {each.backend: each.picks for each in it.balancer.explain().backends}
        assert picks == {a.raw.address: 5, b.raw.address: 1}


@both
async def test_those_in_line_join_a_connection_as_soon_as_it_is_open(library: ModuleType) -> None:
    limits = library.Limits(max_connections=1)
    async with (
        http2_backend() as a,
        over(a.raw.address, library=library, limits=limits, **KNOWN) as it,
    ):
        tasks = [asyncio.create_task(it.client.get("/held")) for _ in range(20)]
        await until(lambda: len(a.targets) == 20)
        assert it.connections() == "0 idle, 1 active"
        a.release.set()
        await asyncio.gather(*tasks)


async def test_when_a_stream_ends_whoever_waits_longest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_MAX_STREAMS", 2)
    async with http2_backend() as a, over(a.raw.address, limits=ONE, **KNOWN) as it:
        tasks = [asyncio.create_task(it.client.get("/one")) for _ in range(2)]
        await until(lambda: len(a.targets) == 2)
        for number in range(3):
            tasks.append(asyncio.create_task(it.client.get(f"/{number}")))
            await asyncio.sleep(0)
        late = [asyncio.create_task(it.client.get("/late")) for _ in range(3)]
        a.let_one()
        await asyncio.gather(*tasks[2:], *late)
        assert [target for _, target in a.targets[2:]] == ["/0", "/1", "/2", *["/late"] * 3]
        assert it.connections() == "0 idle, 1 active"
        a.let_one()
        await asyncio.gather(*tasks)
        assert it.connections() == "1 idle, 0 active"


async def test_a_backend_that_was_just_removed_is_joined_by_nobody() -> None:
    async with (
        http2_backend() as a,
        http2_backend() as b,
        over(a.raw.address, limits=ONE, **KNOWN) as it,
    ):
        (task,) = await held(it, a, 1)
        waiting = asyncio.create_task(it.client.get("/"))
        # It looks before the connections of what was removed are looked for.
        it.pool.update([b.raw.address])
        await until(lambda: "1 waited for" in it.connections())
        a.release.set()
        assert (await waiting).extensions["backend"] == b.raw.address
        await task


class PreparingSlowly(InOrder):
    """A policy that takes its time for every list but the first."""

    prepares_slowly = True

    def __init__(self) -> None:
        self.prepared = 0
        self.may_go_on = threading.Event()

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        self.prepared += 1
        if self.prepared > 1:
            assert self.may_go_on.wait(10)
        return super().prepare(candidates)


async def test_of_a_list_that_is_out_of_date_only_what_can_be_joined_is_chosen() -> None:
    policy = PreparingSlowly()
    async with http2_backend() as a, http2_backend() as b, http2_backend() as c:
        pool = BackendPool.static([a.raw.address, b.raw.address])
        async with (
            Balancer(pool, policy, ejection=None) as balancer,
            over(balancer=balancer, limits=ONE, **KNOWN) as it,
        ):
            (task,) = await held(it, a, 1)
            try:
                pool.update([a.raw.address, c.raw.address])
                await until(lambda: policy.prepared == 2)
                for _ in range(3):
                    assert (await it.client.get("/")).extensions["backend"] == a.raw.address
            finally:
                policy.may_go_on.set()
            a.release.set()
            await task
            assert not b.targets


async def test_when_the_list_changes_during_the_choice_only_what_can_be_joined_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        http2_backend() as a,
        http2_backend() as b,
        over(balancer=in_order(a.raw.address), limits=ONE, **KNOWN) as it,
    ):
        (task,) = await held(it, a, 1)
        lease = Balancer.lease

        def lease_of_another_list(*args: Any) -> Lease:
            it.pool.update([b.raw.address, a.raw.address])
            return lease(*args)

        monkeypatch.setattr(Balancer, "lease", lease_of_another_list)
        assert (await it.client.get("/")).extensions["backend"] == a.raw.address
        a.release.set()
        await task
        picks = {each.backend: each.picks for each in it.balancer.explain().backends}
        assert picks == {a.raw.address: 2, b.raw.address: 0}
        assert it.in_flight() == 0


async def test_requests_that_wait_for_a_slot_are_answered_while_others_keep_coming() -> None:
    limits, timeout = httpx.Limits(max_connections=4), httpx.Timeout(10, pool=2)
    async with contextlib.AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(http2_backend()) for _ in range(5)]
        it = await stack.enter_async_context(
            over(*(each.raw.address for each in backends), limits=limits, timeout=timeout, **KNOWN)
        )

        async def work() -> list[int]:
            return [(await it.client.get("/")).status_code for _ in range(20)]

        assert await asyncio.gather(*(work() for _ in range(30))) == [[200] * 20] * 30
        assert sum(each.picks for each in it.balancer.explain().backends) == 600


def used_up(it: Over) -> None:
    """Let the only connection be at its last stream."""
    (connections,) = it.transport._connections.values()
    (only,) = connections._all
    http2: Any = only.http._connection
    http2._h2_state.highest_outbound_stream_id = 2**31 - 1


@both
async def test_a_connection_without_streams_left_is_followed_by_another(
    library: ModuleType,
) -> None:
    async with http2_backend() as a, over(a.raw.address, library=library, **KNOWN) as it:
        (task,) = await held(it, a, 1)
        used_up(it)
        for _ in range(3):
            assert (await it.client.post("/", content=b"abc")).text == "2"
        a.release.set()
        assert (await task).text == "1"
        used_up(it)
        assert (await it.client.post("/", content=b"abc")).text == "3"
        assert it.connections() == "1 idle, 0 active"
        assert it.outcomes() == (5, 0)


@both
async def test_if_there_is_no_slot_for_another_it_waits_for_one(library: ModuleType) -> None:
    limits = library.Limits(max_connections=1)
    async with (
        http2_backend() as a,
        over(a.raw.address, library=library, limits=limits, **KNOWN) as it,
    ):
        (task,) = await held(it, a, 1)
        used_up(it)
        waiting = asyncio.create_task(it.client.get("/"))
        await until(lambda: "1 waited for" in it.connections())
        with pytest.raises(library.PoolTimeout):
            await it.client.get("/", timeout=library.Timeout(10, pool=0.01))
        a.release.set()
        assert (await task).text == "1"
        assert (await waiting).text == "2"
        assert it.outcomes() == (2, 0)


@both
async def test_a_users_trace_goes_on_being_called(library: ModuleType) -> None:
    names: list[str] = []

    async def trace(name: str, info: dict[str, Any]) -> None:
        names.append(name)

    async with http2_backend() as a, over(a.raw.address, library=library, **KNOWN) as it:
        await it.client.get("/", extensions={"trace": trace})
    assert "connection.connect_tcp.complete" in names
    assert "http2.receive_response_headers.complete" in names


@both
async def test_it_is_spoken_with_hypercorn(library: ModuleType, tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        headers = [(b"x-version", scope["http_version"].encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": dict(scope["headers"])[b"host"]})

    async with (
        served_by_hypercorn(app) as served,
        over(served.address, library=library, **KNOWN) as it,
    ):
        answers = await asyncio.gather(*(it.client.get("/") for _ in range(10)))
        assert {each.headers["x-version"] for each in answers} == {"2"}
        assert {each.text for each in answers} == {"api"}
        assert it.connections() == "1 idle, 0 active"


async def while_two_wait_for_one_to_open(it: Over) -> list[asyncio.Task[httpx.Response]]:
    tasks = [asyncio.create_task(it.client.get("/")) for _ in range(2)]
    await asyncio.sleep(0)
    assert (it.in_flight(), it.connections()) == (2, "0 idle, 1 active")
    return tasks


async def test_a_backend_that_was_removed_just_after_the_choice_is_not_kept() -> None:
    async with (
        http2_backend() as a,
        http2_backend() as b,
        over(a.raw.address, **KNOWN) as it,
    ):
        first, waiting = await while_two_wait_for_one_to_open(it)
        it.pool.update([b.raw.address])
        first.cancel()
        assert (await waiting).extensions["backend"] == a.raw.address
        assert it.connections() == "0 idle, 0 active"
        await until(lambda: a.raw.open == 0)


async def test_a_backend_that_is_still_listed_in_another_list_is_kept() -> None:
    async with http2_backend() as a, over(a.raw.address, **KNOWN) as it:
        first, waiting = await while_two_wait_for_one_to_open(it)
        it.pool.update([a.raw.address, "10.0.0.1:1"])
        # The connection is closed, with the last that was known of its backend.
        first.cancel()
        await waiting
        assert it.connections() == "1 idle, 0 active"


@both
async def test_an_answer_that_is_closed_unread_keeps_its_connection(library: ModuleType) -> None:
    async with http2_backend() as a, over(a.raw.address, library=library, **KNOWN) as it:
        for _ in range(10):
            async with it.client.stream("GET", "/") as response:
                assert response.headers["x-connection"] == "1"
        assert it.connections() == "1 idle, 0 active"
        assert it.outcomes() == (10, 0)


@both
async def test_of_a_large_answer_that_is_closed_unread_not_all_is_read(library: ModuleType) -> None:
    async with http2_backend() as a, over(a.raw.address, library=library, **KNOWN) as it:
        assert len((await it.client.get("/large")).content) == 5 * 16_384
        assert it.connections() == "1 idle, 0 active"
        async with it.client.stream("GET", "/large"):
            pass
        assert it.connections() == "0 idle, 0 active"
        assert (it.in_flight(), it.outcomes()) == (0, (2, 0))


async def test_who_waits_for_one_backend_keeps_nobody_from_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_MAX_STREAMS", 2)
    limits = httpx.Limits(max_connections=2)
    async with (
        http2_backend() as a,
        http2_backend() as b,
        over(balancer=in_order(a.raw.address, b.raw.address), limits=limits, **KNOWN) as it,
    ):
        (first,) = await held(it, a, 1)
        used_up(it)
        second = asyncio.create_task(it.client.get("/one"))
        await until(lambda: len(b.targets) == 1)
        bound = asyncio.create_task(it.client.get("/bound"))
        await until(lambda: "1 waited for" in it.connections())
        third = asyncio.create_task(it.client.get("/one"))
        await until(lambda: len(b.targets) == 2)
        waiting = asyncio.create_task(it.client.get("/"))
        await until(lambda: "2 waited for" in it.connections())
        b.let_one()
        answers = await asyncio.gather(waiting, it.client.get("/"))
        assert [each.extensions["backend"] for each in answers] == [b.raw.address] * 2
        assert "1 waited for" in it.connections()
        a.release.set()
        assert (await bound).extensions["backend"] == a.raw.address
        b.let_one()
        await asyncio.gather(first, second, third)


async def test_who_waits_for_one_backend_joins_what_is_opened_to_it() -> None:
    async with http2_backend() as a, over(a.raw.address, limits=ONE, **KNOWN) as it:
        (first,) = await held(it, a, 1)
        used_up(it)
        waiting = [asyncio.create_task(it.client.get("/one")) for _ in range(3)]
        await until(lambda: "3 waited for" in it.connections())
        a.release.set()
        await first
        # One has the slot; it is not free before they are all answered.
        await until(lambda: [target for _, target in a.targets[1:]] == ["/one"] * 3)
        for _ in waiting:
            a.let_one()
        assert {(await each).text for each in waiting} == {"2"}
