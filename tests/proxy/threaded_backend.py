"""A backend in threads, for tests whose own loop is that of the command line."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from servers import PATIENCE

from backendpool_async import Backend


class ThreadedBackend(ThreadingHTTPServer):
    """Answers with JSON of the request's headers; ``/slow`` and ``/stream`` wait for `release`.

    ``/stream`` sends a first chunk before it waits, ``/broken`` a part of what it announces.
    """

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = threading.Event()
        self.release = threading.Event()

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.server_address[:2])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    server: ThreadedBackend

    def do_GET(self) -> None:
        if self.path == "/broken":
            self._begin("Content-Length", "1000")
            self.wfile.write(b"only this")
            return
        if self.path == "/stream":
            self._begin("Transfer-Encoding", "chunked")
            self.wfile.write(b"5\r\nfirst\r\n")
        if self.path in {"/slow", "/stream"}:
            self.server.asked.set()
            self.server.release.wait(PATIENCE)
        if self.path == "/stream":
            self.wfile.write(b"6\r\nsecond\r\n0\r\n\r\n")
            return
        body = json.dumps(dict(self.headers.items())).encode()
        self._begin("Content-Length", str(len(body)))
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        """Say nothing."""

    def _begin(self, framing: str, value: str) -> None:
        self.send_response(200)
        self.send_header(framing, value)
        # Closed unannounced, it may get the next request in the same moment.
        self.send_header("Connection", "close")
        self.end_headers()


@contextmanager
def threaded_backend() -> Iterator[ThreadedBackend]:
    """Run one until the block is left."""
    with ThreadedBackend() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            server.shutdown()
            thread.join()


@contextmanager
def asking(
    address: str,
    path: str = "/",
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """The answer to a request, as it begins."""
    backend = Backend(address)
    connection = http.client.HTTPConnection(backend.host, backend.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers or {})
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


def asked(address: str, path: str = "/", **request: str) -> tuple[int, bytes]:
    """Status and body of the answer to a request."""
    with asking(address, path, headers=request) as response:
        return response.status, response.read()
