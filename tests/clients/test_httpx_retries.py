"""When BackendTransport tries a request again on another backend, and what it reports of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType

import httpx
import pytest
from backends import EchoBackend, RawBackend, echo_backend, raw_backend
from backends_misbehaving import closes_after_request, resets_after_request
from http2_backend import Http2Backend, http2_backend
from httpx_clients import InOrder, Over, both, in_order, over
from servers import nobody, until

from backendpool_async import Backend, BackendPool, Balancer, Failure
from backendpool_async.httpx.exchange import ResponseBody
from backendpool_async.retries import Retries, RetryBudget


def failures(it: Over) -> dict[str, str | None]:
    return {each.backend: each.last_failure for each in it.balancer.explain().backends}


@asynccontextmanager
async def broken_then_well(
    library: ModuleType = httpx, retries: Retries | None = None
) -> AsyncIterator[tuple[Over, RawBackend, EchoBackend]]:
    """Two backends; the first, which is asked first, closes after it has read the request."""
    async with raw_backend(closes_after_request) as broken, echo_backend("well") as well:
        balancer = in_order(broken.address, well.address)
        async with over(balancer=balancer, library=library, retries=retries) as it:
            yield it, broken, well


@both
async def test_a_backend_that_refuses_is_passed_over(library: ModuleType) -> None:
    gone = nobody()
    async with echo_backend("well") as well:
        balancer = in_order(gone, well.address)
        async with over(balancer=balancer, library=library) as it:
            response = await it.client.post("/", content=b"abc")
            assert response.json()["body"] == "abc"
            assert response.extensions["backend"] == well.backend
            assert failures(it)[gone] is not None
            assert failures(it)[well.address] is None
            assert (it.in_flight(), it.balancer.explain().retries) == (0, 1)


@both
async def test_a_stream_that_was_not_begun_goes_to_another_backend(library: ModuleType) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"ab"
        yield b"c"

    async with (
        echo_backend("well") as well,
        over(balancer=in_order(nobody(), well.address), library=library) as it,
    ):
        response = await it.client.post("/", content=body())
        assert response.json()["body"] == "abc"


@both
async def test_when_every_backend_refuses_the_last_error_is_raised(library: ModuleType) -> None:
    async with over(nobody(), nobody(), nobody(), nobody(), library=library) as it:
        with pytest.raises(library.ConnectError) as caught:
            await it.client.get("/")
        assert caught.value.request.method == "GET"
        # Three attempts, one backend each.
        assert it.outcomes() == (3, 3)
        assert it.in_flight() == 0


async def test_attempts_and_the_budget_are_obeyed() -> None:
    async with over(nobody(), nobody(), retries=Retries(attempts=1)) as it:
        with pytest.raises(httpx.ConnectError):
            await it.client.get("/")
        assert it.outcomes() == (1, 1)
    retries = Retries(budget=RetryBudget(0.5, at_least=0))
    async with over(nobody(), nobody(), retries=retries) as it:
        for _ in range(10):
            with pytest.raises(httpx.ConnectError):
                await it.client.get("/")
        assert 10 < it.outcomes()[0] <= 15


@both
async def test_what_may_have_arrived_is_not_sent_again(library: ModuleType) -> None:
    async with broken_then_well(library) as (it, broken, well):
        with pytest.raises(library.RemoteProtocolError):
            await it.client.get("/")
        assert (broken.accepted, len(well.requests)) == (1, 0)
        assert it.outcomes() == (1, 1)


@both
async def test_if_asked_for_an_idempotent_request_is(library: ModuleType) -> None:
    async with broken_then_well(library, Retries(idempotent=True)) as (it, broken, well):
        response = await it.client.put("/", content=b"abc")
        assert response.json()["body"] == "abc"
        assert (broken.accepted, len(well.requests)) == (1, 1)


@both
async def test_a_post_is_never_sent_again(library: ModuleType) -> None:
    async with broken_then_well(library, Retries(idempotent=True)) as (it, _, well):
        with pytest.raises(library.RemoteProtocolError):
            await it.client.post("/", content=b"abc")
        assert not well.requests


@both
async def test_a_stream_that_was_begun_is_never_sent_again(library: ModuleType) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"abc"

    async with broken_then_well(library, Retries(idempotent=True)) as (it, _, well):
        with pytest.raises(library.RemoteProtocolError):
            await it.client.put("/", content=body())
        assert not well.requests


async def test_a_stream_that_was_begun_is_not_sent_again_whatever_the_classifier_says() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"abc"

    async with raw_backend(resets_after_request) as broken, echo_backend() as well:
        pool = BackendPool.static([broken.address, well.address])
        balancer = Balancer(
            pool,
            InOrder(),
            ejection=None,
            classify=lambda error: Failure.CONNECT,
        )
        async with over(balancer=balancer) as it:
            with pytest.raises(httpx.ReadError):
                await it.client.put("/", content=body())
            assert not well.requests


@both
async def test_an_answer_that_says_failure_is_one_and_is_returned(library: ModuleType) -> None:
    async with echo_backend() as a, over(a.address, library=library) as it:
        for status in (502, 503, 504, 500, 404):
            assert (await it.client.get(f"/status/{status}")).status_code == status
        assert it.outcomes() == (5, 3)
        assert failures(it)[a.address] == "504"


async def test_which_answers_are_failures_can_be_said() -> None:
    async with echo_backend() as a, over(a.address, failure_statuses={500}) as it:
        await it.client.get("/status/503")
        assert it.outcomes() == (1, 0)
        await it.client.get("/status/500")
        assert it.outcomes() == (2, 1)


@both
async def test_if_asked_for_an_answer_is_tried_elsewhere(library: ModuleType) -> None:
    retries = Retries(idempotent=True, statuses={503})
    async with (
        echo_backend("a") as a,
        echo_backend("b") as b,
        over(balancer=in_order(a.address, b.address), library=library, retries=retries) as it,
    ):
        # Both say so, and the last one is believed.
        response = await it.client.get("/status/503")
        assert response.status_code == 503
        assert response.extensions["backend"] == b.backend
        assert (len(a.requests), len(b.requests)) == (1, 1)
        assert (it.in_flight(), it.outcomes()) == (0, (2, 2))
        assert (await it.client.post("/status/503")).status_code == 503
        assert len(a.requests) + len(b.requests) == 3


async def cancelled(body: ResponseBody) -> None:
    body._end(None)
    raise asyncio.CancelledError


async def test_a_cancellation_between_two_tries_leaves_no_lease() -> None:
    retries = Retries(idempotent=True, statuses={503})

    async with (
        echo_backend("a") as a,
        echo_backend("b") as b,
        over(balancer=in_order(a.address, b.address), retries=retries) as it,
    ):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ResponseBody, "aclose", cancelled)
            with pytest.raises(asyncio.CancelledError):
                await it.client.get("/status/503")
        assert it.in_flight() == 0


@both
async def test_a_retry_does_not_stand_in_line_again(library: ModuleType) -> None:
    limits, timeout = library.Limits(max_connections=1), library.Timeout(10, pool=0.05)
    async with (
        echo_backend("well") as well,
        over(
            balancer=in_order(nobody(), well.address),
            library=library,
            limits=limits,
            timeout=timeout,
        ) as it,
    ):
        first = asyncio.create_task(it.client.get("/slow"))
        in_line = asyncio.create_task(it.client.get("/"))
        await until(lambda: well.running == 1)
        with pytest.raises(library.PoolTimeout):
            await in_line
        well.release.set()
        assert (await first).status_code == 200
        assert it.balancer.explain().retries == 1


@both
async def test_an_answer_that_is_tried_elsewhere_hands_its_connection_on(
    library: ModuleType,
) -> None:
    retries = Retries(idempotent=True, statuses={503})
    limits, timeout = library.Limits(max_connections=1), library.Timeout(10, pool=5)
    async with (
        echo_backend() as a,
        echo_backend() as b,
        over(
            balancer=in_order(a.address, b.address),
            library=library,
            retries=retries,
            limits=limits,
            timeout=timeout,
        ) as it,
    ):
        answers = await asyncio.gather(*(it.client.get("/status/503") for _ in range(5)))
        assert {each.status_code for each in answers} == {503}
        assert (len(a.requests), len(b.requests)) == (5, 5)
        assert it.connections() == "1 idle, 0 active"


@asynccontextmanager
async def shared_with_another(
    library: ModuleType, retries: Retries, limit: int
) -> AsyncIterator[tuple[Over, Http2Backend, Http2Backend]]:
    """Two HTTP/2 backends, each asked in turn, with a request that is held by the first."""
    limits = library.Limits(max_connections=limit)
    async with http2_backend() as a, http2_backend() as b:
        balancer = in_order(a.raw.address, b.raw.address)
        async with over(
            balancer=balancer,
            library=library,
            retries=retries,
            limits=limits,
            http1=False,
            http2=True,
        ) as it:
            task = asyncio.create_task(it.client.get("/held"))
            await until(lambda: len(a.targets) == 1)
            yield it, a, b
            a.release.set()
            await task


@both
async def test_without_a_connection_for_the_retry_the_error_is_what_it_was(
    library: ModuleType,
) -> None:
    retries = Retries(idempotent=True, budget=RetryBudget(0, at_least=0.1))
    async with shared_with_another(library, retries, 1) as (it, _, b):
        with pytest.raises(library.RemoteProtocolError):
            await it.client.get("/reset")
        assert (it.balancer.explain().retries, b.targets) == (0, [])
        assert sum(each.picks for each in it.balancer.explain().backends) == 2
        # What was not made was not paid for.
        assert retries.budget.withdraw()


@both
async def test_without_a_connection_for_the_retry_the_answer_is_taken(library: ModuleType) -> None:
    retries = Retries(idempotent=True, statuses={503})
    async with shared_with_another(library, retries, 1) as (it, a, b):
        response = await it.client.get("/503")
        assert (response.status_code, response.extensions["backend"]) == (503, a.raw.address)
        assert (it.balancer.explain().retries, b.targets) == (0, [])


@both
async def test_a_retry_may_join_a_connection_that_others_share(library: ModuleType) -> None:
    retries = Retries(idempotent=True, statuses={503})
    async with shared_with_another(library, retries, 2) as (it, a, b):
        other = asyncio.create_task(it.client.get("/held"))
        await until(lambda: len(b.targets) == 1)
        # Whichever it was tried on first.
        assert (await it.client.get("/503")).status_code == 503
        assert [target for _, target in a.targets + b.targets].count("/503") == 2
        assert it.connections() == "0 idle, 2 active"
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ResponseBody, "aclose", cancelled)
            with pytest.raises(asyncio.CancelledError):
                await it.client.get("/503")
        assert it.in_flight() == 2
        b.release.set()
        await other
        assert it.connections() == "1 idle, 1 active"


@both
async def test_nobody_joins_a_connection_whose_slot_went_to_a_retry(
    library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[asyncio.Task[httpx.Response]] = []
    aclose = ResponseBody.aclose

    async def slowly(body: ResponseBody) -> None:
        if not late:
            late.append(asyncio.create_task(it.client.get("/late")))
            await until(lambda: "1 waited for" in it.connections())
        await aclose(body)

    monkeypatch.setattr(ResponseBody, "aclose", slowly)
    async with (
        http2_backend() as a,
        http2_backend() as b,
        over(
            balancer=in_order(a.raw.address, b.raw.address),
            library=library,
            retries=Retries(idempotent=True, statuses={503}),
            limits=library.Limits(max_connections=1),
            http1=False,
            http2=True,
        ) as it,
    ):
        response = await it.client.get("/503")
        assert response.extensions["backend"] == b.raw.address
        assert (await late[0]).status_code == 200
        assert it.connections() == "1 idle, 0 active"


@both
async def test_how_a_refused_answer_ends_is_nobody_elses_fault(library: ModuleType) -> None:
    retries = Retries(idempotent=True, statuses={503})

    async def broken(body: ResponseBody) -> None:
        body._end(None)
        raise ConnectionResetError

    async with (
        echo_backend("a") as a,
        echo_backend("b") as b,
        over(balancer=in_order(a.address, b.address), library=library, retries=retries) as it,
    ):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ResponseBody, "aclose", broken)
            request = library.Request("GET", "http://api/status/503")
            response = await it.transport.handle_async_request(request)
        assert response.extensions["backend"] == b.backend
        await response.aclose()
        assert failures(it) == {a.address: "503", b.address: "503"}
        assert (it.in_flight(), it.outcomes()) == (0, (2, 2))


async def test_a_key_still_leads_elsewhere_when_its_backend_refuses() -> None:
    async with (
        echo_backend() as well,
        over(nobody(), well.address, key=lambda request: "user") as it,
    ):
        for _ in range(5):
            response = await it.client.get("/")
            assert response.extensions["backend"] == Backend(well.address)


async def test_a_key_that_raises_takes_no_lease() -> None:
    def key(request: httpx.Request) -> str:
        raise KeyError("X-User")

    async with over(nobody(), key=key) as it:
        with pytest.raises(KeyError, match="X-User"):
            await it.client.get("/")
        assert it.outcomes() == (0, 0)


async def test_a_backend_that_was_ejected_is_not_asked() -> None:
    gone = nobody()
    async with echo_backend() as well:
        balancer = Balancer(BackendPool.static([gone, well.address]))
        async with over(balancer=balancer) as it:
            for _ in range(30):
                assert (await it.client.get("/")).status_code == 200
            states = {each.backend: each for each in balancer.explain().backends}
            assert states[gone].state == "ejected"
            assert states[gone].requests < 10
