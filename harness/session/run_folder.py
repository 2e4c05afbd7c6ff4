"""The folder of a run, and the link `latest` to the newest one.

A run folder holds `run.json`, `verdicts.jsonl`, `report.html`, `report.md`, `junit.xml`, `evidence/`, `measurements/`,
`snapshots/` and `logs/`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import HarnessError
from harness.judging.gate import Forgiven, awaited, gated, strays
from harness.machine.locks import lock_at_once
from harness.records.codec import SCHEMA, append_line, write_lines, write_record
from harness.records.enums import Tier
from harness.records.evidence import Evidence
from harness.records.measurements import Measurements
from harness.records.run import Run, Verdict
from harness.records.run_files import RUN, VERDICTS, any_run
from harness.reports.html import write_reports


@dataclass(frozen=True)
class RunRequest:
    """Request that a session was started with. Its fields are those of a Run."""

    options: tuple[str, ...] = ()
    selected: int | None = None
    selection: str = ""
    shard: str = ""
    gate: bool = False
    """Whether the run is judged by the gate at its end."""
    tier: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    def of(self, run: Run) -> Run:
        """Return the run with this request. A gate is red until the end of the run."""
        run = replace(run, **{**vars(self), "gate": None})
        return awaited(run) if self.gate else run


ASKED_NOTHING = RunRequest()


class RunFolder:
    """Writes a run as it goes: every verdict is on disk when the next case starts. One session at a time holds it.

    Until the run ends, its verdicts are lines of `verdicts.jsonl`, and `run.json` holds everything else. `finish`
    writes all of it into `run.json`, which is the whole record from then on. `verdicts.jsonl` stays as it is: no crash
    can come between writing the one and removing the other, and who reads the folder meanwhile misses no verdict.
    """

    def __init__(self, path: Path, run: Run) -> None:
        """Lock a folder that exists. Raises HarnessError if another session writes into it."""
        self.path = path
        self.run = run
        self._lock = _locked(path)

    @classmethod
    def new(cls, parent: Path, request: RunRequest = ASKED_NOTHING) -> RunFolder:
        """Make a new folder below `parent`. Raises HarnessError if that cannot be written."""
        now = datetime.now(UTC)
        path = fresh_folder(parent, now.strftime("%Y-%m-%dT%H-%M-%SZ"))
        (path / "logs").mkdir()
        made = cls(path, request.of(Run(SCHEMA, None, {}, now.isoformat(timespec="seconds"), None, None, ())))
        made._write_head()
        link_latest(parent, path)
        return made

    @classmethod
    def resumed(cls, path: Path, request: RunRequest = ASKED_NOTHING) -> RunFolder:
        """Go on in the folder of a run that was interrupted. A run that was a gate stays one.

        Nothing is written until `describe` has found that the machine is the same.

        Raises HarnessError if it holds no run, another session still writes it, it is a gate of other tests, or it is
        of another tier.
        """
        path = path.resolve()  # once: `latest` may move on
        made = cls(path, any_run(path))
        try:
            made.run = resumable_run(path, request.selection, request.tier)  # now that nobody else writes it
        except HarnessError:
            made.release()
            raise
        now = datetime.now(UTC).isoformat(timespec="seconds")
        gate = request.gate or made.run.gate is not None
        run = replace(made.run, finished=None, exit=None, exit_again=None, failed_otherwise=None)
        run = replace(run, resumed=(*run.resumed, now))
        made.run = replace(request, gate=gate).of(run)
        return made

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def describe(self, environment: dict[str, str], *, profile: str | None = None, workers: str = "") -> None:
        """Record what the run runs on, the hardware profile that judges it, and how its workers start.

        Raises HarnessError if a run that is resumed began in another environment, or was judged by another profile.
        """
        if self.run.resumed:
            was = {**self.run.environment, "profile": self.run.profile or ""}
            now = {**environment, "profile": profile or ""}
            differing = [name for name in (*was, *now) if was.get(name) != now.get(name)]
            if was.keys() != {"profile"} and differing:
                name = differing[0]
                raise HarnessError(
                    f"{self.path}: {name} was {was.get(name, 'none')}, but is {now.get(name, 'none')} now (a run is "
                    "resumed where it began: start another)"
                )
            # Before run.json is written without them: it may hold them, and a kill may have cut the last line.
            write_lines(self.path / VERDICTS, self.run.verdicts)
        self.run = replace(self.run, environment=environment, profile=profile, workers=workers)
        self._write_head()

    def say_jobs(self, jobs: int) -> None:
        """Record how many cases run side by side."""
        self.run = replace(self.run, jobs=jobs)
        self._write_head()

    def _write_head(self) -> None:
        write_record(self.path / RUN, replace(self.run, verdicts=()))

    def add_evidence(self, evidence: Evidence) -> None:
        write_record(self.path / "evidence" / f"{evidence.case}.json", evidence)

    def add_measurements(self, measurements: Measurements) -> None:
        write_record(self.path / "measurements" / f"{measurements.case}.json", measurements)

    def remove_snapshot(self, case: str) -> None:
        """Remove the allocator's snapshot of a case that did nothing wrong, since it is large."""
        (self.path / "snapshots" / f"{case}.pickle").unlink(missing_ok=True)

    def add(self, verdict: Verdict) -> None:
        """Record a verdict. It outlives this process. Raises DiskRefuses."""
        self.run = replace(self.run, verdicts=(*self.run.verdicts, verdict))
        append_line(self.path / VERDICTS, verdict)

    def finish(self, exit_code: int, *, failed_otherwise: int = 0, forgiven: Forgiven | None = None) -> Run:
        """Close the record, write its reports, and return it. `forgiven` is given if a gate judges the run.

        `exit_code` is by the tests alone. The `exit` of the record is 1 instead of 0 if tests of cases were selected
        and none was judged, or if the gate is red.

        Raises HarnessError if the record or a report of it cannot be written.
        """
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        run = replace(self.run, finished=finished, exit=exit_code, failed_otherwise=None)
        run = replace(run, failed_otherwise=failed_otherwise or strays(run))
        run = gated(run, forgiven) if forgiven is not None else run
        nothing = bool(run.selected) and all(verdict.outcome.skips for verdict in run.verdicts)
        self.run = replace(run, exit=exit_code or int(nothing or bool(run.gate)))
        try:
            write_record(self.path / RUN, self.run)
            write_reports(self.path, self.run)
        finally:
            self.release()
        return self.run

    def release(self) -> None:
        """Let another session write here."""
        os.close(self._lock)


