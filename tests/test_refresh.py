"""How a pool asks: when, how often, and what it makes of each answer. All in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import logging
import statistics
import time
import traceback
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

import pytest

from backendpool_async import (
    Answer,
    BackendPool,
    EmptyAnswer,
    InvalidBackend,
    PoolClosed,
    SourceError,
    SourceTimeout,
)
from backendpool_async.testing import HintingSource, ScriptedSource, gated, hang, stubborn

pytestmark = pytest.mark.virtual_time

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
HOUR = 3600.0


def gaps(source: ScriptedSource) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(source.times)]


async def test_polls_stay_within_ten_percent_of_the_interval_and_vary() -> None:
    source = ScriptedSource([A])
    async with BackendPool(source, poll_interval=30):
        await asyncio.sleep(2 * HOUR)
    later = gaps(source)[1:]
    assert min(later) >= 27 - 1e-6
    assert max(later) <= 33 + 1e-6
    assert statistics.stdev(later) > 1


async def test_the_first_poll_comes_early_so_that_pools_started_together_part() -> None:
    sources = [ScriptedSource([A]) for _ in range(300)]
    pools = [BackendPool(source, poll_interval=30) for source in sources]
    for pool in pools:
        await pool.start()
    await asyncio.sleep(40)
    for pool in pools:
        await pool.aclose()
    first = [gaps(source)[0] for source in sources]
    assert min(first) >= 15 - 1e-6
    assert max(first) <= 33 + 1e-6
    busiest = max(sum(second <= gap < second + 1 for gap in first) for second in range(15, 34))
    assert busiest <= 3 * len(sources) / 18


async def test_the_timers_of_many_pools_expire_together() -> None:
    pools = [BackendPool(ScriptedSource([A]), poll_interval=30) for _ in range(200)]
    for pool in pools:
        await pool.start()
    moments = {pool._run.alarm._timer.when() for pool in pools}  # type: ignore[union-attr]  # set
    for pool in pools:
        await pool.aclose()
    assert all(abs(moment * 10 - round(moment * 10)) < 1e-6 for moment in moments)


async def test_an_answer_with_a_ttl_is_asked_for_again_when_it_has_passed() -> None:
    class Vouching(ScriptedSource):
        async def fetch(self) -> Answer:  # type: ignore[override]  # an Answer instead of a list
            return Answer(await super().fetch(), ttl=7)

    source = Vouching([A])
    async with BackendPool(source, poll_interval=30):
        await asyncio.sleep(HOUR)
    assert min(gaps(source)) >= 7 - 1e-6
    assert max(gaps(source)) <= 7.7 + 1e-6


@pytest.mark.parametrize("ttl", [30, 31, 86_400, 4_294_967_295])
async def test_a_long_ttl_is_cut_to_the_poll_interval(ttl: float) -> None:
    class Vouching(ScriptedSource):
        async def fetch(self) -> Answer:  # type: ignore[override]  # an Answer instead of a list
            return Answer(await super().fetch(), ttl=ttl)

    source = Vouching([A])
    async with BackendPool(source, poll_interval=30):
        await asyncio.sleep(HOUR)
    assert min(gaps(source)) >= 27 - 1e-6
    assert max(gaps(source)) <= 30 + 1e-6


async def test_retries_back_off_from_one_second_to_the_poll_interval() -> None:
    source = ScriptedSource([A], OSError("down"))
    async with BackendPool(source, poll_interval=30) as pool:
        await asyncio.sleep(HOUR)
        assert pool.backends() == (A,)
    waits = gaps(source)[1:]
    for failures, wait in enumerate(waits):
        delay = min(1.6**failures, 30)
        assert delay * 0.8 - 1e-6 <= wait <= min(delay * 1.2, 30) + 1e-6
    assert len(waits) > 100


async def test_retries_begin_at_the_poll_interval_when_that_is_below_a_second() -> None:
    source = ScriptedSource([A], OSError("down"))
    async with BackendPool(source, poll_interval=0.2):
        await asyncio.sleep(60)
    assert all(0.16 - 1e-6 <= wait <= 0.24 + 1e-6 for wait in gaps(source)[1:])


async def test_a_list_outlives_an_outage_of_73_hours_and_recovers_at_the_first_good_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="backendpool_async")
    source = ScriptedSource([A, B], ConnectionError("registry down"))
    async with BackendPool(source, poll_interval=30) as pool:
        before = pool.snapshot
        await asyncio.sleep(73 * HOUR)
        during = pool.snapshot
        assert during.backends is before.backends
        assert during.generation == before.generation
        assert during.refreshed_at == before.refreshed_at
        assert "registry down" in str(during.error)
        assert "keeping the 2 backends" in str(during.error)
        assert source.calls > 73 * 3600 / 33
        source.then([C])
        await asyncio.sleep(33)
        assert pool.backends() == (C,)
        assert pool.snapshot.error is None
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "INFO"]


async def test_after_a_recovery_the_next_failure_is_retried_after_a_second_again() -> None:
    source = ScriptedSource([A], *[OSError()] * 9, [A], OSError(), [A])
    async with BackendPool(source, poll_interval=30):
        await asyncio.sleep(HOUR)
    assert 0.8 - 1e-6 <= gaps(source)[11] <= 1.2 + 1e-6


async def test_refreshed_at_is_the_monotonic_time_of_the_latest_good_answer() -> None:
    source = ScriptedSource([A], OSError(), [A])
    pool = BackendPool(source)
    assert pool.snapshot.refreshed_at is None
    assert pool.snapshot.age is None
    begun = time.monotonic()
    first = (await pool.refresh()).refreshed_at
    assert first is not None
    assert begun <= first <= time.monotonic()
    with pytest.raises(SourceError):
        await pool.refresh()
    assert pool.snapshot.refreshed_at == first
    second = (await pool.refresh()).refreshed_at
    assert second is not None
    assert second > first
    assert pool.snapshot.generation == 1
    assert pool.snapshot.age is not None
    assert pool.snapshot.age >= 0


async def test_refreshes_asked_for_at_once_share_one_fetch() -> None:
    source = ScriptedSource(gated([A]))
    pool = BackendPool(source)
    refreshes = [asyncio.create_task(pool.refresh()) for _ in range(20)]
    await source.called()
    source.release()
    snapshots = await asyncio.gather(*refreshes)
    assert source.calls == 1
    assert {snapshot.generation for snapshot in snapshots} == {1}


async def test_cancelling_one_waiter_leaves_the_fetch_to_the_others() -> None:
    source = ScriptedSource(gated([A]))
    pool = BackendPool(source)
    impatient, patient = (asyncio.create_task(pool.refresh()) for _ in range(2))
    await source.called()
    impatient.cancel()
    await asyncio.wait({impatient})
    assert impatient.cancelled()
    assert source.cancellations == 0
    source.release()
    assert (await patient).backends == (A,)


async def test_cancelling_the_last_waiter_cancels_the_fetch() -> None:
    source = ScriptedSource(hang(), [A])
    pool = BackendPool(source)
    task = asyncio.create_task(pool.refresh())
    await source.called()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert source.cancellations == 1
    assert source.running == 0
    assert pool.snapshot.error is None
    assert (await pool.refresh()).backends == (A,)


async def test_a_refresh_that_follows_a_cancelled_one_begins_when_that_one_has_ended() -> None:
    source = ScriptedSource(stubborn(0.5), [A])
    pool = BackendPool(source)
    task = asyncio.create_task(pool.refresh())
    await source.called()
    task.cancel()
    await asyncio.sleep(0.1)
    assert source.running == 1
    assert (await pool.refresh()).backends == (A,)
    assert source.most_at_once == 1
    await asyncio.wait({task})


async def test_every_waiter_gets_an_exception_of_its_own() -> None:
    source = ScriptedSource(gated(OSError("boom")))
    pool = BackendPool(source)
    refreshes = [asyncio.create_task(pool.refresh()) for _ in range(3)]
    await source.called()
    source.release()
    await asyncio.wait(refreshes)
    errors = [refresh.exception() for refresh in refreshes]
    assert len({id(error) for error in errors}) == 3
    assert {str(error) for error in errors} == {
        "ScriptedSource: OSError: 'boom'; there is nothing to serve"
    }


async def test_what_is_kept_of_a_failure_keeps_no_frame_alive() -> None:
    async def fetch() -> list[str]:
        try:
            raise KeyError("inner")
        except KeyError:
            raise ExceptionGroup("several", [OSError("outer")]) from None

    pool = BackendPool(fetch)
    with pytest.raises(SourceError):
        await pool.refresh()
    error = pool.snapshot.error
    assert error is not None
    cause = error.__cause__
    assert isinstance(cause, ExceptionGroup)
    links = (error, cause, cause.__context__, cause.exceptions[0])
    assert all(link is not None and link.__traceback__ is None for link in links)
    assert "inner" in "".join(traceback.format_exception(cause.__context__))


async def test_a_fetch_that_outlasts_the_timeout_is_cancelled_and_said_so() -> None:
    source = ScriptedSource([A], hang())
    pool = BackendPool(source, timeout=2.5)
    await pool.refresh()
    with pytest.raises(SourceTimeout, match=r"no answer within 2.5 s; keeping the 1 backend"):
        await pool.refresh()
    assert source.times[1] + 2.5 == pytest.approx(asyncio.get_running_loop().time())
    assert source.running == 0
    assert pool.backends() == (A,)


async def test_a_good_answer_after_the_deadline_does_not_count() -> None:
    source = ScriptedSource(stubborn(5.05, [A]))
    pool = BackendPool(source, timeout=5)
    with pytest.raises(SourceTimeout):
        await pool.refresh()
    assert pool.backends() == ()


async def test_a_timeout_of_the_source_itself_is_a_source_timeout_too() -> None:
    pool = BackendPool(ScriptedSource(TimeoutError("upstream")))
    with pytest.raises(SourceTimeout, match="upstream"):
        await pool.refresh()


async def test_a_source_that_swallows_cancellation_is_never_run_twice_at_once() -> None:
    source = ScriptedSource([A], stubborn(60), [B])
    async with BackendPool(source, timeout=1, poll_interval=10) as pool:
        await asyncio.sleep(30)
        assert source.most_at_once == 1
        assert pool.backends() == (A,)
        assert isinstance(pool.snapshot.error, SourceTimeout)
        assert "has not ended yet" in str(pool.snapshot.error)
        await asyncio.sleep(60)
        assert source.most_at_once == 1
        assert pool.backends() == (B,)
        assert pool.snapshot.error is None


async def test_a_source_that_cancels_itself_has_failed_and_the_pool_lives() -> None:
    source = ScriptedSource([A], asyncio.CancelledError(), [B])
    async with BackendPool(source) as pool:
        with pytest.raises(SourceError, match="CancelledError"):
            await pool.refresh()
        assert pool.backends() == (A,)
        await asyncio.sleep(60)
        assert pool.backends() == (B,)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (None, "not NoneType"),
        ("10.0.0.1:80", "not str"),
        (b"10.0.0.1:80", "not bytes"),
        ({"10.0.0.1:80": 1}, "not dict"),
        (7, "not int"),
        ([A, "nonsense"], r"'nonsense' \(entry 2\): no port"),
        ([A, None], r"\(entry 2\): not a string but NoneType"),
        (itertools.repeat(A), "more than max_backends=1000"),
        ((f"10.0.{i >> 8}.{i & 255}:80" for i in itertools.count()), "more than max_backends"),
        ([A, "x" * 1_000_000], r"\(entry 2\): no port"),
    ],
)
async def test_a_source_that_lies_cannot_harm_the_pool(lie: object, reason: str) -> None:
    pool = BackendPool(ScriptedSource([A], lie), max_backends=1000)
    held = await pool.refresh()
    with pytest.raises(SourceError, match=reason) as caught:
        await pool.refresh()
    assert isinstance(caught.value.__cause__, InvalidBackend)
    assert len(str(caught.value)) < 400
    assert pool.snapshot.backends is held.backends
    assert isinstance(pool.snapshot.error, SourceError)


async def test_an_exception_that_cannot_say_what_it_is_is_a_failure_like_any_other() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    class Odd:
        def __repr__(self) -> str:
            raise ValueError("no words")

    pool = BackendPool(ScriptedSource(Mute(), [Odd()]))
    with pytest.raises(SourceError, match="Mute whose str"):
        await pool.refresh()
    with pytest.raises(SourceError, match="Odd whose str"):
        await pool.refresh()


async def test_an_answer_over_the_limit_is_refused_also_when_it_was_parsed_already() -> None:
    async def fetch() -> Answer:
        return Answer([A, B, C])

    with pytest.raises(SourceError, match="more than max_backends=2"):
        await BackendPool(fetch, max_backends=2).refresh()


async def test_a_function_that_is_not_async_is_told_so() -> None:
    pool = BackendPool(lambda: [A])  # type: ignore[arg-type,return-value]  # the mistake
    with pytest.raises(SourceError, match="write it with 'async def'"):
        await pool.refresh()


async def test_a_set_is_the_same_list_every_time() -> None:
    orders = iter([{A, B, C}, frozenset([C, B, A])])

    async def fetch() -> AbstractSet[str]:
        return next(orders)

    pool = BackendPool(fetch)
    assert (await pool.refresh()).backends == (A, B, C)
    assert (await pool.refresh()).generation == 1


async def test_a_long_list_is_parsed_without_holding_the_loop() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count_turns())
    entries = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}:80" for i in range(50_000)]
    await BackendPool(ScriptedSource(entries)).refresh()
    counter.cancel()
    await asyncio.wait({counter})
    assert turns >= 50_000 / 1024


async def test_negative_answers_are_believed_at_the_third_in_a_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="backendpool_async")
    pool = BackendPool(ScriptedSource([A], ()))
    await pool.refresh()
    for count in (1, 2):
        with pytest.raises(EmptyAnswer, match=rf"negative answer {count} of 3\); keeping the 1"):
            await pool.refresh()
        assert pool.backends() == (A,)
        assert isinstance(pool.snapshot.error, EmptyAnswer)
    believed = await pool.refresh()
    assert believed.backends == ()
    assert believed.error is None
    assert believed.generation == 2
    again = await pool.refresh()
    assert again.error is None
    assert again.generation == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


async def test_failures_between_negative_answers_neither_count_nor_reset() -> None:
    pool = BackendPool(ScriptedSource([A], (), OSError(), (), OSError(), OSError(), ()))
    await pool.refresh()
    for _ in range(5):
        with pytest.raises(SourceError):
            await pool.refresh()
        assert pool.backends() == (A,)
    assert (await pool.refresh()).backends == ()


async def test_a_good_answer_resets_the_count_of_negative_ones() -> None:
    pool = BackendPool(ScriptedSource([A], (), (), [A], (), (), [B]))
    await pool.refresh()
    for _ in range(2):
        for _ in range(2):
            with pytest.raises(EmptyAnswer):
                await pool.refresh()
        await pool.refresh()
    assert pool.backends() == (B,)


async def test_an_update_resets_the_count_of_negative_answers() -> None:
    pool = BackendPool(ScriptedSource(()), initial=[A])
    for _ in range(2):
        with pytest.raises(EmptyAnswer):
            await pool.refresh()
    pool.update([B])
    for _ in range(2):
        with pytest.raises(EmptyAnswer):
            await pool.refresh()
    assert pool.backends() == (B,)
    assert (await pool.refresh()).backends == ()


@pytest.mark.parametrize(("empty_after", "answers"), [(1, 1), (5, 5)])
async def test_empty_after_is_the_number_of_answers_it_takes(
    empty_after: int, answers: int
) -> None:
    pool = BackendPool(ScriptedSource([A], ()), empty_after=empty_after)
    await pool.refresh()
    for _ in range(answers - 1):
        with pytest.raises(EmptyAnswer):
            await pool.refresh()
    assert (await pool.refresh()).backends == ()


async def test_with_empty_after_none_a_negative_answer_is_never_believed() -> None:
    pool = BackendPool(ScriptedSource([A], ()), empty_after=None)
    await pool.refresh()
    for _ in range(50):
        with pytest.raises(EmptyAnswer, match="never believed"):
            await pool.refresh()
    assert pool.backends() == (A,)


async def test_a_negative_answer_is_confirmed_at_the_pace_of_the_polls() -> None:
    source = ScriptedSource([A], ())
    async with BackendPool(source, poll_interval=30) as pool:
        await asyncio.sleep(65)
        assert pool.backends() == (A,)
        await asyncio.sleep(40)
        assert pool.backends() == ()
    assert all(wait >= 27 - 1e-6 for wait in gaps(source)[1:])


async def test_with_nothing_to_serve_a_negative_answer_is_retried_soon() -> None:
    source = ScriptedSource((), (), [A])
    pool = BackendPool(source, poll_interval=30, empty_after=None)
    await pool.start(required=False)
    await asyncio.sleep(4)
    assert pool.backends() == (A,)
    await pool.aclose()


async def test_an_answer_to_a_question_older_than_an_update_is_discarded() -> None:
    source = ScriptedSource(gated([A]), [C])
    pool = BackendPool(source)
    refresh = asyncio.create_task(pool.refresh())
    await source.called()
    pool.update([B])
    source.release()
    assert (await refresh).backends == (B,)
    assert pool.snapshot.refreshed_at is None
    assert (await pool.refresh()).backends == (C,)


async def test_a_negative_answer_older_than_an_update_is_not_counted() -> None:
    source = ScriptedSource(gated(()), (), (), [A])
    pool = BackendPool(source)
    refresh = asyncio.create_task(pool.refresh())
    await source.called()
    pool.update([B])
    source.release()
    assert (await refresh).backends == (B,)
    for count in (1, 2):
        with pytest.raises(EmptyAnswer, match=f"negative answer {count} of 3"):
            await pool.refresh()


async def test_update_leaves_what_is_known_of_the_source() -> None:
    pool = BackendPool(ScriptedSource([A], OSError("down")))
    await pool.refresh()
    with pytest.raises(SourceError):
        await pool.refresh()
    before = pool.snapshot
    pool.update([B])
    assert pool.snapshot.error is before.error
    assert pool.snapshot.refreshed_at == before.refreshed_at
    assert pool.snapshot.generation == before.generation + 1


async def test_a_hint_is_followed_at_once() -> None:
    source = HintingSource([A], [B], [C])
    async with BackendPool(source, poll_interval=HOUR) as pool:
        source.hint()
        await asyncio.sleep(0.01)
        assert pool.backends() == (B,)
        assert source.calls == 2


async def test_a_source_that_floods_with_hints_is_asked_ten_times_a_second() -> None:
    class Flooding(ScriptedSource):
        async def changed(self) -> None:
            return

    source = Flooding([A])
    async with BackendPool(source, poll_interval=HOUR):
        await asyncio.sleep(10)
    assert 90 <= source.calls <= 120


async def test_a_source_whose_hints_fail_is_polled_on_and_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Mute(ScriptedSource):
        async def changed(self) -> None:
            raise OSError("no watches left")

    source = Mute([A])
    async with BackendPool(source, poll_interval=30):
        await asyncio.sleep(HOUR)
    assert source.calls > 100
    assert len([record for record in caplog.records if "no watches left" in record.message]) == 1


async def test_a_change_between_the_subscription_and_the_fetch_is_not_missed() -> None:
    order: list[str] = []

    class Subscribing(ScriptedSource):
        async def changed(self) -> None:
            order.append("subscribed")
            await asyncio.Event().wait()

        async def fetch(self) -> Iterable[str]:
            order.append("fetched")
            return await super().fetch()

    async with BackendPool(Subscribing([A])):
        assert order == ["subscribed", "fetched"]


async def test_a_foreign_text_is_escaped_and_cut_before_it_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = BackendPool(ScriptedSource([f"evil\r\n\x1b[31m{'x' * 10_000}:80"]))
    with pytest.raises(SourceError):
        await pool.refresh()
    (record,) = caplog.records
    assert record.message.isprintable()
    assert len(record.message) < 500


async def test_a_logging_handler_that_raises_keeps_no_answer_back() -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the disk is full")

    logger = logging.getLogger("backendpool_async")
    logger.addHandler(broken := Broken())
    try:
        async with BackendPool(ScriptedSource([A], OSError(), [B]), poll_interval=5) as pool:
            await asyncio.sleep(30)
            assert pool.backends() == (B,)
    finally:
        logger.removeHandler(broken)


async def test_an_error_of_a_kind_that_a_source_made_itself_is_a_failure_like_any_other() -> None:
    class RegistryDown(SourceError):
        def __init__(self, status: int) -> None:
            Exception.__init__(self, status)

    pool = BackendPool(ScriptedSource(RegistryDown(500), SourceError("x", "a\nforged line")))
    with pytest.raises(SourceError, match="RegistryDown") as caught:
        await pool.refresh()
    assert isinstance(caught.value.__cause__, RegistryDown)
    with pytest.raises(SourceError, match=r"a\\nforged line"):
        await pool.refresh()


async def test_a_ttl_of_zero_is_no_busy_loop() -> None:
    class Unkept(ScriptedSource):
        async def fetch(self) -> Answer:  # type: ignore[override]  # an Answer instead of a list
            return Answer(await super().fetch(), ttl=0)

    source = Unkept([A])
    async with BackendPool(source, poll_interval=30):
        await asyncio.sleep(10)
    assert 80 <= source.calls <= 110


async def test_a_closed_pool_ends_a_pending_refresh() -> None:
    source = ScriptedSource(hang())
    pool = BackendPool(source)
    refresh = asyncio.create_task(pool.refresh())
    await source.called()
    await pool.aclose()
    with pytest.raises(PoolClosed):
        await refresh
    assert source.running == 0


async def test_a_generation_moves_with_order_and_weight_and_not_with_identity() -> None:
    from backendpool_async import Backend

    pool = BackendPool.static([A, B])
    generations = []
    for entries in ([A, B], [B, A], [B, Backend(A, weight=3)], [B, Backend(A, weight=3)]):
        pool.update(entries)
        generations.append(pool.snapshot.generation)
    assert generations == [0, 1, 2, 2]
