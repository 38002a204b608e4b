"""What the results of the checks of a backend say of it."""

from __future__ import annotations

import asyncio

import pytest
from checked import DEAF, HANGS, SICK, WELL, A, B, Checkup, Ward, soon, ward
from hypothesis import given
from hypothesis import strategies as st

from backendpool_async import Backend
from backendpool_async.balance.health import CheckFailed
from backendpool_async.balance.health.patient import Patient

virtual = pytest.mark.virtual_time
REASON = "ConnectionRefusedError: 'nobody there'"


async def rounds(check: Checkup, number: int) -> None:
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
    async with ward(check, A) as patients:
        await asyncio.sleep(0.5)
        assert patients.verdicts(A) == [None]
        await asyncio.sleep(1)
        assert patients.verdicts(A) == [True]
        assert patients.said == []


@virtual
async def test_the_first_failure_of_a_backend_decides_at_once() -> None:
    check = Checkup()
    check.will[A] = SICK
    async with ward(check, A, B, fall=3) as patients:
        patients.now = 7.0
        await soon()
        assert patients.verdicts(A, B) == [False, True]
        assert patients.said == [f"{A} is unhealthy: {REASON}"]
        failure = patients.known(A).last_failure
        assert failure is not None
        assert (failure.at, failure.reason) == (7.0, REASON)
        assert patients.known(B).last_failure is None


@virtual
async def test_later_failures_decide_when_there_are_enough_in_a_row() -> None:
    check = Checkup()
    async with ward(check, A, fall=3) as patients:
        await soon()
        check.will[A] = SICK
        await rounds(check, 2)
        assert patients.verdicts(A) == [True]
        assert patients.known(A).last_failure is not None
        check.will[A] = WELL
        await rounds(check, 1)
        check.will[A] = SICK
        await rounds(check, 2)
        assert patients.verdicts(A) == [True]
        assert patients.said == []
        await rounds(check, 1)
        assert patients.verdicts(A) == [False]
        await rounds(check, 5)
        assert patients.said == [f"{A} is unhealthy: {REASON}"]


@virtual
async def test_a_backend_is_healthy_again_after_enough_successes_in_a_row() -> None:
    check = Checkup()
    check.will[A] = SICK
    async with ward(check, A, rise=2) as patients:
        await soon()
        for _ in range(3):
            check.will[A] = WELL
            await rounds(check, 1)
            check.will[A] = SICK
            await rounds(check, 1)
        assert patients.verdicts(A) == [False]
        patients.said.clear()
        check.will[A] = WELL
        await rounds(check, 1)
        patients.now = 99.0
        assert patients.known(A).healthy_since is None
        await rounds(check, 1)
        assert patients.verdicts(A) == [True]
        assert patients.known(A).healthy_since == 99.0
        assert patients.said == [f"{A} is healthy again"]
        patients.now = 200.0
        await rounds(check, 5)
        assert patients.known(A).healthy_since == 99.0
        assert len(patients.said) == 1


@virtual
async def test_a_backend_that_was_never_unhealthy_did_not_return() -> None:
    async with ward(Checkup(), A) as patients:
        await asyncio.sleep(100)
        assert patients.known(A).healthy_since is None


@virtual
@pytest.mark.parametrize("will", [HANGS, DEAF, 2.5])
async def test_no_answer_in_time_is_a_failure_at_that_time(will: object) -> None:
    check = Checkup()
    check.will[A] = will
    async with ward(check, A, timeout=2) as patients:
        await asyncio.sleep(1.99)
        assert patients.verdicts(A) == [None]
        await asyncio.sleep(0.02)
        assert patients.verdicts(A) == [False]
        assert patients.said == [f"{A} is unhealthy: no answer within 2 s"]
        check.released.set()
        await soon()
        # That it came to a good end later counts for nothing.
        assert patients.verdicts(A) == [False]
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
    async with ward(check, A) as patients:
        await asyncio.sleep(100)
        assert patients.verdicts(A) == [False]
        assert patients.said[0] is not None
        assert type(error).__name__ in patients.said[0]
    assert len(check.times[A]) > 8


@virtual
async def test_what_a_check_says_is_escaped_and_cut() -> None:
    check = Checkup()
    check.will[A] = CheckFailed("line\nbreak" + "x" * 10_000)
    async with ward(check, A) as patients:
        await soon()
        (said,) = patients.said
        assert said is not None
        assert said.startswith(f"{A} is unhealthy: line\\nbreakxxx")
        assert len(said) < 200


@virtual
async def test_something_cancelled_inside_a_check_is_a_failure() -> None:
    check = Checkup()
    check.will[A] = asyncio.CancelledError()
    async with ward(check, A) as patients:
        await asyncio.sleep(30)
        assert patients.said == [f"{A} is unhealthy: CancelledError"]
        assert len(check.times[A]) > 2


@virtual
async def test_a_check_that_somebody_else_cancels_says_nothing() -> None:
    check = Checkup()
    check.will[A] = HANGS
    async with ward(check, A) as patients:
        await soon()
        for task in asyncio.all_tasks():
            if task.get_coro().__qualname__ == "Visit._run":  # type: ignore[union-attr]  # it has
                task.cancel()
        await soon()
        assert patients.verdicts(A) == [None]
        check.will[A] = WELL
        await asyncio.sleep(12)
        assert patients.verdicts(A) == [True]


@virtual
async def test_a_check_that_is_no_coroutine_function_fails_with_an_explanation() -> None:
    class Plain:
        def check(self, backend: Backend) -> None:
            """It forgot to be async."""

    async with ward(Plain(), A) as patients:  # type: ignore[arg-type]  # on purpose
        await soon()
        assert patients.verdicts(A) == [False]
        assert "await" in str(patients.said[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_program_is_no_result(error: type[BaseException]) -> None:
    check = Checkup()
    check.will[A] = error()
    patients = Ward(check, A)

    async def main() -> None:
        patients.monitor.start()
        await asyncio.sleep(60)

    with pytest.raises(error), asyncio.Runner() as runner:
        runner.run(main())
    assert patients.verdicts(A) == [None]
    assert check.closings == 1


@virtual
async def test_what_is_told_of_a_change_may_raise_without_harm() -> None:
    check = Checkup()
    check.will[A] = SICK
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, it: complaints.append(it))

    def refuse(_level: int, said: str) -> None:
        raise RuntimeError(said)

    patients = Ward(check, A, concurrency=1)
    patients.monitor._changed = refuse
    patients.monitor.start()
    await asyncio.sleep(100)
    assert len(complaints) == 1
    assert len(check.times[A]) > 8
    await patients.monitor.aclose()


@given(
    st.lists(st.booleans(), max_size=60),
    st.integers(min_value=1, max_value=4),
    st.integers(min_value=1, max_value=4),
)
def test_fall_and_rise_are_as_a_simple_model_has_them(
    results: list[bool], fall: int, rise: int
) -> None:
    patient = Patient(Backend(A), 0.0)
    verdict: bool | None = None
    for number, result in enumerate(results, 1):
        if result:
            patient.passed(rise)
        else:
            patient.failed("sick", fall)
        needed = rise if result else fall
        latest = results[max(0, number - needed) : number]
        # A verdict is the first result, and then what as many in a row say as it takes.
        if verdict is None or latest == [result] * needed:
            verdict = result
        assert patient.is_healthy is verdict
