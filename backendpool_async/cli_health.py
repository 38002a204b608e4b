"""Watching the health of a list on the command line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Hashable, Sequence
from typing import Final

from backendpool_async import (
    BackendPool,
    Balancer,
    Check,
    Explanation,
    HealthChecks,
    HttpCheck,
    TcpCheck,
)

_INTERVAL: Final = 2.0
_EVERY: Final = 0.5
# To the upper left corner, and nothing below: the screen is drawn over.
_CLEAR: Final = "\x1b[H\x1b[J"


def check_of(text: str) -> Check:
    """Return the check that a word of the command line names; raise ValueError for another."""
    if text == "tcp":
        return TcpCheck()
    if text.startswith("http:/"):
        return HttpCheck(text.removeprefix("http:"))
    raise ValueError(f"{text!r} is neither 'tcp' nor 'http:/path'")


async def watch_health(
    pool: BackendPool, check: Check, print_lines: Callable[[Sequence[str]], None], *, as_json: bool
) -> None:
    """Check every backend and print what is known about them, until cancelled.

    On a terminal twice a second over the same place; elsewhere when the state of one changes.
    """
    live = sys.stdout.isatty() and not as_json
    shown: Hashable = None
    balancer = Balancer(pool, checks=HealthChecks(check, interval=_INTERVAL))
    try:
        await balancer.start(required=False)
        while True:
            explanation = balancer.explain()
            if live:
                print_lines([f"{_CLEAR}{explanation}"])
            elif (states := _states(explanation)) != shown:
                shown = states
                print_lines([json.dumps(explanation.as_dict()) if as_json else str(explanation)])
            await asyncio.sleep(_EVERY)
    finally:
        await balancer.aclose()


def _states(explanation: Explanation) -> Hashable:
    """What has to change for another line."""
    return (
        explanation.generation,
        explanation.is_panic,
        explanation.error is None,
        tuple((each.backend, each.state) for each in explanation.backends),
    )