def resumable_run(folder: Path, selection: str, tier: str) -> Run:
    """Return the run in a folder. Raises HarnessError if it is none, or of other tests or another tier."""
    run = any_run(folder)
    refuse_other_tests(folder, run, selection)
    refuse_other_tier(folder, run, tier)
    return run


def refuse_other_tests(folder: Path, run: Run, selection: str) -> None:
    """Raise HarnessError if a run is a gate of other tests than those selected now, whose digest is `selection`."""
    if run.gate is not None and run.selection != selection:
        raise HarnessError(
            f"{folder}: the selected tests are others than those with which its gate began (resume it with the "
            "selection of that command)"
        )


def refuse_other_tier(folder: Path, run: Run, tier: str) -> None:
    """Raise HarnessError if a run is of another tier than the session that is to go on with it."""
    if run.is_of_other_tier(tier):
        how = "--run-slow" if run.tier == Tier.SLOW else f"--tier {run.tier}"
        raise HarnessError(
            f"{folder}: the run is of tier {run.tier}, but this session of tier {tier} (resume it with {how})"
        )


def _locked(folder: Path) -> int:
    """Lock a folder against other processes, and return its descriptor.

    The lock ends with this process at the latest. Raises HarnessError if the folder cannot be opened or is locked.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise HarnessError(f"{folder}: cannot hold a run: {error.strerror} (name the folder of a run)") from error
    try:
        lock_at_once(descriptor, alone=True)
    except OSError as error:
        os.close(descriptor)
        raise HarnessError(f"{folder}: another session writes this run (wait until it ends, or end it)") from error
    return descriptor


def run_made_in(parent: Path) -> Path | None:
    """Return the folder of the one run below `parent`; None if no session began one there."""
    return next((path.parent for path in parent.glob(f"*/{RUN}") if not path.parent.is_symlink()), None)


def fresh_folder(parent: Path, name: str) -> Path:
    """Make a folder `name` or `name-N` below `parent`. Raises HarnessError if it cannot be written."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):  # two sessions may start in the same second
            folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
        raise HarnessError(f"{parent / name}: stands there 999 times already (remove old runs)")
    except OSError as error:
        raise HarnessError(
            f"{parent}: cannot hold a run: {error.strerror} (choose another folder with --run-dir)"
        ) from error


def link_latest(parent: Path, run: Path) -> None:
    """Point `latest` in `parent` to a run, in one step. Where links fail, the newest folder's name says the same."""
    temporary = parent / f".latest.{os.getpid()}"
    try:
        temporary.symlink_to(run.relative_to(parent))
        temporary.replace(parent / "latest")
    except OSError:
        temporary.unlink(missing_ok=True)
