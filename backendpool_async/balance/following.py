"""How a balancer hears of the changes of its pool, also in a forked child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from backendpool_async.balance.view_builder import ViewBuilder
from backendpool_async.live import LiveList


class Follower(Protocol):
    """What a balancer is to its pool."""

    _builder: ViewBuilder

    def _begin_anew(self) -> None: ...


def follow(pool: LiveList, follower: Follower) -> None:
    """Tell it of every change from now on, as long as somebody else keeps it.

    In a forked child its `_begin_anew` is called, which has to follow once more.
    """
    pool._tell(follower, _list_changed)
    _all.add(follower)


def _list_changed(follower: Follower) -> None:
    follower._builder.on_pool_change()


_all: weakref.WeakSet[Follower] = weakref.WeakSet()


def _after_fork_in_child() -> None:  # pragma: no cover - a test forks, in a process of its own
    # A fork copies no threads: a lock that another one held stays held, and a pool's child calls
    # none of the wakers of its parent.
    for follower in list(_all):
        follower._begin_anew()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
