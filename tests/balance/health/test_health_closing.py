"""Starting, closing, starting again; and what is under way meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os

import pytest
from checked import DEAF, HANGS, SICK, A, B, Checkup, Ward, others, soon, ward

from backendpool_async import Backend

virtual = pytest.mark.virtual_time


@virtual
async def test_starting_twice_checks_once() -> None:
    check = Checkup()
    async with ward(check, A) as monitored:
        monitored.monitor.start()
        await soon()
        monitored.monitor.start()
        await soon()
        assert len(others()) == 1
        assert len(check.seen) == 1


@virtual
async def test_closing_ends_the_checks_under_way_and_leaves_nothing() -> None:
    check = Checkup()
    check.will = {A: HANGS, B: 1.0}
    async with ward(check, A, B) as monitored:
        await asyncio.sleep(0.5)
        await monitored.monitor.aclose()
        assert asyncio.get_running_loop().time() == 0.5
        assert not others()
        assert check.cancellations == 2
        assert check.closings == 1
        assert monitored.pool._wakers == {}
        await asyncio.sleep(100)
        assert len(check.seen) == 2
        assert monitored.said == []


@virtual
async def test_closing_twice_or_unstarted_does_no_harm() -> None:
    check = Checkup()
    monitored = Ward(check, A)
    await monitored.monitor.aclose()
    assert check.closings == 0
    monitored.monitor.start()
    await asyncio.gather(monitored.monitor.aclose(), monitored.monitor.aclose())
    await monitored.monitor.aclose()
    assert check.closings == 1
    assert not others()


@virtual
async def test_the_verdicts_outlive_the_checks_until_the_first_new_result() -> None:
    check = Checkup()
    check.will[A] = SICK
    async with ward(check, A) as monitored:
        await soon()
        await monitored.monitor.aclose()
        assert monitored.verdicts(A) == [False]
        check.will[A] = 1.0
        monitored.monitor.start()
        await soon()
        assert monitored.verdicts(A) == [False]
        await asyncio.sleep(1.1)
        assert monitored.verdicts(A) == [True]
        assert monitored.said[-1] == f"{A} is healthy again"


@virtual
async def test_a_check_that_swallows_cancellation_is_given_up_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check = Checkup()
    check.will[A] = DEAF
    async with ward(check, A, timeout=2) as monitored:
        await asyncio.sleep(1)
        await monitored.monitor.aclose()
        assert asyncio.get_running_loop().time() == 3
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.message == (
            f"static: the check of {A} swallows cancellation; given up after 2 s"
        )
        check.released.set()
        await soon()
        assert not others()
        assert monitored.verdicts(A) == [None]


@virtual
async def test_a_check_that_was_given_up_before_is_not_warned_of_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check = Checkup()
    check.will[A] = DEAF
    async with ward(check, A, timeout=2) as monitored:
        await asyncio.sleep(100)
        assert len(caplog.records) == 1
        await monitored.monitor.aclose()
        assert len(caplog.records) == 1
        check.released.set()
        await soon()


@virtual
async def test_nothing_but_what_was_given_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "backendpool_async")
    check = Checkup()
    check.will[A] = SICK
    async with ward(check, A, B):
        await asyncio.sleep(100)
    assert caplog.records == []


class Reluctant(Checkup):
    async def aclose(self) -> None:
        await super().aclose()
        await self._play(self.will.get("aclose"))


@virtual
@pytest.mark.parametrize(
    ("will", "said"),
    [(HANGS, "takes over 2 s"), (OSError("no route"), "failed: OSError: 'no route'")],
)
async def test_a_check_that_cannot_be_closed_is_told_of(
    will: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    check = Reluctant()
    check.will["aclose"] = will
    async with ward(check, A):
        await soon()
    (record,) = caplog.records
    assert record.message == f"static: the aclose() of its check {said}"
    await soon()
    assert not others()


@virtual
async def test_a_check_need_not_be_closable() -> None:
    class Plain:
        async def check(self, backend: Backend) -> None:
            """It is well."""

    async with ward(Plain(), A) as monitored:
        await soon()
        assert monitored.verdicts(A) == [True]
    assert not others()


@virtual
async def test_starting_while_it_is_being_closed_is_refused() -> None:
    check = Checkup()
    check.will[A] = DEAF
    async with ward(check, A) as monitored:
        await soon()
        closing = asyncio.ensure_future(monitored.monitor.aclose())
        await soon()
        with pytest.raises(RuntimeError, match="being closed"):
            monitored.monitor.start()
        check.released.set()
        await closing
        monitored.monitor.start()


@virtual
async def test_who_waits_for_the_close_can_be_cancelled_and_the_close_goes_on() -> None:
    check = Checkup()
    check.will[A] = DEAF
    async with ward(check, A) as monitored:
        await soon()
        closing = asyncio.ensure_future(monitored.monitor.aclose())
        await soon()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        check.released.set()
        await soon()
        assert not others()
        assert check.closings == 1


def test_a_loop_that_ends_without_a_close_ends_the_checks_too() -> None:
    check = Checkup()
    check.will = {A: HANGS, B: SICK}
    monitored = Ward(check, A, B)

    async def main() -> None:
        monitored.monitor.start()
        await soon()

    asyncio.run(main())
    assert check.closings == 1
    assert check.cancellations == 1
    assert monitored.verdicts(A, B) == [None, False]
    assert monitored.pool._wakers == {}


def test_it_can_be_started_again_on_another_loop() -> None:
    check = Checkup()
    monitored = Ward(check, A)

    async def main() -> None:
        monitored.monitor.start()
        await soon()
        await monitored.monitor.aclose()

    asyncio.run(main())
    asyncio.run(main())
    assert len(check.seen) == 2


def test_a_loop_that_is_closed_under_it_is_forgotten(
    recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    check = Checkup()
    check.will[A] = HANGS
    monitored = Ward(check, A)

    async def main() -> None:
        monitored.monitor.start()
        await soon()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    del loop
    monitored.pool.update([A, B])
    assert monitored.pool._wakers == {}
    check.will.clear()
    check.running.clear()

    async def again() -> None:
        await monitored.monitor.aclose()
        monitored.monitor.start()
        await soon()
        await monitored.monitor.aclose()

    asyncio.run(again())
    gc.collect()
    assert monitored.verdicts(A, B) == [True, True]
    assert monitored.said == []
    assert capsys.readouterr().err == ""
    assert not recwarn.list


def test_on_another_loop_than_its_own_it_is_refused() -> None:
    monitored = Ward(Checkup(), A)

    async def use() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            monitored.monitor.start()
        with pytest.raises(RuntimeError, match="another event loop"):
            await monitored.monitor.aclose()

    async def main() -> None:
        monitored.monitor.start()
        await soon()

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(main())
        asyncio.run(use())
        loop.run_until_complete(monitored.monitor.aclose())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_forked_child_can_start_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Checkup()
    async with ward(check, A) as monitored:
        await soon()
        runner = monitored.monitor._runner
        assert runner is not None
        with monkeypatch.context() as child:
            # As if: a real fork would take the loop of pytest with it.
            child.setattr(os, "getpid", lambda: -1)
            assert runner.is_lost
            assert monitored.monitor._current_runner() is None
        monitored.monitor._runner = runner


async def test_without_a_loop_it_does_not_start() -> None:
    monitored = Ward(Checkup(), A)
    with pytest.raises(RuntimeError, match="no running event loop"):
        await asyncio.to_thread(monitored.monitor.start)
