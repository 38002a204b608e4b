"""The page, looked at in a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from aiohttp import web
from backends import served_by_uvicorn
from backends_served import Message, Receive, Send
from browsing import Tab, running_browser, tab_of
from servers import until

from backendpool_async import BackendPool, Balancer, EmptyAnswer
from backendpool_async.metrics.reading import Measured
from backendpool_async.status import StatusApp
from backendpool_async.status.aiohttp import status_routes
from backendpool_async.testing import ScriptedSource, fed_pool

A, B, C, D = (f"10.0.0.{n}:80" for n in range(1, 5))
HOSTILE = "</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_browser(tmp_path_factory.mktemp("browser")) as address:
        yield address


@pytest_asyncio.fixture
async def tab(browser: str) -> AsyncIterator[Tab]:
    async with tab_of(browser) as opened:
        yield opened
    assert opened.complaints == []


def fail(balancer: Balancer, backend: str, why: str = "503") -> None:
    others = {each for each in balancer.pool.backends() if each != backend}
    for _ in range(5):
        with balancer.lease(exclude=others) as lease:
            lease.failed(why)


def says(text: str, selector: str = "body") -> str:
    """An expression: whether the text is to be read."""
    return f"document.querySelector({selector!r}).innerText.includes({text!r})"


async def test_it_shows_every_backend_and_what_is_wrong_with_it(tab: Tab) -> None:
    balancer = Balancer(BackendPool.static([A, f"{B} weight=3 zone=near", C]))
    fail(balancer, C, "status 503")
    app = StatusApp(api=balancer, plain=BackendPool.static([D]), title="Shop")
    async with served_by_uvicorn(app) as served:
        await tab.resize(1280)
        await tab.open(f"http://{served.address}/")
        await tab.until(says("2 of 3 available"))
        rows = await tab.evaluate(
            "[...document.querySelectorAll('section')].map(section =>"
            " [...section.querySelectorAll('tbody tr')].map(row => row.innerText))"
        )
        sick, first, weighty = rows[0]
        assert sick.startswith(C)
        assert "ejected" in sick
        assert "more: 5 failures in a row" in sick
        assert "ago: status 503" in sick
        assert A in first
        assert "available" in first
        assert "near" in weighty
        assert [row.split() for row in rows[1]] == [[D, "1"]]
        assert await tab.evaluate("document.title") == "(1) Shop"
        assert await tab.evaluate(says("api: 1 ejected.", "#news"))
        links = await tab.evaluate("[...document.links].map(link => link.href)")
        assert links == [f"http://{served.address}/{name}" for name in ("status.json", "metrics")]


async def test_it_follows_the_list_and_its_troubles(tab: Tab) -> None:
    async with fed_pool(A, B) as (pool, feed), served_by_uvicorn(StatusApp(Balancer(pool))) as at:
        await tab.open(f"http://{at.address}/")
        await tab.until(says("all available"))
        await feed.answer(B, C)
        await tab.until(says(C, "tbody"))
        assert not await tab.evaluate(says(A, "tbody"))
        assert await tab.evaluate(says(f"+{C} \N{MINUS SIGN}{A}", ".changes"))
        assert await tab.evaluate("document.querySelectorAll('tbody tr').length") == 2
        await feed.fail(OSError("no route to it"))
        await tab.until(says("refresh fails", ".verdict"))
        assert await tab.evaluate(says("no route to it", ".error"))
        assert await tab.evaluate(says("refresh fails", "#news"))


async def test_what_is_old_is_never_shown_as_fresh(tab: Tab) -> None:
    app = web.Application()
    app.add_routes(status_routes(BackendPool.static([A])))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        await tab.open(f"http://127.0.0.1:{port}/status")
        await tab.until(says("live, "))
        assert await tab.evaluate("document.querySelector('#absence').hidden")
    finally:
        await runner.cleanup()
    await tab.until(says("No answer since ", "#absence"))
    assert await tab.evaluate(says("What is shown is of then.", "#absence"))
    assert await tab.evaluate(says("last answer ", "#live"))
    assert await tab.evaluate("document.body.classList.contains('stale')")
    assert await tab.evaluate(says(A, "tbody"))
    again = web.AppRunner(app := web.Application(), access_log=None)
    app.add_routes(status_routes(BackendPool.static([B])))
    await again.setup()
    try:
        await web.TCPSite(again, "127.0.0.1", port).start()
        await tab.until(says(B, "tbody"))
        await tab.until("!document.body.classList.contains('stale')")
        assert await tab.evaluate("document.querySelector('#absence').hidden")
    finally:
        await again.cleanup()
    assert all("ERR_CONNECTION_REFUSED" in each for each in tab.complaints)
    tab.complaints.clear()


class Gate:
    """A status whose data can be refused or held back."""

    def __init__(self, app: StatusApp) -> None:
        self.app = app
        self.refuses = False
        self.held = 0
        self.opened = asyncio.Event()
        self.opened.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope.get("path") == "/status.json":
            self.held += 1
            await self.opened.wait()
            self.held -= 1
            if self.refuses:
                scope = {**scope, "path": "/not found"}
        await self.app(scope, receive, send)


async def test_an_error_is_no_answer(tab: Tab) -> None:
    gate = Gate(StatusApp(BackendPool.static([A])))
    gate.refuses = True
    async with served_by_uvicorn(gate) as served:
        await tab.open(f"http://{served.address}/")
        await tab.until(says("No answer yet (the server answered 404).", "#absence"))
        gate.refuses = False
        await tab.until(says(A))
    assert all("404 (Not Found)" in each for each in tab.complaints)
    tab.complaints.clear()


async def test_an_answer_that_does_not_come_is_not_waited_for(tab: Tab) -> None:
    gate = Gate(StatusApp(BackendPool.static([A])))
    async with served_by_uvicorn(gate) as served:
        # Not because a request is given up: before that.
        await tab.command(
            "Page.addScriptToEvaluateOnNewDocument", source="AbortSignal.timeout = () => undefined"
        )
        await tab.open(f"http://{served.address}/")
        await tab.until(says("live, "))
        gate.opened.clear()
        await until(lambda: gate.held)
        # As if it had been a while: a real one would take the test as long.
        await tab.evaluate("(now => Date.now = () => now() + 60_000)(Date.now), undefined")
        await tab.until(says("No answer since ", "#absence"))
        assert await tab.evaluate(says("last answer 6", "#live"))
        gate.opened.set()
        await tab.until("!document.body.classList.contains('stale')")


async def test_it_asks_less_often_when_nobody_looks_or_nobody_answers(tab: Tab) -> None:
    gate = Gate(StatusApp(BackendPool.static([A])))
    async with served_by_uvicorn(gate) as served:
        # What would take too long here is only noted.
        await tab.command(
            "Page.addScriptToEvaluateOnNewDocument",
            source="""
                var pauses = [], hidden = false, wait = setTimeout;
                setTimeout = (call, pause) => wait(call, (pauses.push(pause), Math.min(pause, 50)));
                Object.defineProperty(document, "hidden", { get: () => hidden });
            """,
        )
        await tab.open(f"http://{served.address}/")
        await tab.until("pauses.length > 1 && pauses.every(pause => pause === 1000)")
        await tab.evaluate("hidden = true")
        await tab.until("pauses.at(-1) === 30_000")
        await tab.evaluate("hidden = false; document.dispatchEvent(new Event('visibilitychange'))")
        await tab.until("pauses.at(-1) === 1000")
        await tab.evaluate("pauses = [], undefined")
        gate.refuses = True
        await tab.until("pauses.at(-1) === 10_000")
        seen = await tab.evaluate("[...new Set(pauses)]")
        assert seen == [1000, 2000, 4000, 8000, 10_000]
        gate.refuses = False
        await tab.until("pauses.at(-1) === 1000")
    tab.complaints.clear()


async def test_what_was_hidden_is_old_at_first_and_nobody_is_alarmed(tab: Tab) -> None:
    gate = Gate(StatusApp(BackendPool.static([A])))
    async with served_by_uvicorn(gate) as served:
        await tab.open(f"http://{served.address}/")
        await tab.until(says("live, "))
        gate.opened.clear()
        await until(lambda: gate.held)
        await tab.evaluate(
            "(now => Date.now = () => now() + 25_000)(Date.now);"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        assert await tab.evaluate("document.body.classList.contains('stale')")
        assert await tab.evaluate(says("last answer 2", "#live"))
        assert await tab.evaluate("absence.hidden")
        gate.opened.set()
        await tab.until("!document.body.classList.contains('stale')")


async def test_hostile_text_is_shown_and_not_obeyed(tab: Tab) -> None:
    empty = BackendPool(ScriptedSource(EmptyAnswer("registry", HOSTILE)), initial=[A])
    with pytest.raises(EmptyAnswer):
        await empty.refresh()
    balancer = Balancer(BackendPool.static([A, B]))
    fail(balancer, A, HOSTILE)
    hostile: dict[str, Measured] = {HOSTILE: balancer, "empty": empty}
    app = StatusApp(title=HOSTILE, **hostile)
    async with served_by_uvicorn(app) as served:
        await tab.open(f"http://{served.address}/")
        await tab.until(says("1 ejected"))
        assert await tab.evaluate("document.querySelectorAll('img').length") == 0
        assert await tab.evaluate("document.title") == f"(2) {HOSTILE}"
        for selector in ("h1", "h2", "td.last_failure"):
            assert HOSTILE[:20] in await tab.evaluate(
                f"document.querySelector('{selector}').innerText"
            )
        assert await tab.evaluate(
            "[...document.querySelectorAll('.error')].some(each => each.innerText.includes('<img'))"
        )


async def test_many_backends_are_cut_and_found(tab: Tab) -> None:
    pool = BackendPool.static([f"10.{n >> 8}.{n & 255}.1:80" for n in range(10_000)])
    balancer = Balancer(pool)
    balancer.pick()
    fail(balancer, "10.30.7.1:80")
    async with served_by_uvicorn(StatusApp(balancer)) as served:
        await tab.open(f"http://{served.address}/?limit=50")
        await tab.until(says("9,999 of 10,000 available"))
        assert await tab.evaluate(says("and 9,950 more; those in trouble come first"))
        assert await tab.evaluate("document.querySelectorAll('tbody tr').length") == 50
        assert await tab.evaluate(says("10.30.7.1:80", "tbody tr"))
        await tab.evaluate(
            "match.value = '10.9.9.'; match.dispatchEvent(new Event('input')); undefined"
        )
        await tab.until("document.querySelectorAll('tbody tr').length === 1")
        assert await tab.evaluate(says("10.9.9.1:80", "tbody"))
        assert await tab.evaluate(says("9,999 of 10,000 available"))


async def test_it_fits_a_phone_and_both_schemes(tab: Tab) -> None:
    long = f"{'-'.join(['very-long-name'] * 4)}.{'sub.' * 20}example.internal:65535"
    balancer = Balancer(BackendPool.static([A, long, "[2001:db8::1]:443"]))
    fail(balancer, long, "x" * 100)
    named: dict[str, Measured] = {"name-" * 30: balancer}
    app = StatusApp(**named)  # type: ignore[arg-type]  # none is called "title"
    async with served_by_uvicorn(app) as served:
        brightness = {}
        for scheme in ("light", "dark"):
            await tab.prefer(scheme)
            for width in (360, 800, 1300, 2400):
                await tab.resize(width)
                await tab.open(f"http://{served.address}/")
                await tab.until(says("1 ejected"))
                assert await tab.evaluate(
                    "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
                ), width
            brightness[scheme] = await tab.evaluate(
                "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name]"
                ".match(/\\d+/g).reduce((sum, each) => sum + Number(each), 0))"
            )
        paper, ink = brightness["light"]
        assert paper > 600 > 200 > ink
        paper, ink = brightness["dark"]
        assert paper < 200 < 600 < ink


async def test_it_is_there_for_those_who_listen(tab: Tab) -> None:
    async with served_by_uvicorn(StatusApp(Balancer(BackendPool.static([A])))) as served:
        await tab.resize(360)
        await tab.open(f"http://{served.address}/")
        await tab.until(says("all available"))
        await tab.command("Accessibility.enable")
        tree = await tab.command("Accessibility.getFullAXTree")
        named = {
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree["nodes"]
            if "role" in node
        }
        assert {("heading", "Backends"), ("heading", "static"), ("searchbox", "Filter")} <= named
        assert {("columnheader", "Last failure"), ("rowheader", A), ("link", "JSON")} <= named
        assert "table" in {role for role, _ in named}
        assert await tab.evaluate("document.documentElement.lang") == "en"
        # What is read aloud does not change with every answer.
        before = await tab.evaluate("window.told = [news, absence].map(each => each.textContent)")
        seen = await tab.evaluate("live.textContent")
        await tab.until(f"live.textContent !== {seen!r}")
        assert await tab.evaluate("[news, absence].map(each => each.textContent)") == before
