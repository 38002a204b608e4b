"""What the handlers for ASGI and for aiohttp.web share."""

from __future__ import annotations

import asyncio
from typing import Final

from backendpool_async.balance.balancer import Balancer
from backendpool_async.proxy.complaints import Complaints
from backendpool_async.proxy.exchange import Exchange
from backendpool_async.proxy.headers import HeaderRules
from backendpool_async.proxy.own_answer import answer
from backendpool_async.proxy.refusal import Refusal
from backendpool_async.proxy.request import ProxyRequest
from backendpool_async.proxy.settings import ProxySettings
from backendpool_async.proxy.upload import Receive, Send
from backendpool_async.proxy.upstream import Upstream


class ProxyCore:
    """Exchanges requests for answers, with connections of its own on each event loop."""

    __slots__ = (
        "_started_balancer",
        "_upstreams",
        "balancer",
        "complaints",
        "in_flight",
        "rules",
        "settings",
    )

    def __init__(self, balancer: Balancer, settings: ProxySettings) -> None:
        if not isinstance(balancer, Balancer):
            raise TypeError(f"a proxy is for a backendpool_async.Balancer, not {balancer!r}")
        if settings.allow_networks is not None and balancer._monitor is not None:
            raise ValueError(
                "allow_networks does not hold for the balancer's health checks: use one of them"
            )
        self.balancer: Final = balancer
        self.settings: Final = settings
        self.rules: Final = HeaderRules(settings)
        self.in_flight: int = 0
        self.complaints: Final = Complaints()
        self._upstreams: dict[asyncio.AbstractEventLoop, Upstream] = {}
        self._started_balancer = False

    async def exchange(
        self,
        request: ProxyRequest,
        receive: Receive,
        send: Send,
        to_client: asyncio.Transport | None,
    ) -> None:
        """Pass a request on and its answer back; see `Exchange.run`."""
        if self.in_flight >= self.settings.limits.concurrent_requests:
            busy = Refusal(503, "too many requests at once", retry_after=self.settings.retry_after)
            await answer(busy, request, send)
            return
        exchange = Exchange(
            self.balancer, self.settings, self.rules, self.upstream(), self.complaints
        )
        self.in_flight += 1
        try:
            await exchange.run(request, receive, send, to_client)
        finally:
            self.in_flight -= 1

    def upstream(self) -> Upstream:
        """Return the connections of the running loop, made at the first use."""
        loop = asyncio.get_running_loop()
        upstream = self._upstreams.get(loop)
        if upstream is None:
            self._forget_closed_loops()
            upstream = self._upstreams[loop] = Upstream(self.balancer, self.settings)
        return upstream

    async def start(self) -> None:
        """Start the balancer, unless it is running already; it need not have a backend."""
        if not self.balancer.is_running:
            await self.balancer.start(required=False)
            self._started_balancer = True

    async def aclose(self) -> None:
        """Close the connections of the running loop, and the balancer if `start` started it."""
        upstream = self._upstreams.pop(asyncio.get_running_loop(), None)
        try:
            if upstream is not None:
                await upstream.aclose()
        finally:
            if self._started_balancer:
                self._started_balancer = False
                await self.balancer.aclose()

    def _forget_closed_loops(self) -> None:
        for loop in [loop for loop in self._upstreams if loop.is_closed()]:
            del self._upstreams[loop]
