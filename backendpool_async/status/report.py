"""What is shown of pools and balancers, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from backendpool_async.balance.balancer import Balancer
from backendpool_async.balance.explanation import Change, Explanation
from backendpool_async.balance.pauses import collected
from backendpool_async.errors import describe
from backendpool_async.metrics.reading import Measured
from backendpool_async.pool import BackendPool
from backendpool_async.sources.static import StaticSource

# A list of 10,000 came once, as one change; nobody reads its names there.
_NAMED: Final = 20


def report(shown: Mapping[str, Measured], title: str, limit: int, match: str) -> str:
    """Return a JSON object about all of them by name, each with at most `limit` backends.

    To be called in a thread other than the loop's: long lists take a while.
    """
    # One by one: encoding lets no other thread run.
    pools = ", ".join(
        json.dumps({"pool": name} | _described(each, limit, match)) for name, each in shown.items()
    )
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return f'{{"title": {json.dumps(title)}, "time": "{now}", "pools": [{pools}]}}'


def _described(shown: Measured, limit: int, match: str) -> dict[str, Any]:
    pool = shown if isinstance(shown, BackendPool) else shown._pool
    if not isinstance(shown, Balancer):
        return _list_of(pool, limit, match) | _refresh_of(pool)
    try:
        explanation = shown.explain(limit, match)
    except Exception as error:  # noqa: BLE001 - a policy may raise anything, and the rest is shown
        why = f"{shown!r} could not prepare its choice: {describe(error)}"
        return _list_of(pool, limit, match) | _refresh_of(pool) | {"error": why}
    return _choice_of(explanation) | _refresh_of(pool)


def _choice_of(explanation: Explanation) -> dict[str, Any]:
    data = explanation.as_dict()
    # It is shown by the name that the application gave it.
    del data["pool"]
    changes = [_cut(each) for each in explanation.changes]
    return data | {"listed": explanation.listed, "changes": changes}


def _list_of(pool: BackendPool, limit: int, match: str) -> dict[str, Any]:
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
        "changes": [],
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


def _cut(change: Change) -> dict[str, Any]:
    return {
        "time": change.time,
        "generation": change.generation,
        "added": change.added[:_NAMED],
        "added_count": len(change.added),
        "removed": change.removed[:_NAMED],
        "removed_count": len(change.removed),
    }
