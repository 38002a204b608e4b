"""What is answered to a request, whichever framework it came through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from backendpool_async.balance.balancer import Balancer
from backendpool_async.balance.explanation import History
from backendpool_async.metrics.prometheus import PROMETHEUS_CONTENT_TYPE, text_of
from backendpool_async.metrics.reading import Measured, named
from backendpool_async.pool import BackendPool
from backendpool_async.status.followed import FollowedPool
from backendpool_async.status.page import content_security_policy, page
from backendpool_async.status.report import Shown, report
from backendpool_async.threads import FewThreads, in_thread

PATHS: Final = ("", "/", "/status.json", "/metrics")

_MOST: Final = 1_000
_DEFAULT: Final = 200
# What the page and the data have in common.
_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
# However many look at it, it takes one thread's share of the interpreter.
_one_thread: Final = FewThreads(1)

# A content type, and what makes the text, in a thread.
_Made = tuple[str, Callable[[], str]]


class Response(NamedTuple):
    """A status code, headers without the length of the body, and the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Responder:
    """Answers about these pools and balancers."""

    def __init__(
        self, measured: Sequence[Measured], by_name: Mapping[str, Measured], title: str
    ) -> None:
        if not isinstance(title, str):
            raise TypeError(f"title is a str, not {title!r}; it names the page, and no pool")
        self._measured = named(measured, by_name)
        # Nobody else keeps what a pool without a balancer is followed by.
        self._followed: list[FollowedPool] = []
        self._shown = {
            name: Shown(each, self._history_of(each)) for name, each in self._measured.items()
        }
        self._title = title
        self._page = Response(
            200,
            {
                **_HEADERS,
                "content-type": "text/html; charset=utf-8",
                "content-security-policy": content_security_policy(),
            },
            page(title),
        )

    async def respond(self, path: str, query: str) -> Response:
        """Answer a GET; `path` is that below the mount, "" and "/" alike."""
        match path:
            case "" | "/":
                return self._page
            case "/status.json":
                make = self._status
            case "/metrics":
                make = self._metrics
            case _:
                return refusal(404, "there are only /, /status.json and /metrics here")
        try:
            content_type, text = make(_fields(query))
        except ValueError as error:
            return refusal(400, str(error))
        body = await in_thread(lambda: text().encode("utf-8", "replace"), _one_thread.start)
        return Response(200, {**_HEADERS, "content-type": content_type}, body)

    def _status(self, asked: Mapping[str, str]) -> _Made:
        limit, match = _limit(asked), asked.get("match", "").strip().lower()
        return "application/json", lambda: report(self._shown, self._title, limit, match)

    def _metrics(self, asked: Mapping[str, str]) -> _Made:
        per_backend = asked.get("per_backend", "true")
        if per_backend not in ("true", "false"):
            raise ValueError("per_backend is true or false")
        return PROMETHEUS_CONTENT_TYPE, lambda: text_of(
            self._measured, per_backend=per_backend == "true"
        )

    def _history_of(self, measured: Measured) -> History:
        if isinstance(measured, Balancer):
            return measured._history
        pool = measured if isinstance(measured, BackendPool) else measured._pool
        self._followed.append(FollowedPool(pool))
        return self._followed[-1].history


def refusal(status: int, why: str, **headers: str) -> Response:
    """Return an answer that says what is wrong."""
    content_type = {"content-type": "text/plain; charset=utf-8"}
    return Response(status, {**_HEADERS, **content_type, **headers}, f"{why}\n".encode())


def _fields(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=10))


def _limit(asked: Mapping[str, str]) -> int:
    limit = asked.get("limit", str(_DEFAULT))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 9 and int(limit) <= _MOST):
        raise ValueError(f"limit is a number from 0 to {_MOST}")
    return int(limit)
