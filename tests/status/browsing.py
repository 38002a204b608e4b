"""A real browser without a window, driven over the Chrome DevTools Protocol."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
from servers import PATIENCE, missing

# What the page would not be looked at by a person for, and what a container has no room for.
_SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)


class Tab:
    """One page of a browser; what it complained of is in `complaints`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []

    async def listen(self) -> None:
        """Take what the browser says, until it says no more."""
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(said["params"]))
            elif said["method"] == "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(said["params"]["args"]))

    async def command(self, method: str, **parameters: object) -> dict[str, Any]:
        """Return the result of a method of the protocol."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        said = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript."""
        result = await self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str) -> None:
        """Return as soon as the expression is true; fail when it is not in time."""
        deadline = time.monotonic() + PATIENCE
        while not await self.evaluate(expression):
            assert time.monotonic() < deadline, f"never: {expression}; {await self.text()}"
            await asyncio.sleep(0.02)

    async def open(self, url: str) -> None:
        """Go there, and return when the document is loaded."""
        await self.command("Page.navigate", url=url)
        await self.until(f"location.href.startsWith({json.dumps(url)})")
        await self.until("document.readyState === 'complete'")

    async def text(self) -> str:
        """Return all that is to be read."""
        text: str = await self.evaluate("document.body ? document.body.innerText : ''")
        return text

    async def resize(self, width: int, height: int = 800) -> None:
        """Let the window be so wide."""
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    async def prefer(self, scheme: str) -> None:
        """Let the reader prefer ``light`` or ``dark``."""
        await self.command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )


@contextmanager
def running_browser(profile: Path) -> Iterator[str]:
    """Run one, and yield the address of its protocol; skip the test where there is none."""
    program = shutil.which("chromium") or missing("chromium")
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *_SWITCHES, f"--user-data-dir={profile}", "about:blank"],
            stdout=log,
            stderr=log,
        )
    try:
        yield _address(process, profile)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@asynccontextmanager
async def tab_of(browser: str) -> AsyncIterator[Tab]:
    """Open a tab, and close it at the end."""
    async with (
        aiohttp.ClientSession(f"http://{browser}") as session,
        session.put("/json/new?about:blank") as response,
    ):
        target = json.loads(await response.text())
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = Tab(socket)
            listening = asyncio.create_task(tab.listen())
            for domain in ("Page", "Runtime", "Log"):
                await tab.command(f"{domain}.enable")
            yield tab
            async with session.get(f"/json/close/{target['id']}"):
                pass
        await listening


def _address(process: subprocess.Popen[bytes], profile: Path) -> str:
    # It writes the port that it got, in the first line.
    told = profile / "DevToolsActivePort"
    deadline = time.monotonic() + PATIENCE
    while not (told.exists() and (lines := told.read_text().splitlines())):
        assert process.poll() is None, (profile / "log").read_text()
        assert time.monotonic() < deadline, "chromium did not start in time"
        time.sleep(0.01)
    return f"127.0.0.1:{lines[0]}"
