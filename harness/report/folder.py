"""The folder of a run: `run.json`, `report.html`, `report.md`, `junit.xml`, `evidence/`, `measurements/` and `logs/`;
and `latest` beside it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from harness.codec import SCHEMA, write_record, write_text
from harness.errors import HarnessError
from harness.measured import Measurements
from harness.records import Evidence, Run, Verdict
from harness.report.html import html
from harness.report.junit import junit
from harness.report.markdown import markdown


class RunFolder:
    """Writes a run as it goes: every verdict is on disk when the next case starts."""

    def __init__(self, parent: Path) -> None:
        """Make a new folder below `parent`. Raises HarnessError if that cannot be written."""
        now = datetime.now(UTC)
        self.path = fresh_folder(parent, now.strftime("%Y-%m-%dT%H-%M-%SZ"))
        self.run = Run(
            schema=SCHEMA,
            profile=None,
            environment={},
            started=now.isoformat(timespec="seconds"),
            finished=None,
            exit=None,
            verdicts=(),
        )
        write_record(self.path / "run.json", self.run)
        _link(parent / "latest", self.path.name)

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def describe(self, environment: dict[str, str], *, profile: str | None = None) -> None:
        """Tell on what the run runs, and by which hardware profile it is judged."""
        self.run = replace(self.run, environment=environment, profile=profile)
        write_record(self.path / "run.json", self.run)

    def add_evidence(self, evidence: Evidence) -> None:
        write_record(self.path / "evidence" / f"{evidence.case}.json", evidence)

    def add_measurements(self, measurements: Measurements) -> None:
        write_record(self.path / "measurements" / f"{measurements.case}.json", measurements)

    def remove_snapshot(self, case: str) -> None:
        """Of an allocator that did nothing wrong: it is large."""
        (self.path / "snapshots" / f"{case}.pickle").unlink(missing_ok=True)

    def add(self, verdict: Verdict) -> None:
        self.run = replace(self.run, verdicts=(*self.run.verdicts, verdict))
        write_record(self.path / "run.json", self.run)

    def finish(self, exit_code: int) -> None:
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        self.run = replace(self.run, finished=finished, exit=exit_code)
        write_record(self.path / "run.json", self.run)
        write_reports(self.path, self.run)


def write_reports(folder: Path, run: Run) -> None:
    """Render a run into its folder."""
    write_text(folder / "report.md", markdown(run))
    write_text(folder / "junit.xml", junit(run))
    write_text(folder / "report.html", html(run, folder))


def fresh_folder(parent: Path, name: str) -> Path:
    """A new folder below `parent` of that name, with one for logs. Raises HarnessError if that cannot be written."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):  # two sessions may start in the same second
            folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
            with suppress(FileExistsError):
                (folder / "logs").mkdir(parents=True)
                return folder
        raise HarnessError(f"{parent / name}: stands there 999 times already (remove old runs)")
    except OSError as error:
        raise HarnessError(
            f"{parent}: cannot hold a run: {error.strerror} (choose another folder with --run-dir)"
        ) from error


def _link(link: Path, target: str) -> None:
    """Point `link` at `target` in one step. Where links are not to be had, the newest folder's name says the same."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)
