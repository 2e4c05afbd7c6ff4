"""Files of a statement on a machine: `statement.json`, `statement.md` and `statement.html`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.commands.validate.records import SHOWN, Grade
from harness.commands.validate.statement import Acceptance, Statement
from harness.formatting import escaped, one_line
from harness.records.codec import write_record, write_text
from harness.reports.html import rendered
from harness.reports.page import Table
from harness.reports.tables import markdown_table

NAME = "statement"
TEMPLATE = Path(__file__).with_name("statement.html.jinja")
SIGNS = {
    Acceptance.ACCEPTED: ("good", "✓"),
    Acceptance.WITH_EXCEPTIONS: ("open", "?"),
    Acceptance.REJECTED: ("bad", "✕"),
}
"""Colour and sign of an acceptance."""
MARKS = {Grade.GOOD: "✓ good", Grade.EXCEPTION: "? exception", Grade.REJECTING: "✕ rejecting"}
DIGESTS = (
    "The first digits of the SHA-256 of what each operation gave; statement.json holds all of them. The same card with "
    "the same versions should give them again; others may round otherwise."
)


def write_statement(folder: Path, statement: Statement) -> tuple[Path, ...]:
    """Write all three files, the record last: where it is, the others are. Raises HarnessError if the disk refuses."""
    paths = tuple(folder / f"{NAME}.{kind}" for kind in ("md", "html", "json"))
    write_text(paths[0], statement_markdown(statement))
    write_text(paths[1], statement_html(statement, has_report=(folder / "report.html").exists()))
    write_record(paths[2], statement)
    return paths


def statement_markdown(statement: Statement) -> str:
    """Return the statement as Markdown: its line, then all reasons, then all checks."""
    return "\n".join(_markdown(statement)) + "\n"


def statement_html(statement: Statement, *, has_report: bool) -> str:
    """Return the statement as one HTML page. It has no scripts, and needs no other file but the run's report."""
    kind, sign = SIGNS[statement.acceptance]
    checks, digests = _checks(statement), _digests(statement)
    content: dict[str, Any] = {
        "statement": statement,
        "kind": kind,
        "sign": sign,
        "why": statement.line.removeprefix(f"{statement.acceptance}: "),
        "has_report": has_report,
        "checks": Table(checks[0], checks[1:], "preflight and fingerprint", "labelled"),
        "digests": Table(digests[0], digests[1:], "digests", "said") if len(digests) > 1 else None,
        "suites": _suites(statement),
        "told_of_proposal": _proposal(statement),
        "notes": {"digests": DIGESTS},
    }
    return rendered(TEMPLATE, content)


def _markdown(statement: Statement) -> Iterator[str]:
    yield f"# {_shown(statement.line)}"
    for title, lines in (("Why it is rejected", statement.rejections), ("Exceptions", statement.exceptions)):
        if lines:
            yield from ("", f"## {title}", "", *(f"- {_shown(line)}" for line in lines))
    yield from ("", "## Preflight and fingerprint", "", *markdown_table(_rows(_checks(statement))))
    if len(digests := _digests(statement)) > 1:
        yield from ("", *markdown_table(_rows(digests)), "", DIGESTS)
    yield from ("", "## Suites", "", _shown(_suites(statement)))
    yield from ("", "## Proposed profile", "", *(f"- {_shown(line)}" for line in _proposal(statement)))
    yield from (
        "",
        "## Environment",
        "",
        *(f"- {name}: {_shown(value)}" for name, value in statement.environment.items()),
    )
    yield from ("", f"{statement.device}, profile {statement.profile or 'none'}, {statement.date}.")


def _shown(text: str) -> str:
    return escaped(one_line(text))


def _rows(table: list[list[str]]) -> list[list[str]]:
    return [[_shown(cell) for cell in row] for row in table]


def _checks(statement: Statement) -> list[list[str]]:
    """Return the table of checks, worst first. The last column is the grade, by which rows are coloured."""
    worst = sorted(statement.checks, key=lambda check: [*MARKS].index(check.grade), reverse=True)
    rows = [[check.about, check.what, check.got, check.limit, MARKS[check.grade]] for check in worst]
    return [["of", "what", "is", "should be", "grade"], *rows]


def _digests(statement: Statement) -> list[list[str]]:
    rows = [
        [each.about, operation, digest[:SHOWN]]
        for each in statement.fingerprints
        for operation, digest in each.digests.items()
    ]
    return [["of", "operation", "digest"], *rows]


def _suites(statement: Statement) -> str:
    tally = ", ".join(f"{number} {outcome}" for outcome, number in statement.outcomes.items()) or "no verdict"
    selection = f"; pytest was given besides: {statement.selection}" if statement.selection else ""
    return f"{tally}{selection}"


def _proposal(statement: Statement) -> list[str]:
    return [*statement.proposal.files, *statement.proposal.steps] or ["nothing is proposed"]
