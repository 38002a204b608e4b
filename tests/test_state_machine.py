"""The pool against a model of a few lines, through random scripts of what can happen to it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from backendpool_async import (
    BackendPool,
    EmptyAnswer,
    InvalidBackend,
    PoolClosed,
    SourceError,
    SourceTimeout,
)
from backendpool_async.testing import ScriptedSource, VirtualTimeLoop, gated, hang, stubborn

T = TypeVar("T")

ADDRESSES = [f"10.0.0.{number}:80" for number in range(1, 5)]
lists = st.lists(st.sampled_from(ADDRESSES), min_size=1, unique=True)
EMPTY_AFTER = 3
TIMEOUT = 2.0


class PoolMachine(RuleBasedStateMachine):
    """Every fetch is one that a rule asked for: the poll interval is longer than any script."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        # The model.
        self.held: tuple[str, ...] = ()
        self.generation = 0
        self.error: type[SourceError] | None = None
        self.refreshed = False
        self.negatives = 0
        self.running = False

    @initialize(initial=st.one_of(st.just([]), lists))
    def make(self, initial: list[str]) -> None:
        self.source = ScriptedSource(initial)
        self.run(self.source.fetch())
        self.pool = BackendPool(
            self.source,
            poll_interval=1e9,
            timeout=TIMEOUT,
            empty_after=EMPTY_AFTER,
            initial=initial,
        )
        self.held = tuple(initial)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(main)

    def become(self, backends: tuple[str, ...]) -> None:
        if backends != self.held:
            self.held = backends
            self.generation += 1

    def learn(self, step: object) -> type[Exception] | None:
        """Move the model as one finished fetch does; what the fetch raises, if anything."""
        if isinstance(step, list) and step:
            self.become(tuple(step))
            self.negatives, self.error, self.refreshed = 0, None, True
            return None
        if isinstance(step, list):
            self.negatives += 1
            if self.negatives >= EMPTY_AFTER:
                self.become(())
                self.error, self.refreshed = None, True
                return None
            self.error = EmptyAnswer
            return EmptyAnswer
        self.error = SourceTimeout if isinstance(step, TimeoutError) else SourceError
        return self.error

    @rule(step=st.one_of(lists, st.just([]), st.sampled_from([OSError("down"), TimeoutError()])))
    def refresh(self, step: object) -> None:
        self.source.then(step)
        expected = self.learn(step)
        if expected is None:
            assert self.run(self.pool.refresh()).backends == self.held
        else:
            with pytest.raises(expected):
                self.run(self.pool.refresh())

    @rule(wrong=st.sampled_from([None, "10.0.0.1:80", ["10.0.0.1:80", "bad"]]))
    def refresh_from_a_source_that_lies(self, wrong: object) -> None:
        self.source.then(wrong)
        self.error = SourceError
        with pytest.raises(SourceError):
            self.run(self.pool.refresh())

    @rule()
    def refresh_that_times_out(self) -> None:
        self.source.then(hang())
        self.error = SourceTimeout
        with pytest.raises(SourceTimeout):
            self.run(self.pool.refresh())

    @rule(step=lists)
    def refresh_that_swallows_its_cancellation(self, step: list[str]) -> None:
        self.source.then(stubborn(TIMEOUT + 0.05, step))
        self.error = SourceTimeout
        with pytest.raises(SourceTimeout):
            self.run(self.pool.refresh())

    @rule(pushed=st.one_of(st.just([]), lists))
    def update(self, pushed: list[str]) -> None:
        self.pool.update(pushed)
        self.become(tuple(pushed))
        self.negatives = 0

    @rule(wrong=st.sampled_from([None, "10.0.0.1:80", ["10.0.0.1:80", "bad"]]))
    def update_with_nonsense(self, wrong: Any) -> None:
        with pytest.raises(InvalidBackend):
            self.pool.update(wrong)

    @rule(late=st.one_of(lists, st.just([])), pushed=lists)
    def update_during_a_refresh(self, late: list[str], pushed: list[str]) -> None:
        async def script() -> None:
            self.source.then(gated(late))
            called = self.source.calls
            refresh = asyncio.create_task(self.pool.refresh())
            await self.source.called(called + 1)
            self.pool.update(pushed)
            self.source.release()
            assert (await refresh).backends == tuple(pushed)

        self.run(script())
        self.become(tuple(pushed))
        self.negatives = 0

    @rule(step=st.one_of(lists, st.just([]), st.just(OSError("down"))))
    def cancel_a_refresh(self, step: object) -> None:
        async def script() -> None:
            self.source.then(gated(step))
            called = self.source.calls
            refresh = asyncio.create_task(self.pool.refresh())
            await self.source.called(called + 1)
            refresh.cancel()
            await asyncio.wait({refresh})
            assert refresh.cancelled()
            if self.running:
                # The fetch goes on for the pool itself, and whoever asks now joins it.
                joined = asyncio.create_task(self.pool.refresh())
                await asyncio.sleep(0)
                self.source.release()
                await asyncio.wait({joined})
                assert type(joined.exception()) is (self.learn(step) or type(None))
            assert self.source.calls == called + 1

        self.run(script())

    @rule(step=st.one_of(lists, st.just([]), st.just(OSError("down"))), required=st.booleans())
    @precondition(lambda self: not self.running)
    def start(self, step: object, *, required: bool) -> None:
        self.source.then(step)
        expected = self.learn(step)
        if expected is not None and required and not self.held:
            with pytest.raises(expected):
                self.run(self.pool.start(required=required))
        else:
            self.run(self.pool.start(required=required))
            self.running = True

    @rule()
    @precondition(lambda self: self.running)
    def start_again(self) -> None:
        calls = self.source.calls
        self.run(self.pool.start())
        assert self.source.calls == calls

    @rule()
    def close(self) -> None:
        self.run(self.pool.aclose())
        self.running = False

    @rule()
    def close_during_a_refresh(self) -> None:
        async def script() -> None:
            self.source.then(hang())
            called = self.source.calls
            refresh = asyncio.create_task(self.pool.refresh())
            await self.source.called(called + 1)
            await self.pool.aclose()
            with pytest.raises(PoolClosed):
                await refresh

        self.run(script())
        self.running = False

    @invariant()
    def the_snapshot_is_what_the_model_says(self) -> None:
        if not hasattr(self, "pool"):
            return
        snapshot = self.pool.snapshot
        assert snapshot.backends == self.held
        assert self.pool.backends() is snapshot.backends
        assert snapshot.generation == self.generation
        assert type(snapshot.error) is (self.error or type(None))
        assert (snapshot.refreshed_at is not None) == self.refreshed
        assert self.source.most_at_once <= 1

    @invariant()
    def nothing_runs_but_what_should(self) -> None:
        tasks = asyncio.all_tasks(self.runner.get_loop())
        assert len(tasks) == (1 if self.running else 0)

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.run(self.pool.aclose())
            assert not asyncio.all_tasks(self.runner.get_loop())
        self.runner.close()


PoolMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, report_multiple_bugs=False
)
TestThePoolBehavesAsItsModel = PoolMachine.TestCase
