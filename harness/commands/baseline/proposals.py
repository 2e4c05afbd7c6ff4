"""Turn a finished run into recorded baselines: propose, compare, accept."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import HarnessError, UnknownName
from harness.judging.baseline_comparison import WIDEST, Change, compare, figures_of, losses
from harness.judging.timings import speedup, unfit
from harness.machine.inventory import refuse_simulated
from harness.profiles.baselines import (
    SCHEMA,
    BaselineFile,
    Baselines,
    differences,
    digest,
    environment_of,
    hardware_of,
    read_baselines,
    read_file,
    technique_of,
    write_files,
)
from harness.profiles.profile import BASELINES, FILE, Profile, read_profile
from harness.records.baseline import Figures, Recorded
from harness.records.codec import to_plain
from harness.records.enums import Outcome, Property, Technique
from harness.records.measurements import Measurements, Speed
from harness.records.run import Run, Verdict
from harness.records.run_files import finished_run, measurements_of

NOTHING = Figures(None, None)
NEW = "NEW"
"""Word of `diff` for a metric that is not recorded yet."""


@dataclass(frozen=True)
class Proposal:
    """Records that a run would add to a profile."""

    run: Path
    environment: Mapping[str, str]
    """Environment of the run."""
    profile: Profile
    """Profile that the run matched."""
    files: Mapping[Technique, BaselineFile]
    left_out: Mapping[str, str]
    """Reason for which a measured case is not worth recording, in a line without its id, by case."""

    @property
    def cases(self) -> dict[str, Recorded]:
        return {case: entry for file in self.files.values() for case, entry in file.cases.items()}


@dataclass(frozen=True)
class BaselineRow:
    """One metric of one case, in `harness baseline diff`."""

    case: str
    metric: str
    stored: float | None
    now: float | None
    was: str
    """`stored` with its unit and, if it has one, its interval."""
    got: str
    change: str
    """A Change, NEW, or the relative difference of seconds, which are not judged."""


@dataclass(frozen=True)
class BaselineDifference:
    """A run compared with what is recorded."""

    rows: tuple[BaselineRow, ...]
    notes: tuple[str, ...]
    """Notes that a reader of the rows needs, a line each."""


@dataclass(frozen=True)
class Accepted:
    """Result of accepting a proposal, by case."""

    paths: tuple[Path, ...]
    """Files written."""
    taken: tuple[str, ...]
    kept: tuple[str, ...]
    """Cases that are neither better nor worse than recorded, and were not named: what is recorded stays."""


def proposal_of(run: Path, root: Path) -> Proposal:
    """Return what the run in a folder would record in the checkout `root`.

    Raises HarnessError if the run is not finished, matched no profile, or measured nothing that is worth recording.
    """
    record = finished_run(run)
    refuse_simulated(record.environment.get("accelerators", ""), str(run))
    if record.profile is None:
        raise HarnessError(
            f"{run}: the run matched no profile, but its numbers belong into one (harness calibrate makes one for this "
            "machine; then run again)"
        )
    return proposal_for(run, record, read_profile(root / BASELINES / record.profile / FILE))


def proposal_for(run: Path, record: Run, profile: Profile) -> Proposal:
    """Return what the finished run `record` in the folder `run` would record in a profile, which need not exist yet.

    Raises HarnessError if the run measured nothing that is worth recording.
    """
    judged: dict[str, list[Verdict]] = {}
    for verdict in record.verdicts:
        judged.setdefault(verdict.case, []).append(verdict)
    by_technique: dict[Technique, dict[str, Recorded]] = {}
    left_out = {}
    for measured in measurements_of(run).values():
        verdicts = judged.get(measured.case, [])
        if why := _worthless(measured, verdicts):
            left_out[measured.case] = why
        else:
            facts = verdicts[0]
            by_technique.setdefault(technique_of(facts.path), {})[measured.case] = Recorded(
                facts.path,
                facts.recipe,
                facts.workload,
                figures_of(measured, device=facts.device),
                str(record.finished)[:10],
                environment_of(record.environment),
                digest(to_plain(measured)),
            )
    if not by_technique:
        first = next((f": {case}: {why}" for case, why in left_out.items()), "")
        nothing = f"{run}: the run measured nothing that is worth recording{first}"
        raise HarnessError(_with_step(nothing, "name another run"))
    hardware = hardware_of(profile.match.device, record.environment)
    files = {
        name: BaselineFile(SCHEMA, profile.match, hardware, cases).sealed() for name, cases in by_technique.items()
    }
    return Proposal(run, record.environment, profile, files, left_out)


def propose(run: Path, root: Path) -> tuple[Proposal, dict[Technique, Path]]:
    """Write into a run's folder what it would record, and return (proposal, files). Raises as `proposal_of`."""
    proposal = proposal_of(run, root)
    return proposal, write_files(proposal.files, run / BASELINES)


