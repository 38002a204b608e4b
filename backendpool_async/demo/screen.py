"""What the demo looks like: 80 columns, coloured on a terminal, plain elsewhere."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from backendpool_async import SourceError
from backendpool_async.demo.follower import Follower, Tally

_WIDTH: Final = 80
_LEFT: Final = 9
_NAME: Final = 6

_ROWS: Final[Sequence[tuple[str, Callable[[Tally], str]]]] = (
    ("changes made", lambda tally: f"{tally.changes_made}"),
    ("changes seen", lambda tally: f"{len(tally.times_to_see)}"),
    ("longest time to see one", lambda tally: duration(max(tally.times_to_see, default=None))),
    ("failures made", lambda tally: f"{tally.failures_made}"),
    ("failures survived", lambda tally: f"{tally.failures_survived}"),
    ("longest failure", lambda tally: duration(tally.longest_failure)),
    ("backends served meanwhile", lambda tally: _number(tally.served_meanwhile)),
    ("reads while broken", lambda tally: f"{tally.reads_while_broken:,}"),
    ("reads in all", lambda tally: f"{tally.reads:,}"),
    ("  of them empty", lambda tally: f"{tally.empty_reads:,}"),
)


class Screen:
    """Tells the story line by line, with the time since it began."""

    def __init__(self) -> None:
        self._console = _PatientConsole(highlight=False)
        self._console.width = min(self._console.width, _WIDTH)
        self._began = time.perf_counter()

    def introduce(self, places: Sequence[tuple[str, str]]) -> None:
        """Say what is about to be seen."""
        self._console.print("backendpool demo", style="bold")
        self._console.print(
            "Three places list backends, and a pool follows each. The places change and\n"
            "break, while a reader takes the list of every pool about once a millisecond.\n"
            "All that you see was measured."
        )
        self._console.print()
        for name, where in places:
            line = Text.assemble("  ", (f"{name:{_NAME}}", "cyan"), where)
            self._console.print(line, soft_wrap=True)  # a long path stays in one piece

    def chapter(self, title: str) -> None:
        """Begin the next part of the story."""
        self._console.print()
        self._console.print(title, style="bold")

    def deed(self, text: str) -> None:
        """Say what is done now."""
        elapsed = time.perf_counter() - self._began
        self._console.print(Text.assemble((f"{elapsed:5.1f} s  ", "dim"), text))

    def shows(self, follower: Follower, before: Sequence[str], note: str) -> None:
        """Print the list of a pool, and what is new in it."""
        after = follower.pool.backends()
        line = Text()
        for backend in after:
            is_new = backend not in before
            line.append(f" +{backend}" if is_new else f"  {backend}", "green" if is_new else "")
        for gone in before:
            if gone not in after:
                line.append(f" -{gone}", "red")
        self._line(follower, line, note)

    def fails(self, follower: Follower, error: SourceError, note: str) -> None:
        """Print why the source of a pool fails."""
        self._line(follower, Text("  failing", "yellow"), note)
        indent = " " * (_LEFT + _NAME + 2)
        self._console.print(
            textwrap.fill(
                error.reason, self._console.width, initial_indent=indent, subsequent_indent=indent
            ),
            style="dim",
            markup=False,
        )

    def misses(self, follower: Follower, what: str) -> None:
        """Print that a pool does not show what it should."""
        self._line(follower, Text(f"  NOT SEEN: {what}", "bold red"), "")

    def summarize(self, followers: Sequence[Follower]) -> None:
        """Print what was counted."""
        table = Table(box=None, padding=(0, 0, 0, 4), show_edge=False, header_style="cyan")
        table.add_column("")
        for follower in followers:
            table.add_column(follower.name, justify="right")
        for title, of in _ROWS:
            table.add_row(title, *(of(follower.tally) for follower in followers))
        self._console.print(table)

    def end(self, unmet: Sequence[str]) -> None:
        """Print whether all went as it should."""
        elapsed = time.perf_counter() - self._began
        self._console.print()
        if not unmet:
            self._console.print(
                "Every change was seen, every failure survived, no read was empty."
                f" ({elapsed:.1f} s)",
                style="bold green",
            )
            return
        self._console.print(f"Not as it should be ({elapsed:.1f} s):", style="bold red")
        for what in unmet:
            self._console.print(f"  {what}", style="red")

    def _line(self, follower: Follower, line: Text, note: str) -> None:
        left = Text.assemble(" " * _LEFT, (f"{follower.name:{_NAME}}", "cyan"), line)
        if note:
            left.pad_right(max(1, self._console.width - len(left) - len(note)))
            left.append(note, "dim")
        self._console.print(left)


class _PatientConsole(Console):
    """One that falls silent when nobody reads on; how to end then is for the command to say."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def duration(seconds: float | None) -> str:
    """Return a measured time, short.

    >>> duration(0.00213), duration(1.044), duration(None)
    ('2.1 ms', '1.04 s', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _number(number: int | None) -> str:
    return "-" if number is None else f"{number}"
