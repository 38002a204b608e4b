"""StatusApp: the status as an ASGI application, which needs no framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from backendpool_async.metrics.reading import Measured
from backendpool_async.status.responder import Responder, Response, refusal

# ASGI 3: its messages are dictionaries whose values differ in type.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class StatusApp:
    """Shows pools and balancers: a page for people, which keeps itself up to date, and its data.

    An ASGI 3 application to mount anywhere, as ``app.mount("/status", StatusApp(api=balancer))``.
    ``GET /`` is the page, which loads nothing from elsewhere, and ``GET /status.json`` its data:
    of each balancer what `Balancer.explain` tells, of a pool without one its list and what changed
    in it since this was made, and of both how old the list is and why the latest refresh failed. Of
    each, at most 200 backends are told, those in trouble first: ``?limit=`` tells up to 1,000,
    ``?match=`` only those whose address contains it. ``GET /metrics`` is `prometheus_text`.
    Anything else is answered with 404, other methods than GET and HEAD with 405.

    It shows the addresses of backends and the texts of errors to whoever may see it: who that is,
    is for the application to decide.

    Nothing is started or closed by it. `title` is the heading of the page; each is called by its
    keyword, or else as errors and logs call its source. Raises TypeError for what is neither a
    balancer nor a pool, ValueError when two have one name.

    >>> from backendpool_async import BackendPool
    >>> app = StatusApp(api=BackendPool.static(["10.0.0.1:8080"]), title="Shop")
    """

    def __init__(self, *measured: Measured, title: str = "Backends", **by_name: Measured) -> None:
        self._responder = Responder(measured, by_name, title)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI has it; raises ValueError for a scope it does not know."""
        match scope["type"]:
            case "http":
                await self._serve(scope, send)
            case "websocket":
                await receive()
                # Before it is accepted, this refuses the handshake with 403.
                await send({"type": "websocket.close", "code": 1000})
            case "lifespan":
                await _live(receive, send)
            case other:
                raise ValueError(f"a status is not for the ASGI scope {other!r}")

    async def _serve(self, scope: Message, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD"):
            query = scope.get("query_string", b"").decode("latin-1")
            response = await self._responder.respond(_path_below_mount(scope), query)
        else:
            response = refusal(405, "there is only GET and HEAD", allow="GET, HEAD")
        await _send(response, send, with_body=scope["method"] != "HEAD")


def _path_below_mount(scope: Message) -> str:
    # The path has the mount's in it, since ASGI 2.2; servers and frameworks from before leave it.
    path: str = scope["path"]
    prefix = scope.get("root_path", "").rstrip("/")
    if path == prefix or path.startswith(f"{prefix}/"):
        return path[len(prefix) :]
    return path


async def _send(response: Response, send: Send, *, with_body: bool) -> None:
    headers = {**response.headers, "content-length": str(len(response.body))}
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    body = response.body if with_body else b""
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
