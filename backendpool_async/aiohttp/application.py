"""Balancers and pools that run as long as an aiohttp.web application does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from aiohttp import web

from backendpool_async.running import Runs, check_runs, running


def balancer_context(
    key: web.AppKey[Runs], balancer: Runs | Callable[[], Runs], *, required: bool = True
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return a cleanup context that keeps a balancer running, and the application's `key` for it.

    The balancer is a `Balancer`, a `BackendPool` or a function that makes one, called at the start.
    An application takes any number of them; they start in order and are closed in reverse. When one
    cannot start, because the first refresh failed and there is nothing to serve, the application
    does not start; with ``required=False`` it does, and its pool goes on trying. In a handler of a
    sub-application, ``request.config_dict[key]`` finds the parent's, too. Of two balancers of one
    pool, the one that starts it also closes it, under the other if that runs longer: give both to
    one application.

    Raises TypeError for what is none of these.

    >>> from aiohttp import web
    >>> from backendpool_async import BackendPool, Balancer
    >>> API = web.AppKey("API", Balancer)
    >>> app = web.Application()
    >>> api = Balancer(BackendPool.static(["10.0.0.1:8080"]))
    >>> app.cleanup_ctx.append(balancer_context(API, api))
    >>> async def where(request: web.Request) -> web.Response:
    ...     return web.Response(text=request.app[API].pick())
    """
    check_runs(balancer)

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with running(balancer, required=required) as started:
            app[key] = started
            yield

    return context
