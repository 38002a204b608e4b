"""Proxies in one process each, pinned to a core: ours, servers, and other libraries."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.knot import free_port
from benchmarks.proxies import found


@dataclass(frozen=True)
class Contestant:
    """A proxy: its name, the command for a directory, a port and the backends' ports."""

    name: str
    command: Callable[[str, int, Sequence[int]], list[str]]
    program: str | None = None
    module: str | None = None
    many: bool = True

    def before(self, backends: Sequence[int]) -> Callable[[str, int], list[str]]:
        """Return its command for a directory and a port, with these backends."""
        chosen = backends if self.many else backends[:1]
        return lambda directory, port: self.command(directory, port, chosen)

    @property
    def is_there(self) -> bool:
        """Whether what it needs is installed."""
        if self.program is not None:
            return found(self.program) is not None
        return self.module is None or importlib.util.find_spec(self.module) is not None


def nginx_backends(directory: str, ports: Sequence[int], body: str) -> list[str]:
    """Return the command of an nginx that answers with the body on each of the ports."""
    servers = "".join(
        f"server {{ listen 127.0.0.1:{port} backlog=4096;"
        f" location / {{ default_type text/plain; return 200 '{body}'; }} }}"
        for port in ports
    )
    return _nginx(directory, "backends", servers)


def _nginx_proxy(directory: str, port: int, backends: Sequence[int]) -> list[str]:
    upstreams = "".join(f"server 127.0.0.1:{each};" for each in backends)
    return _nginx(
        directory,
        "proxy",
        f"upstream back {{ {upstreams} keepalive 128; }}"
        f" server {{ listen 127.0.0.1:{port} backlog=4096; location / {{"
        " proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $host;"
        " proxy_set_header X-Forwarded-For $remote_addr;"
        " proxy_pass http://back; } }",
    )


def _nginx(directory: str, name: str, servers: str) -> list[str]:
    scratch = "".join(
        f"{kind}_temp_path {directory}/{name}-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = os.path.join(directory, f"{name}.conf")
    with open(path, "w", encoding="ascii") as file:
        file.write(
            f"daemon off; master_process off; pid {directory}/{name}.pid;"
            " events { worker_connections 8192; }"
            f" http {{ access_log off; keepalive_requests 100000000; {scratch} {servers} }}\n"
        )
    return [found("nginx") or "nginx", "-p", directory, "-c", path, "-e", "stderr"]


def _haproxy(directory: str, port: int, backends: Sequence[int]) -> list[str]:
    path = os.path.join(directory, "haproxy.cfg")
    servers = "".join(f"  server s{each} 127.0.0.1:{each}\n" for each in backends)
    with open(path, "w", encoding="ascii") as file:
        file.write(
            "global\n  nbthread 1\n  maxconn 8192\n"
            "defaults\n  mode http\n  option forwardfor\n  http-reuse always\n"
            "  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n"
            f"frontend front\n  bind 127.0.0.1:{port}\n  default_backend back\n"
            f"backend back\n  balance roundrobin\n{servers}"
        )
    return [found("haproxy") or "haproxy", "-db", "-f", path]


def _caddy(directory: str, port: int, backends: Sequence[int]) -> list[str]:
    path = os.path.join(directory, "Caddyfile")
    upstreams = " ".join(f"127.0.0.1:{each}" for each in backends)
    with open(path, "w", encoding="ascii") as file:
        file.write(
            "{\n admin off\n persist_config off\n auto_https off\n"
            f" storage file_system {directory}/caddy\n log {{\n  level ERROR\n }}\n}}\n"
            f"http://127.0.0.1:{port} {{\n reverse_proxy {upstreams} {{\n"
            "  lb_policy round_robin\n }\n}\n"
        )
    return [found("caddy") or "caddy", "run", "--adapter", "caddyfile", "--config", path]


def _python(kind: str) -> Callable[[str, int, Sequence[int]], list[str]]:
    def command(_: str, port: int, backends: Sequence[int]) -> list[str]:
        ports = ",".join(map(str, backends))
        return [sys.executable, "-m", "benchmarks.proxy_apps", kind, str(port), ports]

    return command


OURS = "ours, under uvicorn"
OURS_AIOHTTP = "ours, in aiohttp.web"
THINNEST = "the thinnest ASGI + aiohttp forwarder"
ASGIPROXY = "asgiproxy"
FASTAPI_PROXY_LIB = "fastapi-proxy-lib"
CONTESTANTS = (
    Contestant(OURS, _python("ours")),
    Contestant(OURS_AIOHTTP, _python("ours-aiohttp")),
    Contestant(THINNEST, _python("thinnest")),
    Contestant(ASGIPROXY, _python("asgiproxy"), module="asgiproxy", many=False),
    Contestant(
        FASTAPI_PROXY_LIB, _python("fastapi-proxy-lib"), module="fastapi_proxy_lib", many=False
    ),
    Contestant("nginx", _nginx_proxy, program="nginx"),
    Contestant("HAProxy", _haproxy, program="haproxy"),
    Contestant("Caddy", _caddy, program="caddy"),
)


@contextlib.contextmanager
def running(
    command: Callable[[str, int], list[str]], core: int, path: str = "/"
) -> Iterator[tuple[int, int]]:
    """Run a server on one core until the block is left; yield its port and its process id."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(
            command(directory, port),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Go reads it at its start, the others are kept there by the kernel.
            env={**os.environ, "GOMAXPROCS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        try:
            _until_answered(port, process, path)
            yield port, process.pid
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def asked(port: int, path: str = "/") -> tuple[int, bytes]:
    """Return status and body of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _until_answered(port: int, process: subprocess.Popen[bytes], path: str) -> None:
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if asked(port, path)[0] == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} did not begin to answer")
