"""Hours of polling in milliseconds: an event loop whose clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, Final, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_DAY: Final = 86_400.0


class DeadlockError(RuntimeError):
    """A virtual clock that cannot go on: every task waits for something that cannot happen."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while there is work and then jumps to the next timer.

    `time()` starts at 0.0 and counts seconds; `asyncio.sleep`, `asyncio.timeout` and `call_later`
    follow it, `time.monotonic()` and `time.time()` do not. A job in a thread (`asyncio.to_thread`,
    `run_in_executor`) is waited for in real time and takes no virtual time, unless it outlasts
    the next timer for real. For a thread that was started otherwise, see `paused`.

    Never with sockets, pipes, subprocesses or watched directories: a clock cannot know that one
    of them is about to answer. The loop raises RuntimeError as soon as it is given one.

    Raises `DeadlockError`, out of the call that runs the loop, when nothing can ever wake a task
    again, and when the clock passes `horizon` seconds: usually a task that waits for ever beside
    one that polls for ever.

    >>> import asyncio
    >>> async def main():
    ...     await asyncio.sleep(3 * 24 * 3600)
    ...     return asyncio.get_running_loop().time()
    >>> with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
    ...     runner.run(main())
    259200.0
    """

    def __init__(self, *, horizon: float = 30 * _DAY) -> None:
        self._clock = _JumpingSelector(horizon)
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the seconds of virtual time since the loop was made."""
        return self._clock.now

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the clock from jumping while a thread that the loop did not start is at work.

        Inside, the loop waits for the thread's `call_soon_threadsafe` in real time, as it does by
        itself for `asyncio.to_thread`. `anyio.to_thread` needs it.

        >>> import asyncio, threading
        >>> async def main(loop):
        ...     rung = asyncio.Event()
        ...     thread = threading.Thread(target=loop.call_soon_threadsafe, args=[rung.set])
        ...     with loop.paused():
        ...         thread.start()
        ...         await rung.wait()
        ...     thread.join()
        ...     return loop.time()
        >>> with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        ...     runner.run(main(runner.get_loop()))
        0.0
        """
        self._clock.pauses += 1
        try:
            yield
        finally:
            self._clock.pauses -= 1

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Run `func` in a thread, as every event loop does; the clock waits for it."""
        future = super().run_in_executor(executor, func, *args)
        self._clock.pauses += 1
        future.add_done_callback(self._resume)
        return future

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the threads of the default executor, in real time."""
        with self.paused():
            await super().shutdown_default_executor(*args, **kwargs)

    def _resume(self, _: asyncio.Future[Any]) -> None:
        self._clock.pauses -= 1


class _JumpingSelector(selectors.DefaultSelector):
    # The loop asks its selector to sleep until the next timer: that is the moment to jump.

    def __init__(self, horizon: float) -> None:
        super().__init__()
        self.now = 0.0
        self.pauses = 0
        self._horizon = horizon
        self._own_pipe: int | None = None
        self._refused: int | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        if self._own_pipe is None:
            self._own_pipe = key.fd
        else:
            # Raised by the next select: transports register in callbacks, where it would be
            # logged and then waited for.
            self._refused = key.fd
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._refused is not None:
            refused, self._refused = self._refused, None
            raise RuntimeError(
                f"descriptor {refused} (a socket, a pipe, a watched directory) was given to a"
                " VirtualTimeLoop, which has none: run this test on a normal event loop"
            )
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self.pauses:
            events = super().select(timeout)
            if events or timeout is None:
                return events
        elif timeout is None:
            raise DeadlockError(
                "nothing is scheduled and no thread is at work, so these wait for ever:"
                + _waiting_tasks()
            )
        # To the nanosecond: three sleeps of 0.1 end at 0.3.
        self.now = round(self.now + timeout, 9)
        if self.now > self._horizon:
            raise DeadlockError(
                f"the clock passed the horizon of {self._horizon} s while these were waiting:"
                + _waiting_tasks()
            )
        return events


def _waiting_tasks() -> str:
    lines = [
        f"\n  {task.get_name()} in {frame.f_code.co_qualname},"
        f" {frame.f_code.co_filename}:{frame.f_lineno}"
        for task in asyncio.all_tasks()
        for frame in task.get_stack(limit=1)
    ]
    return "".join(sorted(lines)) or " no task at all"
