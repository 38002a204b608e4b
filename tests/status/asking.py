"""Asking an ASGI application without a server."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from backendpool_async.status import StatusApp


class Answered(NamedTuple):
    """What an application answered."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        """What the body says."""
        return json.loads(self.body)


async def ask(
    app: StatusApp, path: str, *, method: str = "GET", query: str = "", root_path: str = ""
) -> Answered:
    """Return the answer to a request."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "root_path": root_path,
    }
    start, body = await messages(app, scope, {"type": "http.request"})
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answered(start["status"], headers, body["body"].decode())


async def messages(
    app: StatusApp, scope: dict[str, Any], *received: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return what an application sends when it receives these."""
    coming = list(received)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return coming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def status_of(app: StatusApp, query: str = "") -> Any:
    """Return the data of all its pools."""
    answered = await ask(app, "/status.json", query=query)
    assert answered.status == 200, answered.body
    return answered.json["pools"]
