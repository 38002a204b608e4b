"""The command line: print the list that a URL leads to, once or at every change, or see a demo."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from backendpool_async import (
    Backend,
    BackendPool,
    BackendPoolError,
    Check,
    NoBackends,
    Snapshot,
    SourceError,
    __version__,
)
from backendpool_async.cli_ends import (
    INTERRUPTED,
    NOBODY_READS,
    discard_output,
    one_ctrl_c,
    until_ended,
)
from backendpool_async.cli_health import check_of, watch_health
from backendpool_async.cli_serve import add_options, epilog, serve
from backendpool_async.errors import counted

_FAILED: Final = 1
_WRONG_USAGE: Final = 2

_DEMO_NEEDS: Final = {
    "aiohttp": "aiohttp",
    "dns": "dnspython",
    "rich": "rich",
    "websockets": "websockets",
} | ({"asyncinotify": "asyncinotify"} if sys.platform == "linux" else {})

_URLS: Final = """\
URLs (quote them for the shell):
  static:10.0.0.1:80,10.0.0.2:80            a fixed list
  env:API_BACKEND                           API_BACKEND_0, API_BACKEND_1, ...
  file:backends.txt?watch=true              one host:port a line; /absolute too
  dns://api.internal:8080?poll_interval=10  the addresses of a name
