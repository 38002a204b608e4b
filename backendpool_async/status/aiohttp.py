"""The status for aiohttp.web (extra ``aiohttp``)."""

from __future__ import annotations

from backendpool_async.extras import missing
from backendpool_async.metrics.reading import Measured
from backendpool_async.status.responder import PATHS, Responder

try:
    from aiohttp import web
except ModuleNotFoundError as _error:
    raise missing(__name__, "'backendpool-async[aiohttp]'", _error) from _error


def status_routes(
    *measured: Measured, path: str = "/status", title: str = "Backends", **by_name: Measured
) -> list[web.RouteDef]:
    """Return routes for ``app.add_routes``: what `StatusApp` shows, at `path` and below.

    An empty `path` is for a sub-application, which has one already. `title`, the names, and
    what is raised are those of `StatusApp`.

    >>> from aiohttp import web
    >>> from backendpool_async import BackendPool
    >>> app = web.Application()
    >>> routes = app.add_routes(status_routes(api=BackendPool.static(["10.0.0.1:8080"])))
    """
    if not isinstance(path, str):
        raise TypeError(f"path is a str, not {path!r}; it names no pool")
    responder = Responder(measured, by_name, title)
    prefix = path.rstrip("/")

    def route(below: str) -> web.RouteDef:
        async def handler(request: web.Request) -> web.Response:
            response = await responder.respond(below, request.rel_url.raw_query_string)
            return web.Response(
                status=response.status, headers=response.headers, body=response.body
            )

        return web.get(prefix + below, handler)

    return [route(below) for below in PATHS]
