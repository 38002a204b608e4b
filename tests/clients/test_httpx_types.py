"""The types of BackendTransport are an API, too: mypy reads this file."""

from __future__ import annotations

from typing import assert_type

import httpx
import httpx2
from backends import echo_backend

from backendpool_async import BackendPool, Balancer
from backendpool_async.httpx import BackendTransport
from backendpool_async.retries import Retries


async def test_it_is_a_transport_of_both_libraries() -> None:
    async with echo_backend() as a:
        transport = BackendTransport(
            Balancer(BackendPool.static([a.address])),
            retries=Retries(attempts=2),
            key=lambda request: request.headers.get("X-User"),
            failure_statuses={503},
            verify=False,
            limits=httpx2.Limits(max_connections=10),
        )
        async with httpx.AsyncClient(transport=transport, mounts={"all://api": transport}) as one:
            assert_type(await one.get("http://api/"), httpx.Response)
        async with httpx2.AsyncClient(transport=transport, mounts={"all://api": transport}) as two:
            assert_type(await two.get("http://api/"), httpx2.Response)
        first = await transport.handle_async_request(httpx.Request("GET", "http://api/"))
        assert_type(first, httpx.Response)
        await first.aclose()
        second = await transport.handle_async_request(httpx2.Request("GET", "http://api/"))
        assert_type(second, httpx2.Response)
        await second.aclose()
        async with transport as same:
            assert_type(same, BackendTransport)
        assert isinstance(transport, httpx.AsyncBaseTransport)
        assert isinstance(transport, httpx2.AsyncBaseTransport)
