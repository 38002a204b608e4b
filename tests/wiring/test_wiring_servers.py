"""Applications with balancers under real servers, in the test's own loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated

import httpx
import pytest
from backends_served import Served, served_by_hypercorn, served_by_uvicorn
from fastapi import Depends, FastAPI

from backendpool_async import BackendPool, Balancer
from backendpool_async.fastapi import balancer_from_state, balancer_lifespan
from backendpool_async.testing import ScriptedSource

A = "10.0.0.1:80"


@pytest.mark.parametrize("served", [served_by_uvicorn, served_by_hypercorn])
async def test_it_runs_from_the_start_of_the_server_to_its_end(
    served: Callable[[FastAPI], AbstractAsyncContextManager[Served]],
) -> None:
    pool = BackendPool(ScriptedSource([A]))
    app = FastAPI(lifespan=balancer_lifespan({"api": Balancer(pool)}))

    @app.get("/")
    async def home(api: Annotated[Balancer, Depends(balancer_from_state("api"))]) -> str:
        return api.pick()

    async with served(app) as server:
        assert pool.is_running
        async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
            assert (await client.get("/")).json() == A
    assert not pool.is_running
