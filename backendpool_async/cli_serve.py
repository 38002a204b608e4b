"""The reverse proxy on the command line."""

from __future__ import annotations

import argparse
import importlib.util
import re
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from backendpool_async import (
    Balancer,
    Check,
    HealthChecks,
    LeastRequest,
    Maglev,
    PeakEwma,
    Policy,
    Random,
    RoundRobin,
)
from backendpool_async.keywords import count, seconds, seconds_or_0
from backendpool_async.retries import Retries

if TYPE_CHECKING:
    from backendpool_async.proxy import ProxyRequest, ReverseProxy

_FAILED: Final = 1
_WRONG_USAGE: Final = 2
_NEEDS: Final = ("aiohttp", "httptools", "uvicorn", "websockets")
_POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    "round-robin": RoundRobin,
    "random": Random,
    "least-request": LeastRequest,
    "peak-ewma": PeakEwma,
    "maglev": Maglev,
}
_SIZE: Final = re.compile(r"([1-9][0-9]{0,15})([kMG]?)", re.ASCII)
_FACTORS: Final = {"": 1, "k": 2**10, "M": 2**20, "G": 2**30}
_HIGHEST_PORT: Final = 65535
_STATUSES: Final = """\
At SIGTERM and Ctrl-C it stops accepting, closes WebSockets with 1012, lets
requests end for as long as --drain-timeout says, and exits with 0; a second
signal ends it at once.

exit status: 0 stopped; 1 it cannot listen; 2 wrong usage or URL; 130 or 143
the second Ctrl-C or SIGTERM
"""

Runner = Callable[[Coroutine[Any, Any, int]], int]


def add_options(command: argparse.ArgumentParser, check: Callable[[str], Check]) -> None:
    """Give the command its options; `check` reads the word for a check."""
    _add_backend_options(command, check)
    _add_network_options(command)
    _add_limits(command)


def epilog(urls: str) -> str:
    """Return what the help ends with."""
    return f"{urls}\n{_STATUSES}"


def serve(chosen: argparse.Namespace, run: Callable[[Coroutine[Any, Any, int]], int]) -> int:
    """Serve as the command line says, and return the exit status; `run` runs a coroutine."""
    missing = [name for name in _NEEDS if not importlib.util.find_spec(name)]
    if missing:
        return _failed(
            _WRONG_USAGE,
            f"it needs {' and '.join(missing)}: pip install 'backendpool-async[proxy]'",
        )
    try:
        balancer = Balancer(
            chosen.pool,
            _POLICIES[chosen.policy](),
            checks=None if chosen.check is None else HealthChecks(chosen.check),
        )
        proxy = _proxy(chosen, balancer)
    except ValueError as error:
        return _failed(_WRONG_USAGE, str(error))
    try:
        listening = _listening(*chosen.listen)
    except OSError as error:
        return _failed(_FAILED, str(error))
    with listening:
        return run(_served(chosen, balancer, proxy, listening))


def _add_backend_options(command: argparse.ArgumentParser, check: Callable[[str], Check]) -> None:
    add = command.add_argument
    add(
        "--listen",
        metavar="HOST:PORT",
        type=_read_by(_address),
        default="127.0.0.1:8080",
        help="where to accept connections; port 0: a free one (default: 127.0.0.1:8080)",
    )
    add(
        "--policy",
        choices=_POLICIES,
        default="round-robin",
        help="how a backend is chosen (default: round-robin); maglev: by the client's address,"
        " which trusted proxies tell",
    )
    add("--check", metavar="CHECK", type=check, help="check backends: tcp, or http:/path")
    add(
        "--idempotent-retries",
        action="store_true",
        help="try GET, HEAD, OPTIONS, PUT and DELETE without a body elsewhere also when they broke"
        " off before an answer; other requests only when nothing was sent",
    )


def _add_network_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--host",
        metavar="HOST",
        default="preserve",
        help="what backends get as Host: preserve (the client's, the default), backend (their own"
        " address), or a name",
    )
    add(
        "--trusted-proxies",
        metavar="NETWORKS",
        type=_words,
        default=(),
        help="networks of proxies before this one, with commas between: what they say in"
        " X-Forwarded-For and the like is believed",
    )
    add(
        "--allow-networks",
        metavar="NETWORKS",
        type=_words,
        help="ask no backend outside of these networks; not together with --check",
    )


