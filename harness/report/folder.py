"""The folder of a run: `run.json`, `report.html`, `report.md`, `junit.xml`, `evidence/`, `measurements/` and `logs/`;
and `latest` beside it."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from harness.codec import SCHEMA, write_record, write_text
from harness.errors import HarnessError
from harness.gate import Forgiven, awaited, gated
from harness.measured import Measurements
from harness.records import Evidence, Run, Verdict
from harness.report.html import html
from harness.report.junit import junit
from harness.report.markdown import markdown
from harness.run_files import RUN, any_run


class RunFolder:
    """Writes a run as it goes: every verdict is on disk when the next case starts. Held by one session at a time."""

    def __init__(self, path: Path, run: Run) -> None:
        """Of a folder that exists. Raises HarnessError if another session writes into it."""
        self.path = path
        self.run = run
        self._lock = _locked(path)

    @classmethod
    def new(cls, parent: Path) -> RunFolder:
        """Make a new folder below `parent`. Raises HarnessError if that cannot be written."""
        now = datetime.now(UTC)
        path = fresh_folder(parent, now.strftime("%Y-%m-%dT%H-%M-%SZ"))
        made = cls(path, Run(SCHEMA, None, {}, now.isoformat(timespec="seconds"), None, None, ()))
        write_record(path / RUN, made.run)
        _link(parent / "latest", path.name)
        return made

    @classmethod
    def resumed(cls, path: Path) -> RunFolder:
        """Go on in the folder of a run that was interrupted; nothing is written until `describe` has found that the
        machine is the same. Raises HarnessError if it holds no run, or another session still writes it."""
        made = cls(path.resolve(), any_run(path))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made.run = replace(made.run, finished=None, exit=None, resumed=(*made.run.resumed, now))
        return made

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def describe(
        self,
        environment: dict[str, str],
        *,
        profile: str | None = None,
        options: tuple[str, ...] = (),
        gate: bool = False,
    ) -> None:
        """Tell on what the run runs, by which hardware profile it is judged, what it was told (`Run.options`), and
        whether a gate is asked for.

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
        self.run = replace(self.run, environment=environment, profile=profile, options=options)
        self.run = awaited(self.run) if gate else self.run
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

    def finish(
        self, exit_code: int, *, selected: int | None = None, shard: str = "", forgiven: Forgiven | None = None
    ) -> Run:
        """Close the record, judged by a gate if there is something to forgive; returns it. What it says of `exit_code`
        is what pytest will: that of a red gate is no success."""
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        self.run = replace(self.run, finished=finished, exit=exit_code, selected=selected, shard=shard)
        if forgiven is not None:
            run = gated(self.run, forgiven)
            self.run = replace(run, exit=exit_code or int(bool(run.gate)))
        try:
            write_record(self.path / RUN, self.run)
            write_reports(self.path, self.run)
        finally:
            self.release()
        return self.run

    def release(self) -> None:
        """Let another session write here."""
        os.close(self._lock)


def write_reports(folder: Path, run: Run) -> None:
    """Render a run into its folder, last the page, which needs packages that no other file does."""
    write_text(folder / "report.md", markdown(run))
    write_text(folder / "junit.xml", junit(run))
    write_text(folder / "report.html", html(run, folder))


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
