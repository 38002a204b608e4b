"""All that the demo needs, started: a client, a proxy and backends, and where they are listed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from backendpool_async import BackendPool, Balancer
from backendpool_async.demo.fleet import Fleet, Instance
from backendpool_async.demo.load import Load
from backendpool_async.demo.pace import Pace
from backendpool_async.demo.places import ListFile, ServedName
from backendpool_async.demo.way import asking, serving
from backendpool_async.retries import Retries
from backendpool_async.testing.dns_server import FakeDnsServer

NAMES: Final = ("api-1", "api-2", "api-3")
# A file is watched where the extra can; elsewhere it is polled.
WATCHED: Final = sys.platform == "linux"
# Requests of the demo change nothing, so that one may arrive twice.
_SAFE_TO_REPEAT: Final = Retries(idempotent=True)
_FILE_INTERVAL: Final = 30.0 if WATCHED else 0.5


@dataclass(frozen=True, slots=True)
class Stage:
    """From the end of the way to its beginning.

    `backends` chooses among what the `file` lists, for the proxy; `proxies` among what the `name`
    answers, for the client that the `load` comes from.
    """

    fleet: Fleet
    first: tuple[Instance, ...]
    file: ListFile
    backends: Balancer
    proxy: str
    name: ServedName
    proxies: Balancer
    load: Load


@asynccontextmanager
async def staged(directory: str, pace: Pace) -> AsyncIterator[Stage]:
    """Start all of it, with the file in `directory`; the load begins when it is told to."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(FakeDnsServer())
        fleet = await stack.enter_async_context(Fleet(pace.answers_after))
        first = tuple([await fleet.start(f"{each}.v1") for each in NAMES])
        file, name = ListFile(directory), ServedName(server, pace.dns_ttl)
        await file.publish([each.address for each in first])
        backends = await stack.enter_async_context(
            Balancer(BackendPool.file(file.path, watch=WATCHED, poll_interval=_FILE_INTERVAL))
        )
        proxy = await stack.enter_async_context(serving(backends, _SAFE_TO_REPEAT))
        host, _, port = proxy.rpartition(":")
        await name.publish(host)
        proxies = await stack.enter_async_context(
            Balancer(
                BackendPool.dns(
                    name.name,
                    int(port),
                    nameservers=[name.address],
                    poll_interval=pace.dns_interval,
                    timeout=pace.dns_timeout,
                    min_ttl=pace.dns_min_ttl,
                )
            )
        )
        ask = await stack.enter_async_context(asking(proxies, Retries()))
        yield Stage(fleet, first, file, backends, proxy, name, proxies, Load(ask, pace.rate))
