"""`python -m suites.claims RUN` prints both tables of docs/measured/overview.md from a run."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.records.enums import Outcome
from harness.records.run import Run
from harness.records.run_files import finished_run
from harness.reports.overview import WORDS, overview_table
from harness.reports.tables import markdown_table
from suites.claims.registry import CLAIMS


def tables(run: Run) -> tuple[list[str], list[str]]:
    """(the overview, measured; every claim with what was found), as lines of Markdown. Raises KeyError if a claim is
    missing: the page shows them all."""
    found = {verdict.case: verdict for verdict in run.verdicts}
    rows = [["claim", "the overview says", "here"]]
    for claim in CLAIMS:
        verdict = found[claim.name]
        told = verdict.message.removeprefix(f"{claim.name}: ")
        word = "not here" if verdict.outcome is Outcome.UNSUPPORTED else WORDS.get(verdict.outcome, verdict.outcome)
        rows.append([f"`{claim.name}`", claim.says, f"{word}: {told}"])
    overview = [
        [cell.replace("_", " ") if not place else cell for place, cell in enumerate(row)]
        for row in overview_table(run.verdicts)
    ]
    return markdown_table(overview), markdown_table(rows)


if __name__ == "__main__":
    for table in tables(finished_run(Path(sys.argv[1]))):
        sys.stdout.write("\n".join([*table, "", ""]))
