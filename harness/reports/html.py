"""Render `report.html`: one page without scripts, network access or other files. Imports Jinja2 on first use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, first_line
from harness.formatting import printable
from harness.judging.gate import gate_line, tier_line
from harness.records.codec import write_text
from harness.records.enums import Property, Technique
from harness.records.run import Run, Verdict
from harness.reports.bars import chart
from harness.reports.failures import failures
from harness.reports.headline import headline
from harness.reports.heat import heat, legend, matrix
from harness.reports.junit import junit
from harness.reports.markdown import ERROR_RATIO, FIGURES, OVERVIEW, markdown
from harness.reports.overview import overview_table
from harness.reports.page import CasePage, badges, with_badges
from harness.reports.page_cases import Files, case_page, read_files
from harness.reports.page_roofline import roofline
from harness.reports.place import exit_words, machine_line
from harness.reports.reproduce import notes_of
from harness.reports.tables import (
    announced,
    changed_numerics,
    claim_table,
    grouped,
    judged_cases,
    skipped_paths,
    tally_outcomes,
    tried_cases,
)

FOLDER = Path(__file__).parent
TEMPLATE = FOLDER / "report.html.jinja"
UNFOLDED = 10
"""Most failures that the page shows unfolded."""


def write_reports(folder: Path, run: Run) -> None:
    """Render a run into its folder. The page comes last: it needs packages that no other file does."""
    write_text(folder / "report.md", markdown(run))
    write_text(folder / "junit.xml", junit(run))
    write_text(folder / "report.html", html(run, folder))


def html(run: Run, folder: Path) -> str:
    """Return the page of a run and its folder. Raises HarnessError if a package that draws it is missing or broken."""
    try:
        return rendered(TEMPLATE, _content(run, folder))
    except ImportError as error:
        raise HarnessError(
            f"{folder / 'report.html'}: cannot be drawn: {first_line(error)} (pip install -e . adds what it "
            f"needs; then: harness report {folder})"
        ) from error


def rendered(template: Path, content: Mapping[str, Any]) -> str:
    """Fill in a template, which may include others of its own folder and of this one.

    Characters that a page cannot hold are taken out, and the rest is escaped.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=printable,
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template(template.name).render(content)


def _breakable(name: str) -> Any:
    """Return a path's name as markup in which a line may end after each dot, underscore and plus sign."""
    from markupsafe import Markup

    return Markup("").join(Markup("{}<wbr>").format(part) for part in re.split(r"(?<=[._+])", printable(name)))


def _content(run: Run, folder: Path) -> dict[str, Any]:
    cases = grouped([*judged_cases(run.verdicts), *tried_cases(run.verdicts)], lambda verdict: verdict.case)
    files = {case: read_files(folder, case) for case in cases}
    evidence = {case for case, case_files in files.items() if case_files.evidence}
    overview = with_badges(overview_table(run.verdicts), name="the optimization overview, measured", kind="labelled")
    heat_map, said = heat(run.verdicts), headline(run)
    first, _, clauses = said.partition(": ")
    lead, _, rest = clauses.partition("; ")
    return {
        "run": run,
        "exit": exit_words(run),
        "times": "; ".join(filter(None, (_times(run), tier_line(run)))),
        "headline": said,
        "first": first,
        "lead": lead,
        "rest": rest,
        "machine": machine_line(run),
        "title": tally_outcomes(run.verdicts),
        "gate": gate_line(run),
        "tally": sorted(badges(run.verdicts, counted=True), key=lambda badge: badge.kind == "none"),
        "speed": chart(run.verdicts, Property.SPEED, name="speedup over eager"),
        "memory": chart(run.verdicts, Property.MEMORY, name="memory over eager's"),
        "heat": heat_map,
        "legend": legend(heat_map) if heat_map else [],
        "failures": failures(run.verdicts, evidence=evidence, session_options=run.options, environment=run.environment),
        "notes_on_failures": [*notes_of(run.environment)],
        "unfolded": UNFOLDED,
        "overview": overview,
        "claims": with_badges(claim_table(run.verdicts), name="claims", kind="words"),
        "matrix": matrix(run.verdicts),
        "techniques": _techniques(cases, files),
        "cases": set(cases),
        "roofline": roofline((cases[c][0].dtype, f.measurements) for c, f in files.items() if f.measurements),
        "changed": changed_numerics(run.verdicts),
        "announced": announced(run.verdicts),
        "skipped": skipped_paths(run.verdicts),
        "notes": {"error ratio": ERROR_RATIO, "figures": FIGURES, "overview": OVERVIEW},
    }


def _techniques(cases: Mapping[str, list[Verdict]], files: Mapping[str, Files]) -> dict[Technique, list[CasePage]]:
    """Return the pages of all cases by technique, cases that failed first."""
    pages = (case_page(cases[case], files[case], name=f"c{place}") for place, case in enumerate(cases, 1))
    by_technique = grouped(pages, lambda page: cases[page.case][0].technique)
    return {
        technique: sorted(some, key=lambda page: page.badges[0].kind != "bad")
        for technique, some in by_technique.items()
    }


def _times(run: Run) -> str:
    """Return when the run started and how long it took."""
    if run.finished is None:
        return f"started {run.started}, never finished"
    try:
        start, end = datetime.fromisoformat(run.started), datetime.fromisoformat(run.finished)
        minutes, seconds = divmod(int((end - start).total_seconds()), 60)
    except (ValueError, TypeError):  # of another tool, or written before times had zones
        return f"started {run.started}, finished {run.finished}"
    return f"started {start:%Y-%m-%d %H:%M:%S %Z}, took {minutes} min {seconds} s"
