"""What the results of the checks of a backend say of it."""

from __future__ import annotations

import asyncio

import pytest
from checked import DEAF, HANGS, SICK, WELL, A, B, Checkup, Ward, soon, ward
from hypothesis import given
from hypothesis import strategies as st

from backendpool_async import Backend
from backendpool_async.balance.health import CheckFailed
from backendpool_async.balance.health.checked_backend import CheckedBackend

virtual = pytest.mark.virtual_time
REASON = "ConnectionRefusedError: 'nobody there'"


async def runner(check: Checkup, number: int) -> None:
    """Return when A has been checked so many more times."""
    target = len(check.times[A]) + number
    for _ in range(1000):
        if len(check.times[A]) == target:
            await soon()
            return
        await asyncio.sleep(0.1)
    pytest.fail("it is not checked any more")


@virtual
async def test_before_the_first_result_there_is_no_verdict() -> None:
    check = Checkup()
    check.will[A] = 1.0
    async with ward(check, A) as monitored:
        await asyncio.sleep(0.5)
        assert monitored.verdicts(A) == [None]
        await asyncio.sleep(1)
        assert monitored.verdicts(A) == [True]
        assert monitored.said == []


@virtual
async def test_the_first_failure_of_a_backend_decides_at_once() -> None:
    check = Checkup()
    check.will[A] = SICK
    async with ward(check, A, B, fall=3) as monitored:
        monitored.now = 7.0
        await soon()
        assert monitored.verdicts(A, B) == [False, True]
        assert monitored.said == [f"{A} is unhealthy: {REASON}"]
        failure = monitored.known(A).last_failure
        assert failure is not None
        assert (failure.at, failure.reason) == (7.0, REASON)
        assert monitored.known(B).last_failure is None


@virtual
async def test_later_failures_decide_when_there_are_enough_in_a_row() -> None:
    check = Checkup()
    async with ward(check, A, fall=3) as monitored:
        await soon()
        check.will[A] = SICK
        await runner(check, 2)
        assert monitored.verdicts(A) == [True]
        assert monitored.known(A).last_failure is not None
        check.will[A] = WELL
        await runner(check, 1)
        check.will[A] = SICK
        await runner(check, 2)
        assert monitored.verdicts(A) == [True]
        assert monitored.said == []
        await runner(check, 1)
        assert monitored.verdicts(A) == [False]
        await runner(check, 5)
        assert monitored.said == [f"{A} is unhealthy: {REASON}"]


@virtual
async def test_a_backend_is_healthy_again_after_enough_successes_in_a_row() -> None:
    check = Checkup()
    check.will[A] = SICK
    async with ward(check, A, rise=2) as monitored:
        await soon()
        for _ in range(3):
            check.will[A] = WELL
            await runner(check, 1)
            check.will[A] = SICK
            await runner(check, 1)
        assert monitored.verdicts(A) == [False]
        monitored.said.clear()
        check.will[A] = WELL
        await runner(check, 1)
        monitored.now = 99.0
        assert monitored.known(A).healthy_since is None
        await runner(check, 1)
        assert monitored.verdicts(A) == [True]
        assert monitored.known(A).healthy_since == 99.0
        assert monitored.said == [f"{A} is healthy again"]
        monitored.now = 200.0
        await runner(check, 5)
        assert monitored.known(A).healthy_since == 99.0
        assert len(monitored.said) == 1


@virtual
async def test_a_backend_that_was_never_unhealthy_did_not_return() -> None:
    async with ward(Checkup(), A) as monitored:
        await asyncio.sleep(100)
        assert monitored.known(A).healthy_since is None


@virtual
@pytest.mark.parametrize("will", [HANGS, DEAF, 2.5])
async def test_no_answer_in_time_is_a_failure_at_that_time(will: object) -> None:
    check = Checkup()
    check.will[A] = will
    async with ward(check, A, timeout=2) as monitored:
        await asyncio.sleep(1.99)
        assert monitored.verdicts(A) == [None]
        await asyncio.sleep(0.02)
        assert monitored.verdicts(A) == [False]
        assert monitored.said == [f"{A} is unhealthy: no answer within 2 s"]
        check.released.set()
        await soon()
        # That it came to a good end later counts for nothing.
        assert monitored.verdicts(A) == [False]
        check.will[A] = WELL


class Odd(BaseException):
    pass


