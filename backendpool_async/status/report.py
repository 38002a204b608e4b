"""What is shown of pools and balancers, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from backendpool_async.balance.balancer import Balancer
from backendpool_async.balance.explanation import Change, Explanation, History
from backendpool_async.balance.pauses import collected
from backendpool_async.errors import describe
from backendpool_async.metrics.reading import Measured
from backendpool_async.pool import BackendPool
from backendpool_async.sources.static import StaticSource

# A list of 10,000 came once, as one change; nobody reads its names there.
_NAMED: Final = 20


class Shown(NamedTuple):
    """What is shown under one name, and the last changes of its list."""

    measured: Measured
    history: History


def report(shown: Mapping[str, Shown], title: str, limit: int, match: str) -> str:
    """Return a JSON object about all of them by name, each with at most `limit` backends.

    To be called in a thread other than the loop's: long lists take a while.
    """
    # One by one: encoding lets no other thread run.
    pools = ", ".join(
        json.dumps({"pool": name} | _described(each, limit, match)) for name, each in shown.items()
    )
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return f'{{"title": {json.dumps(title)}, "time": "{now}", "pools": [{pools}]}}'


def _described(shown: Shown, limit: int, match: str) -> dict[str, Any]:
    measured, history = shown
    pool = measured if isinstance(measured, BackendPool) else measured._pool
    if not isinstance(measured, Balancer):
        return _list_of(pool, history, limit, match) | _refresh_of(pool)
    try:
        explanation = measured.explain(limit, match)
    except Exception as error:  # noqa: BLE001 - a policy may raise anything, and the rest is shown
        why = f"{measured!r} could not prepare its choice: {describe(error)}"
        return _list_of(pool, history, limit, match) | _refresh_of(pool) | {"error": why}
    return _choice_of(explanation) | _refresh_of(pool)


def _choice_of(explanation: Explanation) -> dict[str, Any]:
    data = explanation.as_dict()
    # It is shown by the name that the application gave it.
    del data["pool"]
    return data | {"listed": explanation.listed, "changes": _cut(explanation.changes)}


def _list_of(pool: BackendPool, history: History, limit: int, match: str) -> dict[str, Any]:
    backends = pool.backends()
    matching = collected(each for each in backends if match in each) if match else backends
    return {
        "policy": None,
        "is_panic": False,
        "available": None,
        "ejected": None,
        "unhealthy": None,
        "retries": None,
        "backends": [
            {"backend": str(each), "weight": each.weight, "zone": each.zone}
            for each in matching[:limit]
        ],
        "omitted": max(0, len(matching) - limit),
        "changes": _cut(history.changes()),
        "listed": len(backends),
    }


def _refresh_of(pool: BackendPool) -> dict[str, Any]:
    snapshot = pool.snapshot
    is_fixed = isinstance(pool._source, StaticSource)
    return {
        "source": pool._name,
        "total": len(snapshot.backends),
        "refresh": "none" if is_fixed else "running" if pool.is_running else "stopped",
        "refreshes": dict(pool.refreshes),
        "generation": snapshot.generation,
        "age": snapshot.age,
        "error": None if snapshot.error is None else str(snapshot.error),
    }


def _cut(changes: Iterable[Change]) -> list[dict[str, Any]]:
    return [
        {
            "time": change.time,
            "generation": change.generation,
            "added": change.added[:_NAMED],
            "added_count": len(change.added),
            "removed": change.removed[:_NAMED],
            "removed_count": len(change.removed),
        }
        for change in changes
    ]
