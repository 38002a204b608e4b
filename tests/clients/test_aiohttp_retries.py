"""Which requests are sent again, how often, and where."""

from __future__ import annotations

import asyncio
import contextlib
import io
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
from aiohttp_sessions import Addressed, balancer_of, in_flight, session_of, state_of
from backends import MISBEHAVIOURS, certificates, echo_backend, raw_backend, read_head, read_request
from backends_misbehaving import reset
from servers import nobody, until

from backendpool_async import Balancer, Failure
from backendpool_async.aiohttp import BackendConnector, backend_middleware
from backendpool_async.balance.candidate import Candidate
from backendpool_async.retries import Retries, RetryBudget

IDEMPOTENT = Retries(idempotent=True)
NO_BUDGET = RetryBudget(0.0, at_least=0)


class InOrder:
    """The first of the list that there is."""

    def prepare(self, candidates: Sequence[Candidate]) -> InOrder:
        self._first = candidates[0]
        return self

    def __call__(self, key: str | None) -> Candidate:
        return self._first


def in_order(*backends: Addressed | str) -> Balancer:
    return balancer_of(*backends, policy=InOrder())


class Broken:
    """Backends that reset every connection once a request has come, and count the requests."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        await read_head(reader)
        self.requests += 1
        reset(writer)


@asynccontextmanager
async def broken(count: int) -> AsyncIterator[tuple[Broken, list[Addressed]]]:
    async with AsyncExitStack() as stack:
        handler = Broken()
        yield (
            handler,
            [await stack.enter_async_context(raw_backend(handler)) for _ in range(count)],
        )


async def pieces() -> AsyncIterator[bytes]:
    yield b"piece"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_refused_connection_is_tried_elsewhere_whatever_the_request(method: str) -> None:
    refusing = nobody()
    async with echo_backend() as a:
        balancer = in_order(refusing, a)
        async with (
            session_of(balancer) as s,
            s.request(method, "http://api/", data=pieces()) as response,
        ):
            assert (await response.json())["body"] == "piece"
            assert str(response.url) == "http://api/"
        assert state_of(balancer, refusing).failures == 1
        assert balancer.explain().retries == 1
        assert in_flight(balancer) == 0


async def test_a_failed_handshake_is_tried_elsewhere() -> None:
    certificate = certificates()
    async with (
        echo_backend("wrong", tls=certificate.server("other")) as wrong,
        echo_backend("right", tls=certificate.server("api")) as right,
        session_of(in_order(wrong, right)) as s,
        s.post("https://api/", ssl=certificate.client()) as response,
    ):
        assert (await response.json())["name"] == "right"


async def test_when_all_refuse_the_last_refusal_is_raised() -> None:
    balancer = in_order(nobody(), nobody(), nobody(), nobody())
    async with session_of(balancer) as s:
        with pytest.raises(aiohttp.ClientConnectorError):
            await s.get("http://api/")
    assert sum(state.failures for state in balancer.explain().backends) == 3


async def test_a_request_that_may_have_been_sent_is_sent_once() -> None:
    async with broken(3) as (handler, backends):
        balancer = balancer_of(*backends)
        async with session_of(balancer) as s:
            with pytest.raises(aiohttp.ClientError):
                await s.post("http://api/", data=b"once")
        assert handler.requests == 1
        assert in_flight(balancer) == 0


async def test_if_asked_for_an_idempotent_request_is_tried_elsewhere() -> None:
    async with broken(2) as (handler, backends), echo_backend() as a:
        balancer = in_order(*backends, a)
        async with (
            session_of(balancer, retries=IDEMPOTENT) as s,
            s.put("http://api/", json={"a": 1}) as response,
        ):
            assert (await response.json())["body"] == '{"a": 1}'
        assert handler.requests == balancer.explain().retries > 0
        assert in_flight(balancer) == 0


@pytest.mark.parametrize("data", [None, b"bytes", "text", {"form": "1"}])
async def test_what_is_in_memory_can_be_sent_again(data: object) -> None:
    async with broken(1) as (_, backends), echo_backend() as a:
        async with session_of(in_order(*backends, a), retries=IDEMPOTENT) as s:
            assert (await s.put("http://api/", data=data)).status == 200
        expected = {None: b"", b"bytes": b"bytes", "text": b"text"}.get(
            data if isinstance(data, (bytes, str)) else None, b""
        )
        assert a.requests[0].body == (b"form=1" if isinstance(data, dict) else expected)


@pytest.mark.parametrize("kind", ["iterator", "file"])
@pytest.mark.parametrize("retries", [None, IDEMPOTENT])
async def test_a_body_that_is_read_as_it_is_sent_is_sent_once(
    kind: str, retries: Retries | None
) -> None:
    # Not by aiohttp either, some of whose releases send what is left of it.
    data = io.BytesIO(b"file") if kind == "file" else pieces()
    async with broken(3) as (handler, backends):
        async with session_of(balancer_of(*backends), retries=retries) as s:
            with pytest.raises(aiohttp.ClientError):
                await s.put("http://api/", data=data)
        assert handler.requests == 1


@pytest.mark.parametrize("attempts", [1, 2, 3])
async def test_a_request_is_tried_no_more_often_than_asked_for(attempts: int) -> None:
    # aiohttp itself would send each of them once more.
    retries = Retries(attempts=attempts, idempotent=True)
    async with broken(5) as (handler, backends):
        balancer = balancer_of(*backends)
        async with session_of(balancer, retries=retries) as s:
            with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
                await s.get("http://api/")
            assert handler.requests == attempts
            with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
                # What was remembered of one request is not taken for the next one.
                await s.get("http://api/")
        assert handler.requests == 2 * attempts
        assert in_flight(balancer) == 0


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_second_try_of_aiohttps_own_is_not_made(method: str) -> None:
    async with broken(2) as (handler, backends):
        balancer = balancer_of(*backends)
        async with session_of(balancer) as s:
            with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
                await s.request(method, "http://api/orders/1")
        assert (handler.requests, balancer.explain().retries) == (1, 0)
        assert in_flight(balancer) == 0


async def test_nor_is_it_made_for_what_the_classifier_says_is_no_failure() -> None:
    async with broken(2) as (handler, backends):
        balancer = balancer_of(*backends, classify=lambda error: None)
        async with session_of(balancer, retries=IDEMPOTENT) as s:
            with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
                await s.get("http://api/")
        assert handler.requests == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_middleware_that_tries_again_begins_a_new_request(method: str) -> None:
    async def again(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        for _ in range(2):
            with contextlib.suppress(aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                return await handler(request)
        return await handler(request)

    arrived = 0

    async def at_the_third_time(reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal arrived
        await read_request(reader)
        arrived += 1
        if arrived < 3:
            reset(writer)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with raw_backend(at_the_third_time) as raw:
        balancer = balancer_of(raw)
        middlewares = [again, backend_middleware(balancer)]
        async with aiohttp.ClientSession(middlewares=middlewares) as s:
            assert (await s.request(method, "http://api/", data=b"x")).status == 200
        assert (arrived, balancer.explain().retries) == (3, 0)
        assert in_flight(balancer) == 0


async def test_a_cancellation_is_one_whatever_the_classifier_says() -> None:
    async with raw_backend(MISBEHAVIOURS["silent"]) as silent, echo_backend() as a:
        balancer = balancer_of(
            silent, a, policy=InOrder(), classify=lambda error: Failure.TRANSPORT
        )
        async with session_of(balancer, retries=IDEMPOTENT) as s:
            task = asyncio.create_task(s.get("http://api/"))
            await until(lambda: silent.accepted == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not a.requests
        assert in_flight(balancer) == 0


async def test_a_body_that_was_begun_is_not_sent_again_whatever_the_classifier_says() -> None:
    async with broken(1) as (handler, backends), echo_backend() as a:
        balancer = balancer_of(
            *backends, a, policy=InOrder(), classify=lambda error: Failure.CONNECT
        )
        async with session_of(balancer, retries=IDEMPOTENT) as s:
            with pytest.raises(aiohttp.ClientError):
                await s.put("http://api/", data=pieces())
        assert (handler.requests, len(a.requests)) == (1, 0)


async def test_a_request_that_broke_off_does_not_end_the_next_one() -> None:
    # aiohttp does not try this one again, so what is kept for that is left over.
    async with broken(1) as (_, backends), echo_backend() as a:
        bad, good = balancer_of(*backends), balancer_of(a)
        middlewares = [backend_middleware(bad, host="bad.test"), backend_middleware(good)]
        async with aiohttp.ClientSession(
            connector=BackendConnector(bad, good), middlewares=middlewares
        ) as s:
            with pytest.raises(aiohttp.ClientError):
                await s.put("http://bad.test/", data=pieces())
            assert (await s.put("http://api/")).status == 200


async def test_without_budget_nothing_is_tried_again() -> None:
    balancer = balancer_of(nobody(), nobody())
    async with session_of(balancer, retries=Retries(budget=NO_BUDGET)) as s:
        with pytest.raises(aiohttp.ClientConnectorError):
            await s.get("http://api/")
    assert balancer.explain().retries == 0


async def test_every_request_pays_into_the_budget() -> None:
    # What is not used fades from the first moment on.
    budget = RetryBudget(1.0, at_least=0, clock=lambda: 0.0)
    async with echo_backend() as a:
        async with session_of(balancer_of(a), retries=Retries(budget=budget)) as s:
            for _ in range(3):
                await (await s.get("http://api/")).read()
        assert [budget.withdraw() for _ in range(4)] == [True, True, True, False]


async def test_if_asked_for_an_answer_with_a_status_is_not_taken() -> None:
    retries = Retries(idempotent=True, statuses={503})

    async def busy(reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")

    async with raw_backend(busy) as raw, echo_backend() as a:
        balancer = in_order(raw, a)
        async with session_of(balancer, retries=retries) as s:
            assert (await s.get("http://api/")).status == 200
            assert (await s.post("http://api/")).status == 503
            # What was not taken was read all the same: its connection is used again.
            assert raw.accepted == 1
        state = state_of(balancer, raw)
        assert (state.requests, state.failures, state.last_failure) == (2, 2, "503 Busy")
        assert in_flight(balancer) == 0


async def test_a_status_can_be_tried_elsewhere_and_be_no_failure() -> None:
    retries = Retries(idempotent=True, statuses={429})
    async with echo_backend() as a, echo_backend() as b:
        balancer = balancer_of(a, b)
        async with session_of(balancer, retries=retries) as s:
            assert (await s.get("http://api/status/429")).status == 429
        assert len(a.requests) == len(b.requests) == 1
        assert [state.failures for state in balancer.explain().backends] == [0, 0]
        assert in_flight(balancer) == 0


async def test_the_last_answer_is_taken_whatever_its_status() -> None:
    retries = Retries(idempotent=True, statuses={503})
    async with echo_backend() as a, echo_backend() as b:
        balancer = balancer_of(a, b)
        async with (
            session_of(balancer, retries=retries) as s,
            s.get("http://api/status/503") as response,
        ):
            assert response.status == 503
        assert len(a.requests) == len(b.requests) == 1
        assert in_flight(balancer) == 0


async def test_an_answer_that_is_no_http_is_tried_elsewhere_if_asked_for() -> None:
    async with (
        raw_backend(MISBEHAVIOURS["malformed_status"]) as raw,
        echo_backend() as a,
        session_of(in_order(raw, a), retries=IDEMPOTENT) as s,
        s.get("http://api/") as response,
    ):
        assert response.status == 200


async def test_no_try_is_begun_after_the_total_timeout() -> None:
    received = 0

    async def silent(reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal received
        await read_request(reader)
        received += 1
        await reader.read()

    async with raw_backend(silent) as one, raw_backend(silent) as two:
        balancer = balancer_of(one, two)
        timeout = aiohttp.ClientTimeout(total=0.1)
        async with session_of(balancer, retries=IDEMPOTENT, timeout=timeout) as s:
            with pytest.raises(TimeoutError):
                await s.get("http://api/")
        assert received == 1
        assert balancer.explain().retries == 0


async def test_a_silent_backend_is_left_for_another_after_the_read_timeout() -> None:
    async with raw_backend(MISBEHAVIOURS["silent"]) as raw, echo_backend() as a:
        balancer = in_order(raw, a)
        timeout = aiohttp.ClientTimeout(sock_read=0.2)
        async with session_of(balancer, retries=IDEMPOTENT, timeout=timeout) as s:
            assert (await s.get("http://api/")).status == 200
        assert state_of(balancer, raw).failures == 1


async def test_an_expectation_is_awaited_anew() -> None:
    bodies = []

    async def continuing(reader: StreamReader, writer: StreamWriter) -> None:
        await read_head(reader)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                # It does not come before it is asked for.
                await reader.read(1)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        bodies.append(await reader.readexactly(4))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def continuing_and_resetting(reader: StreamReader, writer: StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reader.readexactly(4)
        reset(writer)

    async with (
        raw_backend(continuing_and_resetting) as broken_off,
        raw_backend(continuing) as well,
        session_of(in_order(broken_off, well), retries=IDEMPOTENT) as s,
        s.put("http://api/", data=b"body", expect100=True) as response,
    ):
        assert response.status == 200
    assert bodies == [b"body"]


async def test_a_retry_finds_no_backend_when_the_only_one_refuses() -> None:
    balancer = balancer_of(nobody())
    async with session_of(balancer, retries=IDEMPOTENT) as s:
        with pytest.raises(aiohttp.ClientConnectorError):
            await s.get("http://api/")
    assert balancer.explain().retries == 0


async def test_a_kept_connection_that_breaks_off_is_replaced_though_there_is_one_backend() -> None:
    async with raw_backend(MISBEHAVIOURS["resets_second_request"]) as raw:
        async with session_of(balancer_of(raw), retries=IDEMPOTENT) as s:
            for _ in range(3):
                async with s.get("http://api/") as response:
                    assert await response.text() == "ok"
        assert raw.accepted == 3


async def test_a_request_that_is_cancelled_between_two_tries_leaves_no_lease() -> None:
    async with broken(1) as (_, backends), echo_backend() as a:
        for steps in range(200):
            balancer = in_order(*backends, a)
            async with session_of(balancer, retries=IDEMPOTENT) as s:

                async def request(session: aiohttp.ClientSession = s) -> None:
                    async with session.put("http://api/", data=b"body") as response:
                        await response.read()

                task = asyncio.create_task(request())
                for _ in range(steps):
                    await asyncio.sleep(0)
                done = task.done()
                task.cancel()
                await asyncio.wait({task})
                assert in_flight(balancer) == 0
                assert state_of(balancer, a).failures == 0
            if done:
                break
        assert done
        assert balancer.explain().retries == 1
