"""How a command ends early: by Ctrl-C or another signal, or because nobody reads its output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, Final

# As shells number the end by a signal: SIGHUP, SIGINT, SIGPIPE, SIGTERM.
HUNG_UP: Final = 129
INTERRUPTED: Final = 130
NOBODY_READS: Final = 141
TERMINATED: Final = 143


@contextlib.contextmanager
def one_ctrl_c() -> Iterator[None]:
    """In the end, take Ctrl-C as it was taken before; `until_ended` ignores a second one."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None:  # pragma: no branch - None is another language's handler
            signal.signal(signal.SIGINT, before)


def until_ended(work: Coroutine[Any, Any, int]) -> int:
    """Return the status of `work`, or of what ended it: a signal, or that nobody reads on.

    From the first Ctrl-C on it cleans up, and further ones are ignored.
    """
    try:
        return asyncio.run(_endable(work))
    finally:
        # It may have been interrupted before it began.
        work.close()


def discard_output() -> None:
    """Let what is still buffered for stdout go nowhere."""
    # It would fail again when the interpreter flushes it at its end.
    with contextlib.suppress(AttributeError, OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


async def _endable(work: Coroutine[Any, Any, int]) -> int:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    ended: list[int] = []

    def end(status: int) -> None:
        if not ended and task:
            ended.append(status)
            task.cancel()

    def interrupt(*_: object) -> None:
        loop.call_soon_threadsafe(end, INTERRUPTED)

    with contextlib.ExitStack() as stack:
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.SIG_IGN:
            # Not the loop's, which takes none on Windows, and has a moment without any at its end.
            signal.signal(signal.SIGINT, interrupt)
            stack.callback(
                lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if ended else before)
            )
        with contextlib.suppress(NotImplementedError):  # an event loop of Windows
            for number, status in _signals().items():
                loop.add_signal_handler(number, end, status)
                stack.callback(loop.remove_signal_handler, number)
            # The next change may be hours away: without this, `watch URL | head -1` waits for it.
            if (pipe := _output_pipe()) is not None:
                loop.add_reader(pipe, end, NOBODY_READS)
                stack.callback(loop.remove_reader, pipe)
        try:
            return await work
        except asyncio.CancelledError:
            if not ended:
                raise
            return ended[0]


def _signals() -> dict[int, int]:
    signals: dict[int, int] = {signal.SIGTERM: TERMINATED}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # The terminal is closed; `nohup` has it ignored.
        signals[signal.SIGHUP] = HUNG_UP
    return signals


def _output_pipe() -> int | None:
    try:
        descriptor = sys.stdout.fileno()
        return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None
    except (AttributeError, OSError):  # there is no stdout, or it is no file
        return None