def _add_limits(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--max-body",
        metavar="SIZE",
        type=_read_by(_size),
        help="refuse longer request bodies: bytes, or as in 512k, 10M, 1G",
    )
    add(
        "--concurrency",
        metavar="N",
        type=_read_by(lambda text: count("--concurrency", _whole_number(text))),
        default=10_000,
        help="answer 503 when so many requests are under way (default: 10000)",
    )
    add(
        "--idle-timeout",
        metavar="SECONDS",
        type=_read_by(lambda text: seconds("--idle-timeout", _number(text))),
        default=60.0,
        help="answer 504, or break off, when nothing has moved for so long (default: 60)",
    )
    add(
        "--total-timeout",
        metavar="SECONDS",
        type=_read_by(lambda text: seconds("--total-timeout", _number(text))),
        help="how long a request and its answer may take at most; not for WebSockets",
    )
    add(
        "--drain-timeout",
        metavar="SECONDS",
        type=_read_by(lambda text: seconds_or_0("--drain-timeout", _number(text))),
        default=30.0,
        help="how long requests may go on after SIGTERM (default: 30)",
    )
    add(
        "--status",
        metavar="/PATH",
        type=_read_by(_path),
        help="show pool and backends at this path, to everybody who can connect",
    )


def _proxy(chosen: argparse.Namespace, balancer: Balancer) -> ReverseProxy:
    from backendpool_async.proxy import ProxyLimits, ReverseProxy  # an extra
    from backendpool_async.proxy.client_address import client_address
    from backendpool_async.proxy.networks import Networks

    trusted = Networks("trusted_proxies", chosen.trusted_proxies)

    def client(request: ProxyRequest) -> str | None:
        return client_address(request, trusted)

    return ReverseProxy(
        balancer,
        host=chosen.host,
        trusted_proxies=chosen.trusted_proxies,
        allow_networks=chosen.allow_networks,
        limits=ProxyLimits(
            body_size=chosen.max_body,
            idle_timeout=chosen.idle_timeout,
            total_timeout=chosen.total_timeout,
            concurrent_requests=chosen.concurrency,
        ),
        retries=Retries(idempotent=chosen.idempotent_retries),
        key=client if chosen.policy == "maglev" else None,
    )


async def _served(
    chosen: argparse.Namespace, balancer: Balancer, proxy: ReverseProxy, listening: socket.socket
) -> int:
    from backendpool_async.proxy.server import serve_until_signalled, with_status  # an extra

    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host

    def ready() -> None:
        print(f"listening on http://{shown}:{port}", flush=True)

    async with proxy:
        return await serve_until_signalled(
            proxy if chosen.status is None else with_status(proxy, chosen.status, balancer),
            listening,
            drain_timeout=chosen.drain_timeout,
            ready=ready,
        )


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(address[:2], family=family)
    except OSError as error:
        # asyncio's and Python's own say once more where, in brackets.
        why = str(error.strerror).partition(" (")[0]
        raise OSError(f"cannot listen on {host}:{port}: {why}") from error
    # Accepted connections inherit it. asyncio sets it for its own sockets only, and without it the
    # body of an answer waits 40 ms for the client to acknowledge the head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _failed(status: int, why: str) -> int:
    print(f"backendpool serve: {why}", file=sys.stderr)
    return status


def _read_by(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Have argparse say why a word is wrong."""

    def reading(text: str) -> Any:
        try:
            return read(text)
        except (ValueError, TypeError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return reading


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if (
        not colon
        or not host
        or (":" in host and not bracketed)
        or not (port.isascii() and port.isdigit() and int(port) <= _HIGHEST_PORT)
    ):
        raise ValueError(f"{text!r} is not HOST:PORT")
    try:
        # As looking it up would.
        host.encode("idna")
    except UnicodeError:
        raise ValueError(f"{text!r} is not HOST:PORT: {host!r} is no host") from None
    return host[1:-1] if bracketed else host, int(port)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number of seconds") from None


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for each in text.split(",") if (word := each.strip()))


def _size(text: str) -> int:
    size = _SIZE.fullmatch(text)
    if size is None:
        raise ValueError(f"{text!r} is no size: bytes, or as in 512k, 10M, 1G")
    return int(size[1]) * _FACTORS[size[2]]


def _path(text: str) -> str:
    path = text.rstrip("/")
    if not path.startswith("/") or "?" in path or "#" in path:
        raise ValueError(f"{text!r} is no path such as /status")
    return path
