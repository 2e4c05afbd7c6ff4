"""What the study found, as numbers and as the table of docs/measured/sensitivity.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from harness.reports.tables import markdown_table
from harness.statistics import LOOKS
from suites.meta.sensitivity.record import SAME, SLOWED, Trace
from suites.meta.sensitivity.study import (
    Counts,
    Trial,
    by_absolute,
    by_baseline,
    by_threshold,
    lengthened,
    median_pairs,
    trials_of,
    widths,
)

RULES = ("threshold", "executed", "baseline", "absolute")
NAMES = {
    "threshold": "no slower than eager",
    "executed": "the same, where the slowdown really ran, in rounds of five runs beside up to four other jobs",
    "baseline": "no slower than the speedup recorded in the session before",
    "absolute": "time no more than 5 % above the one stored in the session before, as most projects have it",
}


ARMS = (SAME, *SLOWED)


def results_of(alone: Sequence[Trace], slowed: Sequence[Trace], *, environment: Mapping[str, str]) -> dict[str, Any]:
    """Verdicts by rule and arm, and how intervals narrow, with what they were recorded on. `alone` are traces of eager
    with itself, lengthened for the other arms; in `slowed` the slowdown ran, in rounds of five runs."""
    found: dict[str, Any] = {"environment": dict(environment), "rounds": len(alone[0].dropped)}
    found |= {"traces": len(alone), "slowed_traces": len(slowed)}
    for arm in ARMS:
        traces = alone if arm == SAME else [lengthened(trace, arm) for trace in alone]
        trials, recorded = trials_of(traces, arm), trials_of(traces, arm, recorded=True)
        held, improved = by_baseline(traces, recorded)
        executed = trials_of(slowed, arm)
        found[arm] = {
            "threshold": _counted(by_threshold(trials)),
            "executed": _counted(by_threshold(executed)),
            "baseline": _counted(held) | {"improved": improved},
            "absolute": _counted(by_absolute(traces, arm)),
            "median_pairs": median_pairs(trials),
            "median_speedup": {"alone": _median_of(trials), "executed": _median_of(executed)},
        }
    found["widths"] = [
        {"pairs": pairs, "seconds": seconds, "median": half, "nine_in_ten": worst}
        for pairs, seconds, half, worst in widths(alone)
    ]
    return found


def table_of(results: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown: verdicts by rule and slowdown, and widths by pairs."""
    rows = [["rule", "eager with itself", *(f"slowed by {arm} %" for arm in ARMS if arm != SAME)]]
    rows += [[NAMES[rule], *(_cell(results[arm][rule], alarm=arm == SAME) for arm in ARMS)] for rule in RULES]
    spans = [["pairs", *(str(look) for look in LOOKS)]]
    spans.append(["seconds, median", *(f"{each['seconds']:.0f}" for each in results["widths"])])
    spans.append(["half width, median", *(f"{each['median']:.1%}".replace("%", " %") for each in results["widths"])])
    nine = [f"{each['nine_in_ten']:.1%}".replace("%", " %") for each in results["widths"]]
    spans.append(["half width, nine in ten below", *nine])
    return [*markdown_table(rows), "", *markdown_table(spans)]


def _median_of(trials: Sequence[Trial]) -> float:
    return round(median(each.interval.mid for each in trials), 4)


def _counted(counts: Counts) -> dict[str, int]:
    return {"caught": counts.caught, "undecided": counts.undecided, "missed": counts.missed}


def _cell(counted: Mapping[str, int], *, alarm: bool) -> str:
    from scipy.stats import binomtest  # an environment without scipy can still collect this package's tests

    trials = counted["caught"] + counted["undecided"] + counted["missed"]
    interval = binomtest(counted["caught"], trials).proportion_ci(0.95, method="wilson")
    word = "alarms" if alarm else "caught"
    open_ = f", {counted['undecided']} inconclusive" if counted["undecided"] else ""
    return f"{counted['caught']} of {trials} {word} ({100 * interval.low:.0f} to {100 * interval.high:.0f} %){open_}"