def diff(run: Path, root: Path) -> BaselineDifference:
    """Compare the run with the records, case by case. Raises HarnessError as `proposal_of` and `read_baselines`."""
    proposal = proposal_of(run, root)
    baselines = read_baselines(proposal.profile)
    rows = [row for case, entry in proposal.cases.items() for row in _rows(case, entry, baselines, proposal)]
    notes = [
        f"{name}.json is not compared with: it was recorded on other hardware: {other}"
        for name in proposal.files
        if name in baselines.files and (other := differences(baselines.files[name], proposal.environment))
    ]
    notes += [f"{case}: left out: {why}" for case, why in proposal.left_out.items()]
    return BaselineDifference(tuple(rows), tuple(notes))


def accept(
    run: Path, root: Path, *, case_ids: Collection[str], cases: Collection[str] = (), worse: str = ""
) -> Accepted:
    """Record the cases that a run proposed: those named, or else those that are new or better.

    `case_ids` are the ids of all cases that the catalogue gives. `worse` is the reason for which worse numbers are
    recorded too.

    Raises HarnessError, and records nothing, if the proposal is missing or outdated, if a case is worse without a
    reason, was left out, or is not known, or if the recorded file is corrupt or from other hardware.
    """
    proposal = _written(proposal_of(run, root))
    baselines = read_baselines(proposal.profile)
    _refuse_other_hardware(proposal, baselines)
    chosen = _chosen(proposal, cases)
    for case in chosen:
        if case not in case_ids:
            raise HarnessError(
                f"{case}: no path, model or workload of the catalogue gives it, so that every later session would "
                "refuse what is recorded of it (add its model to the catalogue first, or choose others with --case)"
            )
    stored = {case: entry for file in baselines.files.values() for case, entry in file.cases.items()}
    device = proposal.profile.match.device
    lost = {
        case: lines
        for case, entry in chosen.items()
        if case in stored and (lines := losses(stored[case].figures, entry.figures, device=device))
    }
    _refuse_unexplained(lost, worse)
    taken = {
        case: replace(entry, reason=worse if case in lost else "")
        for case, entry in chosen.items()
        if cases or case in lost or _is_news(stored.get(case), entry, device=device)
    }
    paths = write_files(_merged(proposal, baselines, taken), proposal.profile.folder)
    return Accepted(tuple(paths.values()), tuple(taken), tuple(case for case in chosen if case not in taken))


def _worthless(measured: Measurements, verdicts: list[Verdict]) -> str:
    """Return the reason not to record the measurements of a case; empty if there is none."""
    if not verdicts:
        return "it was measured, but not judged"
    for verdict in verdicts:
        # That it is worse than recorded is what --worse is for.
        if verdict.outcome.fails and verdict.outcome is not Outcome(Change.REGRESSED):
            return f"its {verdict.property} is {verdict.outcome}, so that its numbers are worth nothing"
    if measured.speed and (why := _undecided(measured.speed, verdicts)):
        return why
    if figures_of(measured, device=verdicts[0].device) == NOTHING:
        return "neither its speed nor its memory was measured"
    return ""


def _undecided(speed: Speed, verdicts: list[Verdict]) -> str:
    """Return why a speed is too uncertain for a baseline, and what to do. Memory then waits for another run too."""
    if why := unfit(speed):
        return why
    interval, again = speedup(speed), "run again with more --timing-seconds"
    if any(each.property is Property.SPEED and each.outcome is Outcome.INCONCLUSIVE for each in verdicts):
        return f"its speed of {interval} is INCONCLUSIVE ({again})"
    if interval.half_width > WIDEST:
        return (
            f"the half width of its speed of {interval} is {interval.half_width:.2%}, but should be at most "
            f"{WIDEST:.2%} ({again})"
        )
    return ""


