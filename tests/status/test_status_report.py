"""What the data tells of pools and balancers."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from asking import ask, status_of

from backendpool_async import Backend, BackendPool, Balancer, Candidate, Chooser, Subset
from backendpool_async.status import StatusApp
from backendpool_async.sync import BackendPool as SyncBackendPool
from backendpool_async.testing import fed_pool

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
HOSTILE = "</script><img src=x onerror=alert(1)>"


def fail(balancer: Balancer, backend: str, times: int, why: str = "503") -> None:
    others = {each for each in balancer.pool.backends() if each != backend}
    for _ in range(times):
        with balancer.lease(exclude=others) as lease:
            lease.failed(why)


async def test_a_balancer_is_told_as_it_explains_itself() -> None:
    balancer = Balancer(BackendPool.static([Backend(A, weight=2, zone="near"), B]))
    fail(balancer, B, 5)
    (told,) = await status_of(StatusApp(api=balancer))
    explained = balancer.explain(200).as_dict()
    for key in explained.keys() - {"pool", "backends"}:
        assert told[key] == explained[key], key
    first, second = told["backends"]
    assert first.keys() == explained["backends"][0].keys()
    assert (first["backend"], first["state"], first["last_failure"]) == (B, "ejected", "503")
    assert first["ejected_for"] > 20
    assert first["ejected_because"] == "5 failures in a row"
    assert (second["backend"], second["weight"], second["zone"]) == (A, 2, "near")
    assert (told["pool"], told["source"], told["policy"]) == ("api", "static", "RoundRobin")
    assert (told["listed"], told["available"], told["ejected"], told["unhealthy"]) == (2, 1, 1, 0)
    assert (told["refresh"], told["age"]) == ("none", None)


async def test_a_list_that_fails_to_be_refreshed_says_why_and_how_old_it_is() -> None:
    async with fed_pool(A, B) as (pool, feed):
        app = StatusApp(api=Balancer(pool), plain=BackendPool.static([C]))
        told, _ = await status_of(app)
        assert (told["refresh"], told["error"], told["generation"]) == ("running", None, 1)
        await feed.fail(OSError("no route"))
        told, _ = await status_of(app)
        assert "no route" in told["error"]
        assert 0 <= told["age"] < 60
        assert told["refreshes"]["SourceError"] == 1
    told, _ = await status_of(app)
    assert told["refresh"] == "stopped"


async def test_a_pool_without_a_balancer_is_told_too() -> None:
    pool = BackendPool.static([A, Backend(B, zone="far")])
    told, synchronous = await status_of(StatusApp(pool, other=SyncBackendPool.static([C])))
    assert (told["pool"], told["policy"], told["listed"]) == ("static", None, 2)
    assert told["backends"] == [
        {"backend": A, "weight": 1, "zone": None},
        {"backend": B, "weight": 1, "zone": "far"},
    ]
    assert (synchronous["pool"], synchronous["backends"][0]["backend"]) == ("other", C)


async def test_a_subset_is_told_as_one() -> None:
    balancer = Balancer(BackendPool.static([A, B, C]), subset=Subset(client=0, size=1))
    (told,) = await status_of(StatusApp(balancer))
    assert (told["listed"], told["total"], len(told["backends"])) == (1, 3, 1)


async def test_what_came_and_went_is_told_and_a_long_change_is_cut() -> None:
    pool = BackendPool.static([A])
    balancer = Balancer(pool)
    balancer.pick()
    pool.update([f"10.0.1.{n}:80" for n in range(30)])
    (told,) = await status_of(StatusApp(balancer))
    (change,) = told["changes"]
    assert (change["generation"], change["removed"], change["removed_count"]) == (1, [A], 1)
    assert (len(change["added"]), change["added_count"]) == (20, 30)


@pytest.mark.parametrize("kind", [BackendPool, SyncBackendPool])
async def test_of_a_pool_without_a_balancer_too_from_then_on(
    kind: type[BackendPool | SyncBackendPool],
) -> None:
    pool = kind.static([A])
    pool.update([B])
    app = StatusApp(pool)
    assert (await status_of(app))[0]["changes"] == []
    pool.update([A, B])
    pool.update([C])
    (told,) = await status_of(app)
    first, second = told["changes"]
    assert (first["generation"], first["added"], first["removed"]) == (2, [A], [])
    assert (second["generation"], second["added"], second["removed"]) == (3, [C], [A, B])


async def test_the_end_of_a_pool_is_no_change() -> None:
    async with fed_pool(A) as (pool, feed):
        app = StatusApp(pool)
        await feed.answer(A, B)
    (told,) = await status_of(app)
    assert [change["added"] for change in told["changes"]] == [[B]]


@pytest.mark.parametrize("has_thread", [True, False])
async def test_a_long_list_is_compared_in_a_thread_where_there_is_one(
    has_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = BackendPool.static([A])
    app = StatusApp(pool)
    with monkeypatch.context() as patch:
        if not has_thread:

            def refuse(thread: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            patch.setattr(threading.Thread, "start", refuse)
        pool.update([A, *(f"10.0.1.{n}:80" for n in range(200))])
    (told,) = await status_of(app)
    (change,) = told["changes"]
    assert (change["added_count"], change["removed_count"]) == (200, 0)


def test_a_status_that_is_gone_follows_nothing() -> None:
    pool = BackendPool.static([A])
    app = StatusApp(pool)
    assert len(pool._wakers) == 1
    del app
    gc.collect()
    assert not pool._wakers


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_tells_of_its_own_changes() -> None:
    program = """if True:
        import asyncio, json, os, sys
        sys.path.insert(0, sys.argv[1])
        from asking import status_of
        from backendpool_async import BackendPool
        from backendpool_async.status import StatusApp
        pool = BackendPool.static(["a:1"])
        app = StatusApp(pool)
        pool.update(["b:1"])
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        else:
            pool.update(["c:1"])
        told, = asyncio.run(status_of(app))
        print([change["added"] for change in told["changes"]], flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[['b:1'], ['c:1']]\n[['b:1']]\n"


@pytest.mark.parametrize("balanced", [True, False])
async def test_of_many_backends_those_asked_for_are_told(balanced: bool) -> None:
    pool = BackendPool.static([f"10.0.{n}.1:80" for n in range(250)])
    app = StatusApp(Balancer(pool) if balanced else pool)
    (told,) = await status_of(app)
    assert (told["listed"], len(told["backends"]), told["omitted"]) == (250, 200, 50)
    (told,) = await status_of(app, "limit=3&match=10.0.24")
    assert [each["backend"] for each in told["backends"]] == [
        "10.0.24.1:80",
        "10.0.240.1:80",
        "10.0.241.1:80",
    ]
    assert (told["listed"], told["omitted"]) == (250, 8)
    (told,) = await status_of(app, "match=%20API")
    assert (told["backends"], told["omitted"]) == ([], 0)


@pytest.mark.parametrize("limit", ["-1", "1001", "many", "", "1e2", "٣", "9" * 5000])
async def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    answered = await ask(StatusApp(BackendPool.static([A])), "/status.json", query=f"limit={limit}")
    assert (answered.status, answered.body) == (400, "limit is a number from 0 to 1000\n")


async def test_a_query_of_very_many_fields_is_refused() -> None:
    answered = await ask(StatusApp(), "/status.json", query="a=1&" * 1000)
    assert answered.status == 400


async def test_a_policy_that_raises_hides_neither_its_list_nor_the_others() -> None:
    class Broken:
        def prepare(self, candidates: Sequence[Candidate]) -> Chooser:
            raise ZeroDivisionError(HOSTILE)

    pool = BackendPool.static([C])
    app = StatusApp(broken=Balancer(pool, Broken()), whole=BackendPool.static([B]))
    pool.update([A])
    broken, whole = await status_of(app)
    assert [change["added"] for change in broken["changes"]] == [[A]]
    assert "could not prepare its choice: ZeroDivisionError" in broken["error"]
    assert [each["backend"] for each in broken["backends"]] == [A]
    assert whole["error"] is None
    metrics = await ask(app, "/metrics")
    assert metrics.status == 200
    for name in ("broken", "whole"):
        assert f'backendpool_backends{{pool="{name}"}} 1\n' in metrics.body


async def test_nothing_to_show_is_no_error() -> None:
    assert await status_of(StatusApp()) == []


@pytest.mark.parametrize("limit", [200, 1000])
async def test_very_many_backends_do_not_hold_the_loop(limit: int) -> None:
    many = [f"10.{n >> 8}.{n & 255}.1:80" for n in range(50_000)]
    balancer = Balancer(BackendPool.static(many))
    balancer.pick()
    fail(balancer, "10.30.1.1:80", 5)
    app = StatusApp(many=balancer)
    gc.disable()
    try:
        asked = asyncio.create_task(status_of(app, f"limit={limit}"))
        longest, before = 0.0, time.thread_time()
        while not asked.done():
            await asyncio.sleep(0)
            # The time of this thread: what others use of the processor is not its stall.
            longest, before = max(longest, time.thread_time() - before), time.thread_time()
    finally:
        gc.enable()
    (told,) = asked.result()
    assert told["backends"][0]["backend"] == "10.30.1.1:80"
    assert told["omitted"] == 50_000 - limit
    assert longest < 0.015


async def test_who_does_not_wait_for_the_answer_keeps_nobody_else_from_it() -> None:
    many = BackendPool.static([f"10.{n >> 8}.{n & 255}.1:80" for n in range(20_000)])
    app = StatusApp(Balancer(many))
    impatient = [asyncio.create_task(status_of(app)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in impatient:
        task.cancel()
    (told,) = await status_of(app)
    assert told["listed"] == 20_000
    await asyncio.wait(impatient)
    assert all(task.cancelled() for task in impatient)


def test_what_is_neither_a_balancer_nor_a_pool_is_refused() -> None:
    with pytest.raises(TypeError, match="neither a Balancer nor a BackendPool"):
        StatusApp([A])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="title is a str"):
        StatusApp(title=BackendPool.static([A]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two are called 'static'"):
        StatusApp(BackendPool.static([A]), BackendPool.static([B]))
