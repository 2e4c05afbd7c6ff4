"""`python -m suites.claims RUN` prints README's two tables, as the finished session in that folder has them."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.report.overview import WORDS, overview_table
from harness.report.tables import markdown_table
from harness.run_files import finished_run
from harness.vocabulary import Outcome, Property
from suites.claims.registry import CLAIMS

TOLD = {**WORDS, Outcome.UNSUPPORTED: "not here"}


def tables(verdicts):
    """Lines of the overview, and of all claims: what each says, and what was found of it."""
    head, *rows = overview_table(verdicts)
    overview = [[row[0].replace("_", " "), *row[1:]] for row in rows]
    found = {verdict.case: verdict for verdict in verdicts if verdict.property is Property.CLAIM}
    claims = [[f"`{claim.name}`", claim.says, _found(found[claim.name])] for claim in CLAIMS if claim.name in found]
    return markdown_table([head, *overview]), markdown_table([["claim", "the overview says", "here"], *claims])


def _found(verdict):
    return f"{TOLD.get(verdict.outcome, verdict.outcome)}: {verdict.message.removeprefix(f'{verdict.case}: ')}"


if __name__ == "__main__":
    overview, claims = tables(finished_run(Path(sys.argv[1])).verdicts)
    sys.stdout.write("\n".join([*overview, "", *claims, ""]))
