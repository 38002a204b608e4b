"""When BackendTransport tries a request again on another backend, and what it reports of each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import ModuleType

import httpx
import pytest
from backends import EchoBackend, RawBackend, echo_backend, raw_backend
from backends_misbehaving import closes_after_request, resets_after_request
from httpx_clients import Over, both, over
from servers import nobody

from backendpool_async import Backend, BackendPool, Balancer, Chooser, Failure
from backendpool_async.balance.candidate import Candidate
from backendpool_async.httpx.exchange import ResponseBody
from backendpool_async.retries import Retries, RetryBudget


class InOrder:
    """A policy that chooses the backends in the order of the list."""

    def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
        following = itertools.cycle(candidates)

        def choose(key: str | None) -> Candidate:
            return next(following)

        return choose


def in_order(*addresses: str) -> Balancer:
    return Balancer(BackendPool.static(addresses), InOrder(), ejection=None)


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


async def test_a_cancellation_between_two_tries_leaves_no_lease() -> None:
    retries = Retries(idempotent=True, statuses={503})

    async def cancelled(body: ResponseBody) -> None:
        body._end(None)
        raise asyncio.CancelledError

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
