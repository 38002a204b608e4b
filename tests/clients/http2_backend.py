"""A backend that speaks HTTP/2, as far as tests of clients need it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import h2.settings
from backends import RawBackend, raw_backend


class Http2Backend:
    """Answers each stream with the number of its connection, counted from 1.

    * ``/held``: when `release` is set. ``/one``: when it is its turn, see `let_one`.
    * ``/503``: with that status. ``/part``: the first half of a body, and no more.
    * ``/large``: with 80 KiB.
    * ``/away``: after a GOAWAY that says this was the last stream. ``/reset``: RST_STREAM.
    * ``/ping``: at once, and when `release` is set there comes a PING.

    `streams`: how many there may be at once. `lives`: after so many streams a connection says
    GOAWAY, and what came later on it was not served.
    """

    def __init__(self, streams: int, lives: int | None) -> None:
        self.release = asyncio.Event()
        self._turns = asyncio.Semaphore(0)
        self.targets: list[tuple[int, str]] = []
        self.authorities: list[str] = []
        self.bodies: list[bytes] = []
        self.raw: RawBackend
        self._streams = streams
        self._lives = lives
        self._connections = 0

    def let_one(self) -> None:
        """Let the ``/one`` that came first be answered."""
        self._turns.release()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one connection."""
        self._connections += 1
        number = self._connections
        tls = writer.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            await self._serve_http1(reader, writer, number)
            return
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        http.local_settings.update({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self._streams})
        http.initiate_connection()
        writer.write(http.data_to_send())
        served = 0
        async with asyncio.TaskGroup() as tasks:
            while data := await reader.read(65536):
                for event in http.receive_data(data):
                    match event:
                        case h2.events.RequestReceived():
                            served += 1
                            if self._lives is not None and served > self._lives:
                                http.close_connection(last_stream_id=max(0, 2 * self._lives - 1))
                                continue
                            tasks.create_task(self._answer(http, writer, event, number))
                        case h2.events.DataReceived():
                            self.bodies.append(event.data or b"")
                            http.acknowledge_received_data(
                                event.flow_controlled_length or 0, event.stream_id or 0
                            )
                writer.write(http.data_to_send())

    async def _answer(
        self,
        http: h2.connection.H2Connection,
        writer: asyncio.StreamWriter,
        event: h2.events.RequestReceived,
        number: int,
    ) -> None:
        headers = {
            bytes(name).decode(): bytes(value).decode() for name, value in event.headers or ()
        }
        target, stream = headers[":path"], event.stream_id or 0
        self.targets.append((number, target))
        self.authorities.append(headers[":authority"])
        if target == "/held":
            await self.release.wait()
        elif target == "/one":
            await self._turns.acquire()
        if target == "/reset":
            http.reset_stream(stream)
        else:
            status = "503" if target == "/503" else "200"
            http.send_headers(stream, [(":status", status), ("x-connection", str(number))])
            if target == "/large":
                for _ in range(5):
                    http.send_data(stream, b"x" * 16_384)
                http.end_stream(stream)
            else:
                http.send_data(stream, str(number).encode(), end_stream=target != "/part")
        if target == "/away":
            http.close_connection(last_stream_id=stream)
        writer.write(http.data_to_send())
        if target == "/ping":
            await self.release.wait()
            http.ping(b"anybody?")
            writer.write(http.data_to_send())

    async def _serve_http1(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.targets.append((number, head.split()[1].decode()))
            if head.startswith(b"GET /held"):
                await self.release.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)


@asynccontextmanager
async def http2_backend(
    *, tls: ssl.SSLContext | None = None, streams: int = 100, lives: int | None = None
) -> AsyncIterator[Http2Backend]:
    """Run an `Http2Backend`: with TLS by ALPN, without it for those who know."""
    backend = Http2Backend(streams, lives)
    async with raw_backend(backend.serve, tls=tls) as backend.raw:
        with contextlib.suppress(ConnectionError):
            yield backend
