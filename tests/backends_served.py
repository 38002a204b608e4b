"""Applications under real servers, each in the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    MutableMapping,
)
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import hypercorn.asyncio
import hypercorn.config
import uvicorn
from aiohttp import web
from servers import until

# As the ASGI specification has them: what is in the messages depends on their type.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Served(NamedTuple):
    """Where an application is served, and how to end that before the block does."""

    address: str
    stop: Callable[[], Coroutine[Any, Any, None]]


@asynccontextmanager
async def served_by_uvicorn(
    app: Application,
    *,
    lifespan: str = "on",
    http: str | type[asyncio.Protocol] = "httptools",
    ws: str = "websockets-sansio",
    grace: float | None = 5.0,
    **options: Any,  # whatever uvicorn.Config takes
) -> AsyncIterator[Served]:
    """Serve an ASGI application with uvicorn; requests have `grace` seconds to end."""
    listening = _listening()
    config = uvicorn.Config(
        app,
        lifespan=lifespan,  # type: ignore[arg-type]  # a Literal of uvicorn's own
        http=http,
        ws=ws,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=grace,  # type: ignore[arg-type]  # seconds may be a fraction
        **options,
    )
    server = _Uvicorn(config)
    serving = asyncio.create_task(server.serve_to_the_end(listening))

    async def stop() -> None:
        server.should_exit = True
        await asyncio.wait({serving})

    try:
        await until(lambda: server.started or serving.done())
        if serving.done():
            serving.result()
            raise AssertionError("uvicorn did not start")
        yield Served(_address(listening), stop)
    finally:
        await stop()


class _Uvicorn(uvicorn.Server):
    async def serve_to_the_end(self, listening: socket.socket) -> None:
        with listening:
            try:
                await self.serve([listening])
            except SystemExit as error:
                # It would end pytest.
                raise RuntimeError("uvicorn did not start") from error

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served_by_hypercorn(
    app: Application,
    *,
    grace: float = 5.0,
    **options: Any,  # attributes of hypercorn.Config
) -> AsyncIterator[Served]:
    """Serve an ASGI application with hypercorn; requests have `grace` seconds to end."""
    listening = _listening()
    address = _address(listening)
    config = _HypercornConfig(listening)
    config.graceful_timeout = grace
    config.errorlog = logging.getLogger("hypercorn.error")
    for name, value in options.items():
        setattr(config, name, value)
    ending = asyncio.Event()
    serving = asyncio.create_task(
        hypercorn.asyncio.serve(app, config, shutdown_trigger=ending.wait)  # type: ignore[arg-type]  # its own type of messages
    )

    async def stop() -> None:
        ending.set()
        await asyncio.wait({serving})

    try:
        await _until_answered(address, serving)
        yield Served(address, stop)
    finally:
        await stop()
        listening.close()
        serving.result()


class _HypercornConfig(hypercorn.config.Config):
    def __init__(self, listening: socket.socket) -> None:
        super().__init__()
        self._listening = listening

    def create_sockets(self) -> hypercorn.config.Sockets:
        return hypercorn.config.Sockets([], [self._listening], [])


@asynccontextmanager
async def served_by_aiohttp(
    app: web.Application,
    *,
    grace: float = 5.0,
    **options: Any,  # of aiohttp.web.AppRunner
) -> AsyncIterator[Served]:
    """Serve an aiohttp.web application; requests have `grace` seconds to end."""
    options = {"handler_cancellation": True, "access_log": None, **options}
    runner = web.AppRunner(app, shutdown_timeout=grace, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield Served(f"{host}:{port}", runner.cleanup)
    finally:
        await runner.cleanup()


def _listening() -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0))
    # As a server of its own would have it: asyncio sets it for sockets that it makes itself only.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()
    return f"{host}:{port}"


async def _until_answered(address: str, serving: asyncio.Task[None]) -> None:
    """hypercorn tells nobody that it listens: the kernel does, and it answers once it started."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    # A request that is wrong in its first line is answered without the application.
    writer.write(b"?\r\n\r\n")
    answered = asyncio.create_task(reader.read())
    await asyncio.wait({answered, serving}, return_when=asyncio.FIRST_COMPLETED)
    answered.cancel()
    await asyncio.wait({answered})
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    if serving.done():
        serving.result()
        raise AssertionError("hypercorn did not start")
