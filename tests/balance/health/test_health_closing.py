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
    async with ward(check, A) as patients:
        patients.monitor.start()
        await soon()
        patients.monitor.start()
        await soon()
        assert len(others()) == 1
        assert len(check.seen) == 1


@virtual
async def test_closing_ends_the_checks_under_way_and_leaves_nothing() -> None:
    check = Checkup()
    check.will = {A: HANGS, B: 1.0}
    async with ward(check, A, B) as patients:
        await asyncio.sleep(0.5)
        await patients.monitor.aclose()
        assert asyncio.get_running_loop().time() == 0.5
        assert not others()
        assert check.cancellations == 2
        assert check.closings == 1
        assert patients.pool._wakers == {}
        await asyncio.sleep(100)
        assert len(check.seen) == 2
        assert patients.said == []


@virtual
async def test_closing_twice_or_unstarted_does_no_harm() -> None:
    check = Checkup()
    patients = Ward(check, A)
    await patients.monitor.aclose()
    assert check.closings == 0
    patients.monitor.start()
    await asyncio.gather(patients.monitor.aclose(), patients.monitor.aclose())
    await patients.monitor.aclose()
    assert check.closings == 1
    assert not others()


@virtual
async def test_the_verdicts_outlive_the_checks_until_the_first_new_result() -> None:
    check = Checkup()
    check.will[A] = SICK
    async with ward(check, A) as patients:
        await soon()
        await patients.monitor.aclose()
        assert patients.verdicts(A) == [False]
        check.will[A] = 1.0
        patients.monitor.start()
        await soon()
        assert patients.verdicts(A) == [False]
        await asyncio.sleep(1.1)
        assert patients.verdicts(A) == [True]
        assert patients.said[-1] == f"{A} is healthy again"


@virtual
async def test_a_check_that_swallows_cancellation_is_given_up_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check = Checkup()
    check.will[A] = DEAF
    async with ward(check, A, timeout=2) as patients:
        await asyncio.sleep(1)
        await patients.monitor.aclose()
        assert asyncio.get_running_loop().time() == 3
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.message == (
            f"static: the check of {A} swallows cancellation; given up after 2 s"
        )
        check.released.set()
        await soon()
        assert not others()
        assert patients.verdicts(A) == [None]


@virtual
async def test_a_check_that_was_given_up_before_is_not_warned_of_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check = Checkup()
    check.will[A] = DEAF
    async with ward(check, A, timeout=2) as patients:
        await asyncio.sleep(100)
        assert len(caplog.records) == 1
        await patients.monitor.aclose()
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

    async with ward(Plain(), A) as patients:
        await soon()
        assert patients.verdicts(A) == [True]
    assert not others()


@virtual
async def test_starting_while_it_is_being_closed_is_refused() -> None:
    check = Checkup()
    check.will[A] = DEAF
    async with ward(check, A) as patients:
        await soon()
        closing = asyncio.ensure_future(patients.monitor.aclose())
        await soon()
        with pytest.raises(RuntimeError, match="being closed"):
            patients.monitor.start()
        check.released.set()
        await closing
        patients.monitor.start()


@virtual
async def test_who_waits_for_the_close_can_be_cancelled_and_the_close_goes_on() -> None:
    check = Checkup()
    check.will[A] = DEAF
    async with ward(check, A) as patients:
        await soon()
        closing = asyncio.ensure_future(patients.monitor.aclose())
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
    patients = Ward(check, A, B)

    async def main() -> None:
        patients.monitor.start()
        await soon()

    asyncio.run(main())
    assert check.closings == 1
    assert check.cancellations == 1
    assert patients.verdicts(A, B) == [None, False]
    assert patients.pool._wakers == {}


def test_it_can_be_started_again_on_another_loop() -> None:
    check = Checkup()
    patients = Ward(check, A)

    async def main() -> None:
        patients.monitor.start()
        await soon()
        await patients.monitor.aclose()

    asyncio.run(main())
    asyncio.run(main())
    assert len(check.seen) == 2


def test_a_loop_that_is_closed_under_it_is_forgotten(
    recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    check = Checkup()
    check.will[A] = HANGS
    patients = Ward(check, A)

    async def main() -> None:
        patients.monitor.start()
        await soon()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    del loop
    patients.pool.update([A, B])
    assert patients.pool._wakers == {}
    check.will.clear()
    check.running.clear()

    async def again() -> None:
        await patients.monitor.aclose()
        patients.monitor.start()
        await soon()
        await patients.monitor.aclose()

    asyncio.run(again())
    gc.collect()
    assert patients.verdicts(A, B) == [True, True]
    assert patients.said == []
    assert capsys.readouterr().err == ""
    assert not recwarn.list


def test_on_another_loop_than_its_own_it_is_refused() -> None:
    patients = Ward(Checkup(), A)

    async def use() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            patients.monitor.start()
        with pytest.raises(RuntimeError, match="another event loop"):
            await patients.monitor.aclose()

    async def main() -> None:
        patients.monitor.start()
        await soon()

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(main())
        asyncio.run(use())
        loop.run_until_complete(patients.monitor.aclose())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_forked_child_can_start_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Checkup()
    async with ward(check, A) as patients:
        await soon()
        rounds = patients.monitor._rounds
        assert rounds is not None
        with monkeypatch.context() as child:
            # As if: a real fork would take the loop of pytest with it.
            child.setattr(os, "getpid", lambda: -1)
            assert rounds.is_lost
            assert patients.monitor._current_rounds() is None
        patients.monitor._rounds = rounds


async def test_without_a_loop_it_does_not_start() -> None:
    patients = Ward(Checkup(), A)
    with pytest.raises(RuntimeError, match="no running event loop"):
        await asyncio.to_thread(patients.monitor.start)
