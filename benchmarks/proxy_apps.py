"""One proxy written in Python, served in this process: ``proxy_apps KIND PORT BACKEND,...``."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import uvicorn
from aiohttp import web
from yarl import URL

from backendpool_async import BackendPool, Balancer
from backendpool_async.proxy import ReverseProxy

Send = Callable[[dict[str, Any]], Awaitable[None]]

_HOP_BY_HOP = {b"connection", b"host", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"}


class Thinnest:
    """What nobody can leave out: pick a backend, copy headers, stream the body of the answer."""

    def __init__(self, backends: list[str]) -> None:
        self._backends = itertools.cycle(backends)
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: dict[str, Any], _: Any, send: Send) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in _HOP_BY_HOP
        ]
        async with self._session.request(
            scope["method"],
            URL(f"http://{next(self._backends)}{target.decode()}", encoded=True),
            headers=headers,
            allow_redirects=False,
        ) as answer:
            await send(
                {
                    "type": "http.response.start",
                    "status": answer.status,
                    "headers": [
                        (name.lower(), value)
                        for name, value in answer.raw_headers
                        if name.lower() not in _HOP_BY_HOP
                    ],
                }
            )
            async for piece in answer.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def _ours(backends: list[str]) -> ReverseProxy:
    return ReverseProxy(Balancer(BackendPool.static(backends)))


def _asgi_app(kind: str, backends: list[str]) -> Any:
    if kind == "ours":
        return _ours(backends)
    if kind == "thinnest":
        return Thinnest(backends)
    if kind == "asgiproxy":
        from asgiproxy.__main__ import make_app  # only where it is measured

        return make_app(f"http://{backends[0]}")[0]
    from fastapi_proxy_lib.fastapi.app import reverse_http_app  # only where it is measured

    return reverse_http_app(base_url=f"http://{backends[0]}/")


async def _serve_aiohttp(port: int, backends: list[str]) -> None:
    proxy = _ours(backends)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", proxy.aiohttp_handler())
    async with proxy:
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        await asyncio.Event().wait()


async def _serve_streams(port: int) -> None:
    """A backend whose answers never end: a piece of 100 bytes every second."""

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /ready"):
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"64\r\n" + b"x" * 100 + b"\r\n")
            await asyncio.sleep(1)

    server = await asyncio.start_server(stream, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


async def _serve_bodies(port: int) -> None:
    """A backend that sends as many bytes as the path says, or counts those that it is sent."""
    piece = b"x" * 65_536

    async def transfer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        if method == "PUT":
            left = int(head.lower().partition("content-length:")[2].split()[0])
            while left and (read := await reader.read(len(piece))):
                left -= len(read)
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        else:
            size = 0 if path == "/ready" else int(path.strip("/"))
            writer.write(
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
            )
            for _ in range(size // len(piece)):
                writer.write(piece)
                await writer.drain()
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(transfer, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    kind, port, ports = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    backends = [f"127.0.0.1:{each}" for each in ports.split(",")]
    if kind == "streams":
        asyncio.run(_serve_streams(port))
    elif kind == "bodies":
        asyncio.run(_serve_bodies(port))
    elif kind == "ours-aiohttp":
        asyncio.run(_serve_aiohttp(port, backends))
    else:
        uvicorn.run(
            _asgi_app(kind, backends),
            host="127.0.0.1",
            port=port,
            http="httptools",
            loop="asyncio",
            backlog=4096,
            access_log=False,
            log_level="error",
            server_header=False,
            date_header=False,
            lifespan="auto",
        )


if __name__ == "__main__":
    main()
