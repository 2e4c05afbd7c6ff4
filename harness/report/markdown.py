"""`report.md`: a run as a CI summary shows it, failures first."""

from __future__ import annotations

from harness.records import Run
from harness.report.overview import overview_table
from harness.report.tables import (
    case_table,
    changed_numerics,
    claim_table,
    judged_cases,
    markdown_table,
    skipped_paths,
    tally_outcomes,
)

ERROR_RATIO = (
    "Error ratio: RMS error of the logits against the float64 reference over that of eager in the same dtype, "
    "the worst of all phases and rows."
)
OVERVIEW = (
    "A tick of the overview holds, does not hold, or is undecided, by its whole interval; a figure without such a word "
    "has no tick."
)
FIGURES = (
    "Speed ×: eager's time over the path's, the median of pairs with an interval of which each bound holds with 99 % "
    "confidence. Memory ×: the path's peak over eager's. MBU: share of the measured memory bandwidth that a decode "
    "step uses. MFU: share of the measured rate of matrix products that the prefill uses."
)


def markdown(run: Run) -> str:
    """The report of a run."""
    failures = [verdict for verdict in run.verdicts if verdict.outcome.fails]
    judged = judged_cases(run.verdicts)
    lines = [f"# {tally_outcomes(run.verdicts)}", ""]
    if failures:
        lines += ["## Failed", "", *(f"- **{v.outcome}** {v.property}: {v.message}" for v in failures), ""]
    if measured := overview_table(run.verdicts):
        lines += ["## The optimization overview, measured here", "", *markdown_table(measured), "", OVERVIEW, ""]
    if claims := claim_table(run.verdicts):
        lines += ["## Claims", "", *markdown_table(claims), ""]
    if skipped := skipped_paths(run.verdicts):
        lines += ["## Not judged", "", *(f"- {reason}: {', '.join(paths)}" for reason, paths in skipped.items()), ""]
    if changed := changed_numerics(run.verdicts):
        lines += ["## Numerics changed", "", *(f"- {line}" for line in changed), ""]
    if judged:
        lines += ["## Cases", "", *markdown_table(case_table(judged)), ""]
        lines += [ERROR_RATIO, ""]
        lines += [FIGURES, ""] if any(verdict.property.measured for verdict in judged) else []
    lines += ["## Environment", "", *(f"- {name}: {value}" for name, value in run.environment.items())]
    lines += [
        "",
        f"Started {run.started}, finished {run.finished or 'never'}, exit {'none' if run.exit is None else run.exit}.",
    ]
    return "\n".join(lines) + "\n"
