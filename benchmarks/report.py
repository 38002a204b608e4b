"""What every benchmark prints: the machine, medians with their spread, ratios beside targets."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Sequence


class Report:
    """Prints one benchmark's figures as they come, in columns."""

    def __init__(self, title: str, *, quick: bool) -> None:
        self._missed = 0
        self._judged = 0
        print(f"{title}{' (quick: fewer rounds, wider spread)' if quick else ''}")
        print(f"{machine()}\n")
        print(f"{'':56}{'median':>12}   quartiles")

    def section(self, title: str) -> None:
        """Begin a group of figures."""
        print(f"\n{title}", flush=True)

    def figure(self, label: str, samples: Sequence[float], unit: str) -> None:
        """Print the median and the quartiles of what was measured."""
        low, median, high = quartiles(samples)
        spread = f"  {number(low)} to {number(high)}, most {number(max(samples))}, n={len(samples)}"
        once = len(samples) == 1
        print(f"  {label:54}{number(median):>9} {unit:<4}{'' if once else spread}", flush=True)

    def ratio(
        self,
        label: str,
        ours: Sequence[float],
        theirs: Sequence[float],
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Judge how many times theirs ours is: the median of the rounds' own ratios.

        What slows the machine down for a while slows both halves of a round.
        """
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        self.judge(label, ratios, "x", at_most=at_most, at_least=at_least)

    def judge(
        self,
        label: str,
        samples: Sequence[float],
        unit: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Print a median with its quartiles, the target beside it, and whether it is met."""
        low, median, high = quartiles(samples)
        verdict = ""
        if at_most is not None:
            verdict = f"   at most {at_most:g}: {self._met(median <= at_most)}"
        elif at_least is not None:
            verdict = f"   at least {at_least:g}: {self._met(median >= at_least)}"
        spread = f"{number(low)} to {number(high)}" if len(samples) > 1 else ""
        print(f"> {label:54}{number(median):>9} {unit:<4}  {spread}{verdict}", flush=True)

    def note(self, text: str) -> None:
        """Print what a reader must know about the figures."""
        print(f"  ({text})", flush=True)

    def end(self) -> None:
        """Print how many targets were met, where there were any."""
        if self._judged:
            print(f"\n{self._judged - self._missed} of {self._judged} targets met")

    def _met(self, met: bool) -> str:
        self._judged += 1
        self._missed += not met
        return "met" if met else "NOT MET"


def check(right: bool, claim: str) -> None:
    """Raise AssertionError unless what is measured does what it should."""
    if not right:
        raise AssertionError(f"the benchmark measures something wrong: not so that {claim}")


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, median, high


def percentile(samples: Sequence[float], percent: int) -> float:
    """Return the sample below which `percent` of them lie."""
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]


def number(value: float) -> str:
    """Return three digits that mean something.

    >>> number(0.01234), number(1.234), number(1234.5)
    ('0.012', '1.23', '1,234')
    """
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def machine() -> str:
    """Return what the figures depend on: interpreter, processor, and who else is busy."""
    load = os.getloadavg()[0]
    return (
        f"{platform.python_implementation()} {platform.python_version()}, {_processor()},"
        f" {os.cpu_count()} cores, load {load:.2f} before the run"
    )


def is_quick(description: str | None) -> bool:
    """Read the command line: whether a rough answer in a few seconds is enough."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a wider spread")
    return bool(parser.parse_args().quick)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
