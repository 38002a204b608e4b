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
from backendpool_async.demo.load import Load

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
            "Requests come at a steady rate: from a client that finds the proxy by a DNS\n"
            "name, through the proxy, which finds its backends in a file, to three backends,\n"
            "each a process. They are deployed anew and killed, and the lists break.\n"
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
            line.append(f" {'+' if is_new else ' '}{_port(backend)}", "green" if is_new else "")
        for gone in before:
            if gone not in after:
                line.append(f" -{_port(gone)}", "red")
        self._line(follower, line, note)

    def tells(self, who: str, text: str, note: str) -> None:
        """Print what somebody else than a pool has to say."""
        self._told(who, Text(f"  {text}"), note)

    def fails(self, follower: Follower, error: SourceError, note: str) -> None:
        """Print why the source of a pool fails."""
        self._line(follower, Text("  failing", "yellow"), note)
        indent = _LEFT + _NAME + 2
        self._paragraph(f"{'':{indent}}{error.reason}", indent, style="dim")

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

    def sum_up_requests(self, load: Load, retries: int) -> None:
        """Print what became of the requests."""
        p50, p99 = duration(load.percentile(50)), duration(load.percentile(99))
        total = max(1, load.answers.total())
        shares = [f"{name} {times / total:.0%}" for name, times in sorted(load.answers.items())]
        for title, text in (
            ("requests", f"{load.requests:,}"),
            ("  failed", f"{load.failures.total():,}"),
            ("  tried again elsewhere", f"{retries:,}"),
            ("answered within", f"{p50} (p50), {p99} (p99)"),
            ("shares", ", ".join(shares)),
        ):
            self._paragraph(f"    {title:28}{text}", indent=32)
        self._console.print()

    def sum_up_kept(self, followers: Sequence[Follower]) -> None:
        """Print what was served in spite of what."""
        self._console.print()
        for follower in followers:
            tally = follower.tally
            kept = f"kept {_number(tally.served_meanwhile)} for {duration(tally.longest_failure)}"
            for reason in tally.reasons:
                self._paragraph(f"    {follower.name:{_NAME}}{kept}: {reason}", indent=10)

    def end(self, unmet: Sequence[str]) -> None:
        """Print whether all went as it should."""
        elapsed = time.perf_counter() - self._began
        self._console.print()
        if not unmet:
            self._console.print(
                "No request failed, every change was seen, every failure survived."
                f" ({elapsed:.1f} s)",
                style="bold green",
            )
            return
        self._console.print(f"Not as it should be ({elapsed:.1f} s):", style="bold red")
        for what in unmet:
            self._console.print(f"  {what}", style="red")

    def _line(self, follower: Follower, line: Text, note: str) -> None:
        self._told(follower.name, line, note)

    def _paragraph(self, text: str, indent: int, style: str | None = None) -> None:
        filled = textwrap.fill(
            text, self._console.width, subsequent_indent=" " * indent, break_on_hyphens=False
        )
        self._console.print(filled, style=style, markup=False)

    def _told(self, who: str, line: Text, note: str) -> None:
        left = Text.assemble(" " * _LEFT, (f"{who:{_NAME}}", "cyan"), line)
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


def _port(backend: str) -> str:
    # The demo's are all on one host.
    return backend[backend.rindex(":") :]


def _number(number: int | None) -> str:
    return "-" if number is None else f"{number}"
