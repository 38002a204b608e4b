"""One process that serves an ASGI app under uvicorn until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Final

import uvicorn

from backendpool_async.balance.balancer import Balancer
from backendpool_async.proxy.refusal import BrokenOff
from backendpool_async.proxy.server_protocol import BoundedProtocol
from backendpool_async.proxy.settings import ProxyLimits
from backendpool_async.status import StatusApp

_Message = MutableMapping[str, Any]  # what is in it depends on its type
App = Callable[
    [_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]],
    Awaitable[None],
]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
# As shells number the end by a signal.
_BY_SIGNAL: Final = 128
_BACKLOG: Final = 2048
# Longer than the proxies before this one keep an idle connection (60 s is common).
_KEEP_ALIVE: Final = 75


async def serve_until_signalled(
    app: App,
    listening: socket.socket,
    *,
    drain_timeout: float,
    ready: Callable[[], None],
) -> int:
    """Serve until SIGTERM or SIGINT, let what is under way end, and return the exit status.

    At the first signal nothing new is accepted, WebSockets are closed with 1012, and requests have
    `drain_timeout` seconds to end: 0 is returned. The second signal ends everything at once: 128
    and its number. `ready` is called when requests are answered. `listening` is closed.
    """
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        # It is not asked which, only whether.
        ws="websockets-sansio",
        # The proxy has its own limit, and the same.
        ws_max_size=ProxyLimits().message_size,
        lifespan="off",
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=drain_timeout,  # type: ignore[arg-type]  # parts of a second, too
        log_config=None,
        access_log=False,
        # Who the client is, and what the backend said, is for the proxy to say.
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
    server = _Server(config, ready)
    with listening, _only_real_errors(), server.stopping_at_signals():
        serving = asyncio.create_task(server.serve([listening]))
        hurried = asyncio.create_task(server.hurried.wait())
        try:
            await asyncio.wait({serving, hurried}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
                return 0
            return _BY_SIGNAL + server.last_signal
        finally:
            await _ended({serving, hurried})
            # At the end of the drain timeout or before it, some may be left.
            await _ended(set(server.server_state.tasks))
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            # Which closes them in the next round of the loop.
            await asyncio.sleep(0)


def with_status(app: App, path: str, balancer: Balancer) -> App:
    """Return the app with a status of the balancer at `path` (``/status``)."""
    status = StatusApp(balancer)

    async def routed(
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        asked = scope.get("path", "")
        if asked == path or asked.startswith(f"{path}/"):
            await status({**scope, "root_path": path}, receive, send)
        else:
            await app(scope, receive, send)

    return routed


class _Server(uvicorn.Server):
    """uvicorn, but for what signals do."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.last_signal = 0
        self.hurried = asyncio.Event()
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def stopping_at_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def _signalled(self, number: int) -> None:
        self.last_signal = number
        if self.should_exit:
            self.hurried.set()
        self.should_exit = True


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


@contextlib.contextmanager
def _only_real_errors() -> Iterator[None]:
    """Let uvicorn log its errors, but no answers that were broken off, which the proxy tells of."""
    logger = logging.getLogger("uvicorn.error")
    level = logger.level
    logger.setLevel(logging.ERROR)
    logger.addFilter(_is_real)
    try:
        yield
    finally:
        logger.removeFilter(_is_real)
        logger.setLevel(level)


def _is_real(record: logging.LogRecord) -> bool:
    if record.exc_info is None:
        # That it cancels what the drain timeout left.
        return False
    return not isinstance(record.exc_info[1], (BrokenOff, asyncio.CancelledError))
