"""Real servers on the loopback interface that a test turns sick and well again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from backendpool_async import Backend

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class CheckedBackend:
    """An HTTP server that answers with a `status`, after a `delay`; what it was sent is kept."""

    def __init__(self) -> None:
        self.status = 200
        self.delay = 0.0
        self.headers: dict[str, str] = {}
        self.requests: list[web.Request] = []
        self.connections: set[object] = set()
        self.backend = Backend("127.0.0.1:1")

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        await asyncio.sleep(self.delay)
        return web.Response(status=self.status, headers=self.headers, text="said\n" * 10)


@asynccontextmanager
async def http_server(
    host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[CheckedBackend]:
    checked = CheckedBackend()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", checked.answer)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0, ssl_context=tls).start()
        checked.backend = backend_at(runner.addresses[0])
        yield checked
    finally:
        await runner.cleanup()


@asynccontextmanager
async def tcp_server(serve: Serve, host: str = "127.0.0.1") -> AsyncIterator[Backend]:
    serving: set[asyncio.Task[None]] = set()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with contextlib.suppress(ConnectionError):
                await serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            serving.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(served, host, 0)
    try:
        yield backend_at(server.sockets[0].getsockname())
    finally:
        server.close()
        # What the kernel had accepted by now gets its task.
        await asyncio.sleep(0.02)
        for task in list(serving):
            task.cancel()
        if serving:
            await asyncio.wait(serving)
        await server.wait_closed()


def backend_at(address: tuple[str, int]) -> Backend:
    host, port = address[:2]
    return Backend(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def nobody() -> Backend:
    """Return an address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return backend_at(probe.getsockname())
