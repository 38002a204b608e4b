"""What policies and ejection do for those who send requests: a simulation in virtual time.

``python -m benchmarks.quality [--quick]``; `quality_plot` draws it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Final

from benchmarks.quality_cases import (
    BLACK_HOLES,
    CALM,
    EJECTING,
    RETURN,
    RETURNING,
    STAYING,
    STAYS,
    WITHOUT_HEALTH,
    simulate_all,
)
from benchmarks.quality_figures import (
    failed,
    latency,
    mean_latency_in_theory,
    p99_of_each,
    shares,
    spread,
)
from benchmarks.quality_model import (
    BACKENDS,
    CLIENTS,
    COLDER,
    DEAD,
    RATE_EACH,
    SERVICE,
    SLOW,
    SLOWER,
    TIMEOUT,
    WARMED_BY,
    WORKERS,
    Case,
    Outcome,
    simulate,
)
from benchmarks.report import Report, check, is_quick

Runs = dict[str, tuple[Outcome, ...]]

BAD_SECOND: Final = 100.0
"""In milliseconds: twice what p99 is while all are well."""
_TROUBLE: Final = (STAYS.trouble, STAYS.end)
_RETURN: Final = (RETURN.returns, RETURN.end)


def main() -> None:
    quick = is_quick(__doc__)
    report = Report("quality: policies and ejection, simulated", quick=quick)
    seeds = 1 if quick else 3
    report.note(
        f"{CLIENTS} clients with a balancer each, {RATE_EACH:g} requests/s each (Poisson);"
        f" {BACKENDS} backends: {WORKERS} workers, a queue, exponential {SERVICE * 1e3:g} ms;"
        f" time limit {TIMEOUT:g} s; one retry elsewhere. n is the number of seeds"
    )
    check_model()
    staying(report, "the dead one refuses", simulate_all(STAYING, STAYS, seeds))
    if not quick:
        runs = simulate_all(BLACK_HOLES, STAYS, seeds)
        staying(report, f"the dead one is a black hole, {TIMEOUT:g} s each", runs)
    returning(report, simulate_all(RETURNING[:3] if quick else RETURNING, RETURN, seeds))


def staying(report: Report, what: str, runs: Runs) -> None:
    for name, outcomes in runs.items():
        report.section(
            f"{name}: one of {BACKENDS} is {SLOWER:g} times slower, one is dead for"
            f" {STAYS.end - STAYS.trouble:g} s; {what}"
        )
        for label, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
            report.figure(label, latencies(outcomes, share), "ms")
        bad = [bad_seconds(outcome) for outcome in outcomes]
        report.figure(f"seconds in which p99 is above {BAD_SECOND:g} ms", bad, "s")
        report.figure("failed, with the retry", [failed(o, *_TROUBLE) for o in outcomes], "%")
        report.figure(
            "the busiest of the good ones, of their mean",
            [spread(o, *_TROUBLE) for o in outcomes],
            "x",
        )
        for label, number in (("slow", SLOW), ("dead", DEAD)):
            got = [shares(outcome, *_TROUBLE)[number] for outcome in outcomes]
            report.figure(f"attempts at the {label} one", got, "%")
    report.section(f"p99 without health ({WITHOUT_HEALTH[1].name}), of that with ejection; {what}")
    before = latencies(runs[WITHOUT_HEALTH[1].name], 0.99)
    for case in EJECTING:
        report.ratio(case.name, before, latencies(runs[case.name], 0.99))


def returning(report: Report, runs: Runs) -> None:
    report.section(
        f"one dies at {RETURN.trouble:g} s, is back at {RETURN.returns:g} s with cold caches (at"
        f" first {COLDER:g} times slower, warm after some {2 * WARMED_BY:g} requests), ejected"
        f" until 40 to 50 s"
    )
    worst: dict[str, list[float]] = {}
    for name, outcomes in runs.items():
        for label, share in (("p99", 0.99), ("p99.9", 0.999)):
            taken = [latency(outcome, *_RETURN, share) for outcome in outcomes]
            report.figure(f"{name}: {label}", taken, "ms")
        worst[name] = [worst_second(outcome) for outcome in outcomes]
        report.figure(f"{name}: p99 of the worst second", worst[name], "ms")
    for at_once, slowly in pairs(RETURNING[1:]):
        if slowly.name in worst:
            label = f"{slowly.name}: worst second, times better"
            report.ratio(label, worst[at_once.name], worst[slowly.name])


def pairs(cases: Sequence[Case]) -> Iterable[tuple[Case, Case]]:
    return zip(cases[::2], cases[1::2], strict=True)


def worst_second(outcome: Outcome) -> float:
    # Those with health meet the returned one when its ejections of 30 s end, those without at once.
    return max(p99_of_each(outcome, 1, RETURN.end)[int(RETURN.returns) :])


def bad_seconds(outcome: Outcome) -> float:
    each = p99_of_each(outcome, 1, STAYS.end)[int(STAYS.trouble) :]
    return float(sum(p99 > BAD_SECOND for p99 in each))


def latencies(outcomes: tuple[Outcome, ...], share: float) -> list[float]:
    return [latency(outcome, *_TROUBLE, share) for outcome in outcomes]


def check_model() -> None:
    outcome = simulate(WITHOUT_HEALTH[0], CALM, seed=0)
    mean, theory = statistics.fmean(outcome.took), mean_latency_in_theory()
    check(abs(mean / theory - 1) < 0.03, f"queues are as in theory: {mean} and {theory} s")
    check(not any(outcome.failed), "nothing fails while all are well")
    requests = CLIENTS * RATE_EACH * CALM.end
    check(abs(len(outcome.took) / requests - 1) < 0.02, "as many requests as there should be")
    again = simulate(WITHOUT_HEALTH[0], CALM, seed=0)
    check(outcome == again, "a seed decides everything")


if __name__ == "__main__":
    main()