def _with_step(line: str, step: str) -> str:
    """Add the next step, unless the line already ends with one."""
    return line if line.endswith(")") else f"{line} ({step})"


def _written(proposal: Proposal) -> Proposal:
    """Return the proposal if it equals what is in the run's folder: only what could be read before is accepted."""
    folder = proposal.run / BASELINES
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise HarnessError(f"{folder}: holds no proposal (first: harness baseline propose {proposal.run})")
    if {path.stem: read_file(path) for path in paths} != {str(name): file for name, file in proposal.files.items()}:
        raise HarnessError(
            f"{folder}: is not what the run's measurements and verdicts give (again: harness baseline propose "
            f"{proposal.run})"
        )
    return proposal


def _refuse_other_hardware(proposal: Proposal, baselines: Baselines) -> None:
    for name in proposal.files:
        file = baselines.files.get(name)
        if file and (other := differences(file, proposal.environment)):
            raise HarnessError(
                f"{proposal.profile.folder / f'{name}.json'}: was recorded on other hardware: {other} (a file holds "
                "numbers of one machine: delete it to record this one instead)"
            )


def _chosen(proposal: Proposal, cases: Collection[str]) -> dict[str, Recorded]:
    proposed = proposal.cases
    for case in cases:
        if case in proposal.left_out:
            raise HarnessError(_with_step(f"{case}: {proposal.left_out[case]}", "set that right and run again"))
        if case not in proposed:
            raise UnknownName("case", case, list(proposed))
    return {case: entry for case, entry in proposed.items() if not cases or case in cases}


def _refuse_unexplained(lost: Mapping[str, list[str]], worse: str) -> None:
    if worse and not lost:
        raise HarnessError(f"--worse {worse}: no case is worse than recorded (leave the option out)")
    if lost and not worse.strip():
        case, lines = next(iter(lost.items()))
        count = len(lost) - 1
        more = f", and {count} more case{'s lose' if count > 1 else ' loses'}" if count else ""
        raise HarnessError(
            f"{case}: {' and '.join(lines)}{more}: baselines do not get worse by themselves (nothing was recorded; "
            "tell why with --worse REASON, or choose other cases with --case)"
        )


def _is_news(stored: Recorded | None, now: Recorded, *, device: str) -> bool:
    if stored is None:
        return True
    comparisons = compare(stored.figures, now.figures, device=device)
    return any(entry.change is Change.IMPROVED or entry.stored is None for entry in comparisons)


def _merged(proposal: Proposal, baselines: Baselines, taken: Mapping[str, Recorded]) -> dict[Technique, BaselineFile]:
    """Return the files that gain or change a case, with the cases they held before."""
    files = {}
    for name, proposed in proposal.files.items():
        fresh = {case: taken[case] for case in proposed.cases if case in taken}
        if fresh:
            before = baselines.files[name].cases if name in baselines.files else {}
            files[name] = replace(proposed, cases={**before, **fresh})
    return files


def _rows(case: str, entry: Recorded, baselines: Baselines, proposal: Proposal) -> Iterator[BaselineRow]:
    stored = baselines.find(case, technique_of(entry.path), environment=proposal.environment)
    before = stored.figures if isinstance(stored, Recorded) else NOTHING
    for compared in compare(before, entry.figures, device=proposal.profile.match.device):
        change = NEW if compared.stored is None else compared.change
        yield BaselineRow(case, compared.metric, compared.stored, compared.now, compared.was, compared.got, change)
    yield from _seconds(case, before, entry.figures)


def _seconds(case: str, before: Figures, now: Figures) -> Iterator[BaselineRow]:
    """Yield the absolute times that accelerators have. They are shown, not judged."""
    for name, metric in (("seconds", "run"), ("per_token", "output token"), ("first", "first token")):
        was, got = getattr(before.speed, name, None), getattr(now.speed, name, None)
        if got is not None:
            stored, change = ("not stored", NEW) if was is None else (f"{was:.4g} s", f"{got / was - 1:+.1%}")
            yield BaselineRow(case, metric, was, got, stored, f"{got:.4g} s", change)
