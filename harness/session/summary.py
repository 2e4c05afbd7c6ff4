"""Last lines of a session in the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from harness.judging.gate import gate_line, left_out_line, tier_line
from harness.records.enums import Tier
from harness.reports.overview import overview_table
from harness.reports.tables import (
    aligned,
    announced,
    case_table,
    changed_numerics,
    judged_cases,
    skipped_paths,
    tally_outcomes,
    untrue_claims,
)
from harness.session.session import Session

SLOWEST = 10
"""Number of slowest steps that are listed."""


def summary(session: Session) -> Iterator[str]:
    """Yield what was not judged and why, the tables, and where the record is."""
    verdicts, cases = session.verdicts, session.cases
    skipped = skipped_paths(verdicts)
    if cases:
        yield ""
        if judged := judged_cases(verdicts):
            yield from aligned(case_table(judged))
        if overview := overview_table(verdicts):
            yield from ("", *aligned(overview), "")
        yield from untrue_claims(verdicts)
        yield from (f"{reason}: {', '.join(paths)}" for reason, paths in skipped.items())
        yield from changed_numerics(verdicts)
        yield from (f"announced to end: {line}" for line in announced(verdicts))
        yield from cases.expectations.notes
        if slowest := session.costs.slowest(SLOWEST):
            yield f"slowest: {', '.join(f'{step} {seconds:.0f} s' for step, seconds in slowest)}"
        yield f"{tally_outcomes(verdicts)}; record: {cases.folder.path}"
        if session.plan.left_out_by_tier:
            yield f"{tier_line(cases.folder.run)} ({_later(session.options.tier)})"
    if session.selection.count and all(verdict.outcome.skips for verdict in verdicts):
        yield f"nothing was judged: {'; '.join(skipped) or 'the session ended before a verdict'}"
    if session.problem:
        yield session.problem
    if cases and (gate := gate_line(cases.folder.run)):
        yield gate
        if cases.folder.run.gate:
            yield (
                "  next: set that right, or allow it by name in the profile (docs/gate.md), and judge the run again: "
                f"harness report {cases.folder.path}"
            )


def why_nothing_is_selected(session: Session, markers: str, keywords: str) -> str:
    """Return why the values of `-m` and `-k` select no test of a case."""
    plan = session.plan
    chosen = " ".join(f"{flag} {shlex.quote(value)}" for flag, value in (("-m", markers), ("-k", keywords)) if value)
    no_cuda = plan.inventory.why_no_cuda if "cuda" in markers else ""
    why = f"; there is no CUDA here: {no_cuda}" if no_cuda else ""
    if plan.left_out_by_tier:
        why += f"{left_out_line(plan.left_out_by_tier)} of tier {plan.tier} ({_later(plan.tier)})"
    return (
        f"nothing was judged: {chosen or 'the selection'} selects none of the {len(plan.all)} cases planned here{why}"
    )


def _later(tier: Tier) -> str:
    """Return how to run what a tier leaves out."""
    later = {Tier.SMOKE: "--tier daily, --nightly and --run-slow run them", Tier.NIGHTLY: "--run-slow runs them"}
    return later.get(tier, "--nightly and --run-slow run them")