@virtual
@pytest.mark.parametrize(
    "error", [Odd("odd"), GeneratorExit(), ExceptionGroup("two", [OSError(), OSError()])], ids=repr
)
async def test_whatever_a_check_raises_is_a_failure(error: BaseException) -> None:
    check = Checkup()
    check.will[A] = error
    async with ward(check, A) as monitored:
        await asyncio.sleep(100)
        assert monitored.verdicts(A) == [False]
        assert monitored.said[0] is not None
        assert type(error).__name__ in monitored.said[0]
    assert len(check.times[A]) > 8


@virtual
async def test_what_a_check_says_is_escaped_and_cut() -> None:
    check = Checkup()
    check.will[A] = CheckFailed("line\nbreak" + "x" * 10_000)
    async with ward(check, A) as monitored:
        await soon()
        (said,) = monitored.said
        assert said is not None
        assert said.startswith(f"{A} is unhealthy: line\\nbreakxxx")
        assert len(said) < 200


@virtual
async def test_something_cancelled_inside_a_check_is_a_failure() -> None:
    check = Checkup()
    check.will[A] = asyncio.CancelledError()
    async with ward(check, A) as monitored:
        await asyncio.sleep(30)
        assert monitored.said == [f"{A} is unhealthy: CancelledError"]
        assert len(check.times[A]) > 2


@virtual
async def test_a_check_that_somebody_else_cancels_says_nothing() -> None:
    check = Checkup()
    check.will[A] = HANGS
    async with ward(check, A) as monitored:
        await soon()
        for task in asyncio.all_tasks():
            if task.get_coro().__qualname__ == "CheckRun._run":  # type: ignore[union-attr]  # it has
                task.cancel()
        await soon()
        assert monitored.verdicts(A) == [None]
        check.will[A] = WELL
        await asyncio.sleep(12)
        assert monitored.verdicts(A) == [True]


@virtual
async def test_a_check_that_is_no_coroutine_function_fails_with_an_explanation() -> None:
    class Plain:
        def check(self, backend: Backend) -> None:
            """It forgot to be async."""

    async with ward(Plain(), A) as monitored:  # type: ignore[arg-type]  # on purpose
        await soon()
        assert monitored.verdicts(A) == [False]
        assert "await" in str(monitored.said[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_program_is_no_result(error: type[BaseException]) -> None:
    check = Checkup()
    check.will[A] = error()
    monitored = Ward(check, A)

    async def main() -> None:
        monitored.monitor.start()
        await asyncio.sleep(60)

    with pytest.raises(error), asyncio.Runner() as runner:
        runner.run(main())
    assert monitored.verdicts(A) == [None]
    assert check.closings == 1


@virtual
async def test_what_is_told_of_a_change_may_raise_without_harm() -> None:
    check = Checkup()
    check.will[A] = SICK
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, it: complaints.append(it))

    class Refusing(Ward):
        def say(self, said: str) -> None:
            raise RuntimeError(said)

    monitored = Refusing(check, A, concurrency=1)
    monitored.monitor.start()
    await asyncio.sleep(100)
    assert len(complaints) == 1
    assert len(check.times[A]) > 8
    await monitored.monitor.aclose()


@given(
    st.lists(st.booleans(), max_size=60),
    st.integers(min_value=1, max_value=4),
    st.integers(min_value=1, max_value=4),
)
def test_fall_and_rise_are_as_a_simple_model_has_them(
    results: list[bool], fall: int, rise: int
) -> None:
    checked = CheckedBackend(Backend(A), 0.0)
    verdict: bool | None = None
    for number, result in enumerate(results, 1):
        if result:
            checked.passed(rise)
        else:
            checked.failed("sick", fall)
        needed = rise if result else fall
        latest = results[max(0, number - needed) : number]
        # A verdict is the first result, and then what as many in a row say as it takes.
        if verdict is None or latest == [result] * needed:
            verdict = result
        assert checked.is_healthy is verdict


@virtual
async def test_a_check_that_hangs_and_swallows_cancellation_fails_every_interval() -> None:
    check = Checkup()
    async with ward(check, A, interval=10, timeout=2, fall=3, rise=2) as monitored:
        await asyncio.sleep(5)
        assert monitored.verdicts(A) == [True]
        check.will[A] = DEAF
        await asyncio.sleep(60)
        assert monitored.verdicts(A) == [False]
        assert "hangs and swallows cancellation" in monitored.said[-1]
        assert len(check.times[A]) == 2, "never two at once"
        check.will[A] = WELL
        check.released.set()
        await asyncio.sleep(25)
        assert monitored.verdicts(A) == [True]
        before = len(check.times[A])
        await asyncio.sleep(100)
        assert 9 <= len(check.times[A]) - before <= 12, "it is due as often as any other"
