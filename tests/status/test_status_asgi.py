"""StatusApp as an ASGI application: paths, methods, mounts, and the other scopes."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256

import httpx
import pytest
from asking import ask, messages
from backends import served_by_hypercorn, served_by_uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from backendpool_async import BackendPool, Balancer
from backendpool_async.metrics import prometheus_text
from backendpool_async.status import StatusApp

POOL = BackendPool.static(["10.0.0.1:80"])
APP = StatusApp(api=POOL)


@pytest.mark.parametrize("path", ["", "/"])
async def test_the_page_is_one_document_that_needs_nothing_else(path: str) -> None:
    answered = await ask(APP, path)
    assert answered.status == 200
    assert answered.headers["content-type"] == "text/html; charset=utf-8"
    assert answered.headers["cache-control"] == "no-store"
    assert answered.headers["x-content-type-options"] == "nosniff"
    assert "{{" not in answered.body
    assert not re.search(r"""(src|href)=["'](?!data:|status\.json|metrics)""", answered.body)
    assert "http" not in re.sub(r"<script.*</script>", "", answered.body, flags=re.DOTALL)


async def test_the_page_keeps_its_own_policy() -> None:
    answered = await ask(APP, "/")
    policy = answered.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", answered.body, flags=re.DOTALL)
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert " style=" not in answered.body


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_stands_out_from_what_is_behind_it(scheme: str) -> None:
    styles = re.findall(r":root \{(.*?)\}", (await ask(APP, "/")).body, flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): #(\w+)", styles[scheme == "dark"]))
    pairs = [(text, f"{text}-tint") for text in ("good", "warn", "bad")]
    pairs += [(text, "card") for text in ("ink", "faint", "good", "bad")]
    pairs += [(text, "paper") for text in ("ink", "faint", "bad", "link")]
    for text, behind in pairs:
        one, other = sorted((luminance(colours[text]), luminance(colours[behind])))
        # WCAG 2.2, success criterion 1.4.3.
        assert (other + 0.05) / (one + 0.05) >= 4.5, (text, behind)


def luminance(colour: str) -> float:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


async def test_a_hostile_title_is_only_a_title() -> None:
    title = "</title></script><img src=x onerror=alert(1)>{{script}}\ud800"
    answered = await ask(StatusApp(title=title), "/")
    assert "<img" not in answered.body
    assert answered.body.count("<script") == 1
    assert "&lt;img src=x onerror=alert(1)&gt;{{script}}?" in answered.body


async def test_the_data_is_json_that_no_cache_keeps() -> None:
    answered = await ask(APP, "/status.json")
    assert answered.headers["content-type"] == "application/json"
    assert answered.headers["cache-control"] == "no-store"
    assert answered.json["title"] == "Backends"
    assert answered.json["time"].endswith("+00:00")


async def test_the_metrics_are_those_of_prometheus() -> None:
    answered = await ask(APP, "/metrics")
    assert answered.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answered.body == prometheus_text(api=POOL)


async def test_the_metrics_of_each_backend_can_be_left_out() -> None:
    app = StatusApp(per_backend=Balancer(POOL))
    whole, without, wrong = [
        await ask(app, "/metrics", query=query)
        for query in ("", "per_backend=false", "per_backend=no")
    ]
    assert 'pool="per_backend",backend="10.0.0.1:80"' in whole.body
    assert 'pool="per_backend"' in without.body
    assert "10.0.0.1:80" not in without.body
    assert (wrong.status, wrong.body) == (400, "per_backend is true or false\n")


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics"])
async def test_head_says_what_get_would(path: str) -> None:
    got, head = await ask(APP, path), await ask(APP, path, method="HEAD")
    assert (head.status, head.body) == (200, "")
    assert head.headers.keys() == got.headers.keys()
    assert int(got.headers["content-length"]) == len(got.body.encode())
    assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
async def test_other_methods_are_not_allowed(method: str) -> None:
    answered = await ask(APP, "/", method=method)
    assert (answered.status, answered.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/status", "/status.json/", "//", "/../", "/page.js"])
async def test_there_is_nothing_else(path: str) -> None:
    assert (await ask(APP, path)).status == 404


@pytest.mark.parametrize(
    ("root_path", "path", "status"),
    [
        ("/status", "/status", 200),
        ("/status", "/status/", 200),
        ("/status/", "/status/status.json", 200),
        ("/a/b", "/a/b/status.json", 200),
        ("/proxied", "/status.json", 200),
        ("/status", "/status.json", 200),
        ("/status", "/statusx/", 404),
    ],
)
async def test_it_is_found_below_a_mount(root_path: str, path: str, status: int) -> None:
    assert (await ask(APP, path, root_path=root_path)).status == status


async def test_it_is_mounted_in_starlette_and_fastapi() -> None:
    for app in (Starlette(routes=[Mount("/ops/status", APP)]), FastAPI()):
        if isinstance(app, FastAPI):
            app.mount("/ops/status", APP)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            page = await client.get("/ops/status", follow_redirects=True)
            assert "<title>Backends</title>" in page.text
            data = await client.get("/ops/status/status.json?limit=0")
            assert data.json()["pools"][0]["omitted"] == 1
            assert (await client.get("/ops/status/nothing")).status_code == 404


async def test_it_runs_under_real_servers() -> None:
    for served in (served_by_uvicorn(APP), served_by_hypercorn(APP)):
        async with served as server, httpx.AsyncClient(base_url=f"http://{server.address}") as http:
            assert (await http.get("/")).status_code == 200
            assert (await http.head("/status.json")).status_code == 200
            assert (await http.post("/", content=b"x" * 100_000)).status_code == 405


async def test_a_lifespan_is_answered() -> None:
    sent = await messages(
        APP, {"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
    )
    assert [each["type"] for each in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_a_websocket_is_refused() -> None:
    (sent,) = await messages(APP, {"type": "websocket"}, {"type": "websocket.connect"})
    assert sent["type"] == "websocket.close"


async def test_another_scope_is_an_error() -> None:
    with pytest.raises(ValueError, match="'telegraph'"):
        await messages(APP, {"type": "telegraph"})


def test_it_imports_no_extra() -> None:
    program = (
        "import sys, backendpool_async.status\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    extras = {"aiohttp", "fastapi", "starlette", "httpx", "opentelemetry"}
    assert not extras & set(done.stdout.split())
