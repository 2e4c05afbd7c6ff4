"""The folder of a run: `run.json`, `report.html`, `report.md`, `junit.xml`, `evidence/`, `measurements/` and `logs/`;
and `latest` beside it."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import DiskRefuses, HarnessError
from harness.judging.gate import Forgiven, awaited, gated, strays
from harness.records.codec import SCHEMA, write_record
from harness.records.enums import Tier
from harness.records.evidence import Evidence
from harness.records.measurements import Measurements
from harness.records.run import Run, Verdict
from harness.records.run_files import RUN, any_run
from harness.reports.write import write_reports


@dataclass(frozen=True)
class Asked:
    """What a session was asked for. Its fields are those of a Run."""

    options: tuple[str, ...] = ()
    selected: int | None = None
    selection: str = ""
    shard: str = ""
    gate: bool = False
    """Whether it is to be a gate."""
    tier: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    def of(self, run: Run) -> Run:
        """A run that is asked for this; a gate is red until its end."""
        run = replace(run, **{**vars(self), "gate": None})
        return awaited(run) if self.gate else run


ASKED_NOTHING = Asked()


class RunFolder:
    """Writes a run as it goes: every verdict is on disk when the next case starts. Held by one session at a time."""

    def __init__(self, path: Path, run: Run) -> None:
        """Of a folder that exists. Raises HarnessError if another session writes into it."""
        self.path = path
        self.run = run
        self._lock = _locked(path)

    @classmethod
    def new(cls, parent: Path, asked: Asked = ASKED_NOTHING) -> RunFolder:
        """Make a new folder below `parent`. Raises HarnessError if that cannot be written."""
        now = datetime.now(UTC)
        path = fresh_folder(parent, now.strftime("%Y-%m-%dT%H-%M-%SZ"))
        (path / "logs").mkdir()
        made = cls(path, asked.of(Run(SCHEMA, None, {}, now.isoformat(timespec="seconds"), None, None, ())))
        write_record(path / RUN, made.run)
        link_latest(parent, path)
        return made

    @classmethod
    def resumed(cls, path: Path, asked: Asked = ASKED_NOTHING) -> RunFolder:
        """Go on in the folder of a run that was interrupted; nothing is written until `describe` has found that the
        machine is the same. What was a gate stays one.

        Raises HarnessError if it holds no run, another session still writes it, or it is a gate of other tests.
        """
        path = path.resolve()  # once: `latest` may move on
        made = cls(path, any_run(path))
        made.run = any_run(path)  # once more, now that nobody else writes it
        try:
            refuse_other_tests(path, made.run, asked.selection)
            refuse_other_tier(path, made.run, asked.tier)
        except HarnessError:
            made.release()
            raise
        now = datetime.now(UTC).isoformat(timespec="seconds")
        gate = asked.gate or made.run.gate is not None
        run = replace(made.run, finished=None, exit=None, failed_otherwise=None, resumed=(*made.run.resumed, now))
        made.run = replace(asked, gate=gate).of(run)
        return made

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def describe(self, environment: dict[str, str], *, profile: str | None = None, workers: str = "") -> None:
        """Record on what the run runs, by which hardware profile it is judged, and how its workers start.

        Raises HarnessError if a run that is resumed began elsewhere, or was judged otherwise.
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
        self.run = replace(self.run, environment=environment, profile=profile, workers=workers)
        write_record(self.path / RUN, self.run)

    def say_jobs(self, jobs: int) -> None:
        """Record how many cases run side by side."""
        self.run = replace(self.run, jobs=jobs)
        write_record(self.path / RUN, self.run)

    def add_evidence(self, evidence: Evidence) -> None:
        write_record(self.path / "evidence" / f"{evidence.case}.json", evidence)

    def add_measurements(self, measurements: Measurements) -> None:
        write_record(self.path / "measurements" / f"{measurements.case}.json", measurements)

    def remove_snapshot(self, case: str) -> None:
        """Of an allocator that did nothing wrong: it is large."""
        (self.path / "snapshots" / f"{case}.pickle").unlink(missing_ok=True)

    def add(self, verdict: Verdict) -> None:
        self.run = replace(self.run, verdicts=(*self.run.verdicts, verdict))
        write_record(self.path / RUN, self.run)

    def finish(self, exit_code: int, *, failed_otherwise: int = 0, forgiven: Forgiven | None = None) -> Run:
        """Close the record, judged by a gate if there is something to forgive; returns it. Its `exit` is no success
        where `exit_code`, by the tests alone, is one, but all that was selected was skipped, or the gate is red.

        Raises HarnessError if it or a report of it cannot be written.
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


def refuse_other_tests(folder: Path, run: Run, selection: str) -> None:
    """Raises HarnessError if a run is a gate of other tests than those selected now, of which this is the digest."""
    if run.gate is not None and run.selection != selection:
        raise HarnessError(
            f"{folder}: the selected tests are others than those with which its gate began (resume it with the "
            "selection of that command)"
        )


def refuse_other_tier(folder: Path, run: Run, tier: str) -> None:
    """Raises HarnessError if a run is of another tier than a session that is to go on with it."""
    if run.is_of_other_tier(tier):
        how = "--run-slow" if run.tier == Tier.SLOW else f"--tier {run.tier}"
        raise HarnessError(
            f"{folder}: the run is of tier {run.tier}, but this session of tier {tier} (resume it with {how})"
        )


def _locked(folder: Path) -> int:
    """A descriptor of the folder that no other process has locked; the lock ends with this process at the latest."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise HarnessError(f"{folder}: cannot hold a run: {error.strerror} (name the folder of a run)") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise HarnessError(f"{folder}: another session writes this run (wait until it ends, or end it)") from error
    return descriptor


def scratch(prefix: str) -> Path:
    """A new folder for logs among the temporary files. Raises DiskRefuses if there can be none."""
    try:
        return Path(tempfile.mkdtemp(prefix=prefix))
    except OSError as error:
        where = error.filename or "temporary files"
        raise DiskRefuses(
            f"{where}: cannot hold logs: {error.strerror} (free the disk, or name another folder in TMPDIR)"
        ) from error


def fresh_folder(parent: Path, name: str) -> Path:
    """A new folder below `parent` of that name. Raises HarnessError if that cannot be written."""
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
    """Let `latest` in `parent` be a run below it, in one step. Where links are not to be had, the newest folder's name
    says the same."""
    temporary = parent / f".latest.{os.getpid()}"
    try:
        temporary.symlink_to(run.relative_to(parent))
        temporary.replace(parent / "latest")
    except OSError:
        temporary.unlink(missing_ok=True)
