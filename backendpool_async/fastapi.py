"""Balancers and pools that run as long as a FastAPI or Starlette application does."""

# Without `from __future__ import annotations`: FastAPI reads those of `__call__` below, and of an
# object that is called it does not know the module to look the names up in.
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, overload

from backendpool_async.balance.balancer import Balancer
from backendpool_async.extras import missing
from backendpool_async.pool import BackendPool
from backendpool_async.running import Runs, check_runs, running

try:
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection
except ModuleNotFoundError as _error:
    raise missing(__name__, "'backendpool-async[fastapi]'", _error) from _error

__all__ = ["FromState", "balancer_from_state", "balancer_lifespan", "pool_from_state"]

App = TypeVar("App", bound=Starlette)
State = Mapping[str, Any]
Given = Balancer | BackendPool | Callable[[], Balancer | BackendPool]

_ON_ROUTER: Final = "_backendpool_async"


@overload
def balancer_lifespan(
    balancers: Mapping[str, Given], *, required: bool = True, wrapping: None = None
) -> Callable[[Starlette], AbstractAsyncContextManager[State]]: ...


@overload
def balancer_lifespan(
    balancers: Mapping[str, Given],
    *,
    required: bool = True,
    wrapping: Callable[[App], AbstractAsyncContextManager[State | None]],
) -> Callable[[App], AbstractAsyncContextManager[State]]: ...


def balancer_lifespan(
    balancers: Mapping[str, Given],
    *,
    required: bool = True,
    wrapping: Callable[[App], AbstractAsyncContextManager[State | None]] | None = None,
) -> Callable[[App], AbstractAsyncContextManager[State]]:
    """Return a lifespan that keeps these running; for FastAPI, Starlette and their routers.

    Each is a `Balancer`, a `BackendPool` or a function that makes one, called at each start. They
    start in order and are closed in reverse, whatever one of them raises. A request finds each in
    ``request.state`` by its name; `balancer_from_state` and `pool_from_state` are for ``Depends``.
    An object is for one application at a time, on one event loop after the other; a function
    makes one for each. Of two balancers of one pool, the one that starts it also closes it, under
    the other if that runs longer: give both to one lifespan.

    When one cannot start, because the first refresh failed and there is nothing to serve, those
    before it are closed and the application does not start; with ``required=False`` it does, and
    its pool goes on trying. `wrapping` is a lifespan of your own: it begins when they run, ends
    before they are closed, and what it yields is added to the state.

    Raises TypeError for what is none of these, and for what is not by name.

    >>> from fastapi import Depends, FastAPI
    >>> from typing import Annotated
    >>> from backendpool_async import BackendPool, Balancer
    >>> api = Balancer(BackendPool.static(["10.0.0.1:8080"]))
    >>> app = FastAPI(lifespan=balancer_lifespan({"api": api}))
    >>> @app.get("/")
    ... async def where(api: Annotated[Balancer, Depends(balancer_from_state("api"))]) -> str:
    ...     return api.pick()
    >>> from fastapi.testclient import TestClient
    >>> with TestClient(app) as client:
    ...     client.get("/").json()
    '10.0.0.1:8080'
    """
    if not isinstance(balancers, Mapping):
        raise TypeError(f"{balancers!r} is no mapping of names, as in {{'api': balancer}}")
    for given in balancers.values():
        check_runs(given)

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[State]:
        state: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            for name, given in balancers.items():
                state[name] = await stack.enter_async_context(running(given, required=required))
            stack.enter_context(_known_to(app, dict(state)))
            if wrapping is not None:
                own = await stack.enter_async_context(wrapping(app))
                state |= {} if own is None else own
            yield state

    return lifespan


@dataclass(frozen=True, slots=True)
class FromState(Generic[Runs]):
    """A dependency: what a `balancer_lifespan` keeps running under this name.

    Two with the same name and kind are equal, so a test replaces one by
    ``app.dependency_overrides[balancer_from_state("api")] = lambda: other``.
    """

    name: str
    kind: type[Runs]

    async def __call__(self, connection: HTTPConnection) -> Runs:
        """Return it. Raises RuntimeError when it does not run in this application."""
        # Not a plain function: FastAPI would run that in a thread, at each request.
        found = connection.scope.get("state", {}).get(self.name)
        if found is None:
            found = _known_to_app_of(connection.scope, self.name)
        if isinstance(found, self.kind):
            return found
        kind = self.kind.__name__
        if found is not None:
            raise RuntimeError(f"{self.name!r} is no {kind} but {found!r}")
        raise RuntimeError(
            f"no {kind} {self.name!r} runs here: give it to the application, as in"
            f" lifespan=balancer_lifespan({{{self.name!r}: ...}}), and see that the lifespan runs"
            " (in tests: 'with TestClient(app)')"
        )


def balancer_from_state(name: str) -> FromState[Balancer]:
    """Return the dependency on the balancer of this name: HTTP, WebSocket, routers and sub-apps.

    It raises RuntimeError when there is none, as when the application's lifespan did not run.

    >>> from typing import Annotated
    >>> from fastapi import Depends
    >>> Api = Annotated[Balancer, Depends(balancer_from_state("api"))]
    >>> balancer_from_state("api") == balancer_from_state("api")
    True
    """
    return FromState(name, Balancer)


def pool_from_state(name: str) -> FromState[BackendPool]:
    """Return the dependency on the pool of this name, as `balancer_from_state` on a balancer."""
    return FromState(name, BackendPool)


@contextmanager
def _known_to(app: Starlette | None, balancers: State) -> Iterator[None]:
    # Also on the application: a transport that calls it without a server, as httpx has one, gives
    # its requests no state. A router alone is served without an application.
    router = getattr(app, "router", None)
    if router is None:
        yield
        return
    setattr(router, _ON_ROUTER, {**getattr(router, _ON_ROUTER, {}), **balancers})
    try:
        yield
    finally:
        # The lifespan of an included router is another one of the same application.
        left = getattr(router, _ON_ROUTER).items()
        setattr(router, _ON_ROUTER, {k: v for k, v in left if balancers.get(k) is not v})


def _known_to_app_of(scope: Mapping[str, Any], name: str) -> object:
    # Below a mount, the application is the mounted one, and the router that of the outermost.
    for router in (getattr(scope.get("app"), "router", None), scope.get("router")):
        found: object = getattr(router, _ON_ROUTER, {}).get(name)
        if found is not None:
            return found
    return None
