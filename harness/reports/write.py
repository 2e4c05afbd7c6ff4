"""Write all reports of a run."""

from __future__ import annotations

from pathlib import Path

from harness.records.codec import write_text
from harness.records.run import Run
from harness.reports.html import html
from harness.reports.junit import junit
from harness.reports.markdown import markdown


def write_reports(folder: Path, run: Run) -> None:
    """Render a run into its folder. The page comes last: it needs packages that no other file does."""
    write_text(folder / "report.md", markdown(run))
    write_text(folder / "junit.xml", junit(run))
    write_text(folder / "report.html", html(run, folder))