The query takes the keywords of the Python constructors: poll_interval, timeout,
empty_after, max_backends, initial, max_shrink; watch for a file; family,
nameservers, resolver, min_ttl for a DNS name.
"""
_JSON: Final = "time, generation, backends, added, removed, error"
_STATUSES: Final = """\
exit status: 0 done; 1 the source failed or says there are none; 2 wrong usage
or URL; 129 SIGHUP; 130 Ctrl-C; 141 nobody reads the output; 143 SIGTERM
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; argparse's own exits are SystemExit."""
    try:
        with one_ctrl_c():
            try:
                chosen = _parser().parse_args(arguments)
                status: int = chosen.run(chosen)
                return status
            finally:
                # Left to the interpreter's exit, a failure to write would be a traceback.
                print(end="", flush=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        discard_output()
        return NOBODY_READS
    except (BackendPoolError, OSError) as error:
        print(f"backendpool: {error}", file=sys.stderr)
        if isinstance(error, OSError):
            discard_output()
        return _FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="backendpool",
        description="The live list of a service's backends, on the command line.",
        epilog=f"{_URLS}\n{_STATUSES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_lists(commands)
    serving = commands.add_parser(
        "serve",
        help="be a reverse proxy for HTTP and WebSockets before the backends of the list",
        description="Be a reverse proxy for HTTP and WebSockets before the backends of the list,"
        " which is read at each request.",
        epilog=epilog(_URLS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serving.add_argument("pool", metavar="URL", type=_pool, help="where the backends are listed")
    add_options(serving, _check)
    serving.set_defaults(run=_serve)
    demo = commands.add_parser(
        "demo",
        help="see backends deployed and killed under load, in 10 seconds",
        description="Send a steady load through a proxy to three backends, while they are deployed"
        " anew and killed and their lists break; all are the demo's own. Takes about 10 seconds.",
    )
    demo.set_defaults(run=_demo)
    return parser


def _add_lists(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, run, what, also in (
        ("resolve", _resolve, "print the list once, one backend a line", ""),
        (
            "watch",
            _watch,
            "print the list, and then every change until Ctrl-C",
            "; with --health all that is known about each backend",
        ),
    ):
        command = commands.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            epilog=f"{_URLS}\n{_STATUSES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument(
            "pool", metavar="URL", type=_pool, help="where the backends are listed"
        )
        command.add_argument(
            "--json",
            action="store_true",
            help=f"print an object a line: {_JSON}{also}",
        )
        command.set_defaults(run=run)
        if name == "watch":
            command.add_argument(
                "--health",
                action="store_true",
                help="check every backend, and print what is known about each",
            )
            command.add_argument(
                "--check",
                metavar="CHECK",
                type=_check,
                help="with --health: tcp (the default), or http:/path",
            )


def _pool(url: str) -> BackendPool:
    try:
        return BackendPool.from_url(url)
    except (ValueError, TypeError, ImportError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _check(text: str) -> Check:
    try:
        return check_of(text)
    except (ValueError, ImportError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _resolve(chosen: argparse.Namespace) -> int:
    return until_ended(_resolved(chosen.pool, _Report(as_json=chosen.json)))


def _watch(chosen: argparse.Namespace) -> int:
    if chosen.health:
        check = chosen.check or check_of("tcp")
        return until_ended(_watched_health(chosen.pool, check, as_json=chosen.json))
    if chosen.check is not None:
        print("backendpool watch: --check is only for --health", file=sys.stderr)
        return _WRONG_USAGE
    return until_ended(_watched(chosen.pool, _Report(as_json=chosen.json)))


def _serve(chosen: argparse.Namespace) -> int:
    return serve(chosen, lambda work: asyncio.run(_with_log(work)))


def _demo(_: argparse.Namespace) -> int:
    missing = [name for room, name in _DEMO_NEEDS.items() if not importlib.util.find_spec(room)]
    if missing:
        print(
            f"backendpool demo: it needs {' and '.join(missing)}:"
            " pip install 'backendpool-async[demo]'",
            file=sys.stderr,
        )
        return _WRONG_USAGE
    from backendpool_async.demo import play  # only a demo pays for its libraries

    with tempfile.TemporaryDirectory(prefix="backendpool-") as directory:
        return until_ended(play(directory))


async def _resolved(pool: BackendPool, report: _Report) -> int:
    try:
        snapshot = await pool.refresh()
    except SourceError:
        report.failure(pool.snapshot)
        raise
    report.list(snapshot)
    if not snapshot.backends:
        raise NoBackends(f"{pool._name}: there is no backend")
    return 0


async def _watched(pool: BackendPool, report: _Report) -> int:
    def tell_of_error() -> None:
        report.error_change(pool.snapshot)

    with _log_on_stderr(then=tell_of_error):
        async with contextlib.aclosing(pool):
            await pool.start(required=False)
            async for snapshot in pool.watch():
                report.change(snapshot)
    return 0  # pragma: no cover - only its cancellation ends it


async def _watched_health(pool: BackendPool, check: Check, *, as_json: bool) -> int:
    with _log_on_stderr(then=lambda: None):
        await watch_health(pool, check, _print_lines, as_json=as_json)
    return 0  # pragma: no cover - only its cancellation ends it


async def _with_log(work: Coroutine[Any, Any, int]) -> int:
    with _log_on_stderr(then=lambda: None):
        return await work


class _Report:
    """Prints snapshots, each with what it changed since the one before."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._shown = Snapshot(generation=-1)

    def list(self, snapshot: Snapshot) -> None:
        """Print the backends, one a line."""
        if self._as_json:
            self._print_object(snapshot)
        else:
            _print_lines(snapshot.backends)

    def failure(self, snapshot: Snapshot) -> None:
        """Print why there is no list, where that is part of the output."""
        if self._as_json:
            self._print_object(snapshot)

    def change(self, snapshot: Snapshot) -> None:
        """Print what is new in a list."""
        before = self._shown
        if snapshot.generation == before.generation:
            # Told by `error_change` already, which came first.
            return
        if self._as_json:
            self._print_object(snapshot)
            return
        self._shown = snapshot
        now = _now()
        time = f"{now:%Y-%m-%d %H:%M:%S}.{now.microsecond // 1000:03d}"
        count = counted(len(snapshot.backends))
        head = f"{time}  generation {snapshot.generation}: {count}"
        _print_lines([head, *(f"{'':{len(time)}}  {line}" for line in _changes(before, snapshot))])

    def error_change(self, snapshot: Snapshot) -> None:
        """Print that the source began to fail or recovered; a log line says so already."""
        if self._as_json and (snapshot.error is None) != (self._shown.error is None):
            self._print_object(snapshot)

    def _print_object(self, snapshot: Snapshot) -> None:
        before, self._shown = self._shown, snapshot
        added, removed = _difference(before, snapshot)
        line = {
            "time": _now().isoformat(timespec="milliseconds"),
            "generation": snapshot.generation,
            "backends": snapshot.backends,
            "added": added,
            "removed": removed,
            "error": None if snapshot.error is None else str(snapshot.error),
        }
        _print_lines([json.dumps(line)])


def _difference(before: Snapshot, after: Snapshot) -> tuple[list[Backend], list[Backend]]:
    """Return the addresses that came, and those that went."""
    held, holds = set(before.backends), set(after.backends)
    added = [backend for backend in after.backends if backend not in held]
    return added, [backend for backend in before.backends if backend not in holds]


def _changes(before: Snapshot, after: Snapshot) -> Iterator[str]:
    added, removed = _difference(before, after)
    yield from (f"- {backend}" for backend in removed)
    yield from (f"+ {backend}" for backend in added)
    held, holds = ({backend: backend for backend in each.backends} for each in (before, after))
    stayed = [backend for backend in before.backends if backend in holds]
    for backend in stayed:
        now = holds[backend]
        if now.weight != backend.weight:
            yield f"~ {backend} has the weight {now.weight}"
        if now.attributes != backend.attributes:
            pairs = " ".join(f"{name}={value}" for name, value in now.attributes.items())
            yield f"~ {backend} has {pairs or 'no attributes'}"
    if stayed != [backend for backend in after.backends if backend in held]:
        yield "~ another order"


def _print_lines(lines: Sequence[str]) -> None:
    print("".join(f"{line}\n" for line in lines), end="", flush=True)


def _now() -> datetime:
    return datetime.now(UTC).astimezone()


@contextlib.contextmanager
def _log_on_stderr(then: Callable[[], None]) -> Iterator[None]:
    """Print what the library logs; `then` is called when what it tells of has happened."""
    logger = logging.getLogger("backendpool_async")
    handler = _Lines(then)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Lines(logging.StreamHandler[Any]):
    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(
            logging.Formatter(
                "%(asctime)s.%(msecs)03d  %(levelname)s: %(message)s", "%Y-%m-%d %H:%M:%S"
            )
        )
        self._loop = asyncio.get_running_loop()
        self._then = then

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        # Later: the snapshot follows its log line.
        self._loop.call_soon_threadsafe(self._then)
