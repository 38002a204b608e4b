"""Draws what `quality` measures: what ejection, two choices and a slow start buy.

``python -m benchmarks.quality_plot OUT.svg`` (or .png); needs matplotlib.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.quality_cases import RETURN, RETURNING, STAYING, STAYS, simulate_all
from benchmarks.quality_figures import failed, p99_of_each, shares, spread
from benchmarks.quality_model import BACKENDS, CLIENTS, DEAD, RATE_EACH, SLOW, TIMEOUT, Outcome

# Colours that are told apart by the colour-blind (Okabe and Ito), greys for what has no health.
COLOURS: Final = {
    "Random, no health": "#b5b5b5",
    "RoundRobin, no health": "#6e6e6e",
    "Random": "#e69f00",
    "RoundRobin": "#0072b2",
    "LeastRequest": "#cc79a7",
    "PeakEwma": "#009e73",
    "RoundRobin, slow start 0 s": "#d55e00",
    "RoundRobin, slow start 30 s": "#0072b2",
}
NOT_DRAWN_OVER_TIME: Final = "Random, no health"
WINDOW: Final = 2
# Any: the names of its settings are a literal type of matplotlib's own, with hundreds of members.
STYLE: Final[dict[Any, Any]] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "font.size": 10,
    "svg.fonttype": "none",
}

Runs = dict[str, Outcome]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="a file; its ending says the format")
    out = str(parser.parse_args().out)
    staying = first_seed(simulate_all(STAYING, STAYS, 1))
    returning = first_seed(simulate_all(RETURNING[:3], RETURN, 1))
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(13, 8.8), layout="constrained")
        # Apart: the names of the bars above take no room below.
        (upper,), (lower,) = figure.subfigures(2, 1, squeeze=False)
        top_left, top_right = upper.subplots(1, 2, width_ratios=(1.35, 1))
        left, right = lower.subplots(1, 2, width_ratios=(1.35, 1))
        figure.suptitle(
            f"{CLIENTS} clients, each with its own balancer, {RATE_EACH:g} requests/s each, to"
            f" {BACKENDS} backends (simulated; time limit {TIMEOUT:g} s, one retry);"
            " all but the grey ones eject",
            x=0.01,
            ha="left",
            fontsize=11,
            color="#444444",
        )
        draw_trouble(top_left, staying)
        draw_shares(top_right, staying)
        draw_return(left, returning)
        draw_share_of_the_returned(right, returning)
        figure.savefig(out, dpi=110)
    print(f"{out} is drawn")


def draw_trouble(axes: Axes, runs: Runs) -> None:
    axes.set_title("p99 while one backend is dead and one is 10 times slower")
    drawn = {name: run for name, run in runs.items() if name != NOT_DRAWN_OVER_TIME}
    draw_latency(axes, drawn, int(STAYS.end))
    axes.legend(ncols=3, loc="upper right")
    mark(axes, STAYS.trouble, "one dies, one gets slow")


def draw_return(axes: Axes, runs: Runs) -> None:
    axes.set_title("p99 when one backend dies and comes back with cold caches")
    draw_latency(axes, runs, int(RETURN.end))
    axes.legend(loc="upper right")
    mark(axes, RETURN.trouble, "dies")
    mark(axes, RETURN.returns, "is back")
    axes.axvspan(40, 48, color="#0072b2", alpha=0.07, linewidth=0)
    axes.text(44, 18, "ejections\nend", ha="center", va="bottom", color="#555555", fontsize=9)


def draw_latency(axes: Axes, runs: Runs, end: int) -> None:
    begins = range(0, end, WINDOW)
    for name, run in runs.items():
        axes.plot(
            [begin + WINDOW / 2 for begin in begins],
            p99_of_each(run, WINDOW, end),
            color=COLOURS[name],
            label=name,
            linewidth=1.4 if "no health" in name else 2,
        )
    axes.set_yscale("log")
    axes.set_ylim(15, 3_000)
    axes.set_yticks([20, 50, 100, 200, 500, 1_000], ["20", "50", "100", "200", "500", "1,000"])
    axes.minorticks_off()
    axes.set_xlim(0, end)
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"p99 of each {WINDOW} s, in ms")


def draw_shares(axes: Axes, runs: Runs) -> None:
    axes.set_title("What the sick backends still get")
    height = 0.38
    names = list(runs)[::-1]
    got = [shares(runs[name], STAYS.trouble, STAYS.end) for name in names]
    for number, label, shift in ((DEAD, "the dead one", -0.5), (SLOW, "the slow one", 0.5)):
        axes.barh(
            [place + shift * height for place in range(len(names))],
            [each[number] for each in got],
            height,
            color=[COLOURS[name] for name in names],
            alpha=1.0 if number == SLOW else 0.55,
            label=label,
        )
        for place, each in enumerate(got):
            axes.text(
                each[number] + 0.06,
                place + shift * height,
                f"{each[number]:.2g} %, {label}",
                va="center",
                fontsize=8.5,
                color="#555555",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )
    fair = 100 / BACKENDS
    axes.axvline(fair, color="#888888", linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(names)), [labelled(name, runs[name]) for name in names], fontsize=9)
    axes.set_xlim(0, 7)
    axes.grid(False, axis="y")
    axes.set_xlabel(f"% of all attempts in {STAYS.end - STAYS.trouble:g} s (dotted: an even share)")


def labelled(name: str, run: Outcome) -> str:
    lost = failed(run, STAYS.trouble, STAYS.end)
    busiest = spread(run, STAYS.trouble, STAYS.end)
    return f"{name}\n{lost:.2g} % fail, busiest {busiest:.2f}x mean"


def draw_share_of_the_returned(axes: Axes, runs: Runs) -> None:
    axes.set_title("What the returned backend gets")
    begins = range(0, int(RETURN.end), WINDOW)
    for name, run in runs.items():
        got = [shares(run, begin, begin + WINDOW)[DEAD] for begin in begins]
        axes.plot(
            [begin + WINDOW / 2 for begin in begins],
            got,
            color=COLOURS[name],
            label=name,
            linewidth=1.4 if "no health" in name else 2,
        )
    mark(axes, RETURN.trouble, "dies", height=0.93)
    mark(axes, RETURN.returns, "is back", height=0.93)
    axes.set_xlim(0, RETURN.end)
    axes.set_ylim(0, 8)
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"% of the attempts of each {WINDOW} s")
    axes.legend(loc="upper right")


def mark(axes: Axes, at: float, what: str, height: float = 0.02) -> None:
    axes.axvline(at, color="#999999", linewidth=1, linestyle="--")
    axes.text(
        at,
        height,
        f" {what}",
        transform=axes.get_xaxis_transform(),
        va="bottom",
        color="#555555",
        fontsize=9,
    )


def first_seed(runs: dict[str, tuple[Outcome, ...]]) -> Runs:
    return {name: outcomes[0] for name, outcomes in runs.items()}


if __name__ == "__main__":
    main()
