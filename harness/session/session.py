"""One pytest session: it runs, judges and records the cases that are planned. Knows nothing of pytest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.execution.measuring import Sampling
from harness.formatting import count
from harness.judging.claims import as_claim
from harness.judging.gate import Forgiven, left_out_line
from harness.judging.measured import bar_of, judge_evidence, judge_measured
from harness.judging.speed import CLEARLY_FASTER, Aims, aims_of
from harness.judging.timings import Bar
from harness.judging.verdicts import unsupported
from harness.machine.inventory import Inventory, describe
from harness.machine.jobs import default_jobs, is_small, threads_of_small
from harness.machine.locks import Patience, devices_held
from harness.profiles.exceptions import forgiven
from harness.profiles.expectations import Standard, standard_of
from harness.profiles.profile import Match, Profile, machine_of
from harness.records.enums import Outcome, Property, Tier
from harness.records.evidence import Case, Evidence
from harness.records.measurements import Measurements
from harness.records.run import Verdict
from harness.records.run_files import evidence_of, measurements_of
from harness.session.costs import Costs, Step, told
from harness.session.gathering import BETWEEN_LINES, Gathering
from harness.session.plan import Catalogue, Planned
from harness.session.run_folder import RunFolder, RunRequest

TIMING_SECONDS = 30.0
"""Default of `Session.timing_seconds`."""

if TYPE_CHECKING:
    from harness.execution.runner import Runner

Replan = Callable[..., list[Planned]]
"""Function that plans the session's paths, or only `path`, with other workloads, on its models or on `recipes`."""
Measuring = Callable[..., tuple[Verdict, Measurements | None]]
"""Type of `Session.measurements`."""
Judging = Callable[[RunFolder, "Runner", Standard], Verdict]
"""Function that runs and judges a case, given a place for files, a runner, and the standard to judge by."""


@dataclass
class Session:
    """State of one pytest session. Made when the first case is requested, so that other tests cost nothing."""

    catalogue: Catalogue
    inventory: Inventory
    profiles: tuple[Profile, ...]
    planned: list[Planned]
    left_out: list[Planned]
    """Cases of later tiers than the session's own."""
    seconds: float
    parent: Path
    replan: Replan
    """Function that plans the session's paths with other workloads, cases of all tiers included."""
    standard: Standard = field(default_factory=Standard)
    selected: int = 0
    """Number of selected tests of cases."""
    selection: str = ""
    """Digest of the names of all selected tests."""
    failed_otherwise: int = 0
    """Number of tests that failed so far and gave no failing verdict."""
    elsewhere: list[Planned] = field(default_factory=list)
    """Cases of folders that have a plan of their own."""
    timing_seconds: float = TIMING_SECONDS
    """Seconds after which no more pairs of one case are timed, once enough are."""
    resume: Path | None = None
    """Folder of a run to go on with; None to make a new one."""
    shard: str = ""
    """K/N if the session runs a share of the cases; else empty."""
    tier: Tier = Tier.DAILY
    gate: bool = False
    """Whether the run is a gate, where every way of not knowing is a failure."""
    options: tuple[str, ...] = ()
    """Options for models and times, as words of the command line."""
    jobs: int | None = None
    """Number of cases that run side by side while nothing is timed. None for as many as the machine has room for."""
    tests: tuple[tuple[Planned, Property, bool], ...] = ()
    """All selected tests of cases in their order, as (case, property, whether the case's evidence decides)."""
    done: set[tuple[str, Property]] = field(default_factory=set)
    """Verdicts given by this session or the one that it resumes, as (id of the case or claim, property)."""
    ran: set[str] = field(default_factory=set)
    """Ids of cases that the resumed session has run."""
    costs: Costs = field(default_factory=lambda: Costs(""))
    told: Callable[[str], None] = print
    """Function that shows a line on what a person must wait for."""
    problem: str = ""
    """Error message of closing the record; empty if there was none."""
    evidence: dict[str, Evidence] = field(default_factory=dict)
    measured: dict[str, Measurements] = field(default_factory=dict)
    folder: RunFolder | None = None
    runner: Runner | None = None
    _given: dict[tuple[str, Property], Verdict] = field(default_factory=dict)
    """Verdicts that the resumed session gave, by id and property."""
    _untouched: set[str] = field(default_factory=set)
    """Ids of cases that only the resumed session ran. Verdicts can be given on them, but nothing can be measured: the
    tensors of their runs are gone."""
    _devices: tuple[str, ...] = ()
    """Devices that this session may use, by names that are unique on this machine."""
    _gathering: Gathering | None = None
    _told_progress: float = field(default_factory=time.monotonic)
    """Time of the last line on the progress, in seconds of `time.monotonic`."""

    def verdict(self, planned: Planned, asked: Property, judging: Judging) -> Verdict:
        """Return the verdict on one property of a case, and put it into the record.

        `judging` gives it if the case can run here. A verdict that the resumed session gave stands.
        """
        folder, runner = self._open()
        if (planned.id, asked) in self._given:
            return self._given[planned.id, asked]
        if planned.unmet:
            verdict = unsupported(planned.case, asked, planned.unmet)
        else:
            # Before a lock is held, since threads that gather wait for it too.
            self._take_gathered(planned.case.id, alone=asked.alone)
            if asked.alone:
                self._tell_progress()
            with devices_held(self._devices, alone=asked.alone, told=self.told):
                began = time.monotonic()
                verdict = judging(folder, runner, self.standard)
            if asked.alone or planned.case.id not in self.evidence:
                self.costs.add(Step(planned.id, planned.case.technique, asked), time.monotonic() - began)
        if planned.claim and verdict.case != planned.claim:
            verdict = as_claim(planned.claim, verdict)
        verdict = forgiven(verdict, self.standard.known_failures, on=folder.run.started)
        folder.add(verdict)
        self.done.add((planned.id, asked))
        return verdict

    def _take_gathered(self, case: str, *, alone: bool) -> None:
        """Take the evidence of a case as soon as it is gathered.

        Wait for all cases if it is not among these, or is to have the device `alone`. A case that ran out of time while
        others ran is left to be run again by itself.
        """
        if self._gathering is None:
            return
        if self._gathering.holds(case):
            evidence = self._gathering.take(case)
            if not _ran_out_of_time(evidence):
                self.evidence[case] = evidence
        if alone or case not in self.evidence:
            self._gathering.finish()

    def _gather(self, folder: RunFolder, runner: Runner) -> None:
        """Begin to run side by side the small cases that tests will judge by their evidence."""
        cases = {name: entry for name, entry in self._to_run().items() if is_small(entry.case.recipe)}
        if self.jobs is None:
            free = [runner.free_memory(device) for device in {entry.case.device for entry in cases.values()} - {"cpu"}]
            self.jobs = default_jobs(min(free, default=None))
        runner.threads = threads_of_small()
        beside = self.jobs > 1 and len(cases) > 1
        folder.say_jobs(self.jobs if beside else 1)
        if not beside:
            return

        def make(planned: Planned) -> Evidence:
            patience = Patience(looked=gathering.refuse_if_stopped)
            with devices_held(self._devices, alone=False, told=gathering.note, patience=patience):
                return runner.evidence(planned.case, planned.optimization)

        def keep(evidence: Evidence, seconds: float) -> None:
            if _ran_out_of_time(evidence):  # perhaps because others ran beside it
                runner.forget_failures()
                return
            self.costs.add(Step(evidence.case, cases[evidence.case].case.technique), seconds)
            folder.add_evidence(evidence)

        def cost(case: str) -> float:
            return self.costs.of(Step(case, cases[case].case.technique))

        gathering = Gathering(make, keep, self.jobs, cost, self.told)
        gathering.minutes_behind = sum(map(self.costs.of, self._steps_alone())) / 60
        gathering.start(tuple(cases.values()))
        self._gathering = gathering

    def _to_run(self) -> dict[str, Planned]:
        """Return the cases, by id, that tests judge by evidence that is not there yet."""
        known = {*self.evidence, *self.ran}
        return {
            entry.case.id: entry
            for entry, asked, by_evidence in self.tests
            if by_evidence and self._is_open(entry, asked) and entry.case.id not in known
        }

    def _is_open(self, planned: Planned, asked: Property) -> bool:
        """Return whether a verdict can be given here that was not given yet."""
        return planned.unmet is None and (planned.id, asked) not in self.done

    def _steps_alone(self) -> list[Step]:
        """Return the steps left to do that run one at a time."""
        large = [entry.case for entry in self._to_run().values() if not is_small(entry.case.recipe)]
        tests = [
            Step(entry.id, entry.case.technique, asked)
            for entry, asked, by_evidence in self.tests
            if self._is_open(entry, asked) and (asked.alone or not by_evidence)
        ]
        return [*(Step(case.id, case.technique) for case in large), *tests]

    @property
    def outlook(self) -> str:
        """One line for the start: how many cases the selected tests are of, and about how long they take."""
        cases = {entry.id for entry, asked, _ in self.tests if self._is_open(entry, asked)}
        small = [entry.case for entry in self._to_run().values() if is_small(entry.case.recipe)]
        jobs = min(default_jobs(None) if self.jobs is None else self.jobs, max(1, len(small)))
        side = f"up to {jobs} side by side while nothing is timed" if jobs > 1 else "one after the other"
        beside = [Step(case.id, case.technique) for case in small]
        minutes = self.costs.minutes(beside, self._steps_alone(), jobs=jobs)
        later = left_out_line(self.left_out_by_tier)
        return f"tier {self.tier}: {count(len(cases), 'case')}, {side}, {told(minutes)}{later}"

    def _tell_progress(self) -> None:
        """Show the progress, but at most every BETWEEN_LINES seconds. Called between steps that run one at a time."""
        now = time.monotonic()
        if now - self._told_progress < BETWEEN_LINES:
            return
        self._told_progress = now
        minutes = sum(map(self.costs.of, self._steps_alone())) / 60
        self.told(f"{len(self.done)} of {count(len(self.tests), 'test')} are done; {told(minutes)} left")

    def judge(
        self, planned: Planned, asked: Property, folder: RunFolder, runner: Runner, standard: Standard
    ) -> Verdict:
        """Judge one property by the evidence of the case. Run and measure it first as far as it was not."""
        case = planned.case
        if not asked.measured:
            return self._by_evidence(planned, asked, folder, runner, standard)
        verdict, measured = self.measurements(planned, (asked,), folder, runner, standard)
        bar = bar_of(case, planned.optimization, standard=standard)
        if measured and (measured.memory or measured.memory_failure):
            # Weighed for a comparison with a baseline too.
            weighed = judge_measured(case, Property.MEMORY, verdict, measured, bar)
            if not weighed.outcome.fails:
                folder.remove_snapshot(case.id)
        return judge_measured(case, asked, verdict, measured, bar)

    def measurements(
        self, planned: Planned, asked: tuple[Property, ...], folder: RunFolder, runner: Runner, standard: Standard
    ) -> tuple[Verdict, Measurements | None]:
        """Return the verdict on the equivalence of a case, and its measurements, if any.

        Unless the verdict is PASS, nothing is measured for these properties. A case that only the resumed session ran
        is run again before it is measured.
        """
        case = planned.case
        verdict = self._by_evidence(planned, Property.EQUIVALENCE, folder, runner, standard)
        if (
            verdict.outcome is Outcome.PASS
            and case.id in self._untouched
            and (planned.claim or self._lacks(case, asked))
        ):
            del self.evidence[case.id]
            verdict = self._by_evidence(planned, Property.EQUIVALENCE, folder, runner, standard)
        for each in asked if verdict.outcome is Outcome.PASS else ():
            bar = bar_of(case, planned.optimization, standard=standard)
            self._measure(planned, each, folder, runner, bar)
        return verdict, self.measured.get(case.id)

    def _by_evidence(
        self, planned: Planned, asked: Property, folder: RunFolder, runner: Runner, standard: Standard
    ) -> Verdict:
        case = planned.case
        if case.id not in self.evidence:
            began = time.monotonic()
            self.evidence[case.id] = runner.evidence(case, planned.optimization)
            self.costs.add(Step(case.id, case.technique), time.monotonic() - began)
            folder.add_evidence(self.evidence[case.id])
            self._untouched.discard(case.id)
        return judge_evidence(case, asked, self.evidence[case.id], standard=standard)

    def _measure(self, planned: Planned, asked: Property, folder: RunFolder, runner: Runner, bar: Bar) -> None:
        """Measure what the property needs and is not known yet.

        If a claim of this session is tried on the case, before or after, pairs should also show whether it is faster at
        all.
        """
        case = planned.case
        known = self.measured.get(case.id, Measurements(case.id))
        if _untimed(known, asked):
            rung = next(rung for rung in self.evidence[case.id].rungs if rung.dtype is case.dtype)
            stored = bar.recorded.figures.speed if bar.recorded else None
            limits = (*aims_of(bar.threshold).values(), *((CLEARLY_FASTER,) if self._claimed(case) else ()))
            aims = Aims(limits, stored.speedup if stored else None)
            sampling = Sampling(self.timing_seconds, aims, kernels=rung.engagement.kernels)
            known = runner.timed(known, case, planned.optimization, sampling)
        if _unweighed(known, asked):
            known = runner.weighed(known, case, planned.optimization)
        if known != self.measured.get(case.id):
            self.measured[case.id] = known
            folder.add_measurements(known)

    def _lacks(self, case: Case, asked: tuple[Property, ...]) -> bool:
        """Return whether something that these properties need is not measured yet."""
        known = self.measured.get(case.id, Measurements(case.id))
        return any(_untimed(known, each) or _unweighed(known, each) for each in asked)

    def _claimed(self, case: Case) -> bool:
        return any(entry.claim and entry.case.id == case.id for entry in self._all)

    @property
    def left_out_by_tier(self) -> dict[str, int]:
        """Number of cases that could run here but belong to later tiers, by tier in order."""
        counted = Counter(entry.tier for entry in self.left_out if entry.unmet is None)
        return {str(tier): counted[tier] for tier in Tier if counted[tier]}

    @property
    def _all(self) -> tuple[Planned, ...]:
        return (*self.planned, *self.elsewhere)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return self.folder.run.verdicts if self.folder else ()

    @property
    def judged(self) -> int:
        return sum(not verdict.outcome.skips for verdict in self.verdicts)

    def close(self, exit_code: int) -> int:
        """Close the record and return the exit code.

        It is 1 instead of 0 if a gate is red, or if tests of cases were selected and none was judged.
        """
        if self.runner:
            if self._gathering:
                self._gathering.stop(self.runner.kill_workers)
            self.runner.close()
        self.costs.write(self.parent)
        if self.folder is None:
            return exit_code or int(bool(self.selected))
        entries = self.standard.known_failures
        elsewhere = [str(entry) for entry in entries if any(entry.names(left.case) for left in self.left_out)]
        self.folder.run = replace(self.folder.run, elsewhere=tuple(elsewhere))
        gate = self.folder.run.gate is not None
        pardon = Forgiven(self.standard.skips, self.standard.known_failures) if gate else None
        return self.folder.finish(exit_code, failed_otherwise=self.failed_otherwise, forgiven=pardon).exit or 0

    def _open(self) -> tuple[RunFolder, Runner]:
        if self.folder is None or self.runner is None:
            from harness.execution.runner import Runner  # imports torch, which listing cases does not need

            asked = RunRequest(
                self.options,
                self.selected,
                self.selection,
                self.shard,
                self.gate,
                str(self.tier),
                self.left_out_by_tier,
            )
            folder = RunFolder.resumed(self.resume, asked) if self.resume else RunFolder.new(self.parent, asked)
            self.runner = Runner(self.catalogue.probes, logs=folder.logs, seconds=self.seconds)
            devices = sorted({entry.case.device for entry in self._all if entry.unmet is None})
            names = ", ".join(self.runner.device_names(device) for device in devices if device != "cpu")
            self._describe(folder, names, self.runner.preloaded() if devices else "")
            self._devices = tuple(key for device in devices for key in self.runner.device_keys(device))
            self._take_up(folder)
            self.folder = folder
            self._gather(folder, self.runner)
        return self.folder, self.runner

    def _take_up(self, folder: RunFolder) -> None:
        """Take over what an interrupted session left. Its verdicts stand, and what it ran is not run again."""
        if folder.run.resumed:
            self._given = {(verdict.case, verdict.property): verdict for verdict in folder.run.verdicts}
            self.evidence |= evidence_of(folder.path)
            self._untouched = set(self.evidence)
            self.measured |= measurements_of(folder.path)

    def _describe(self, folder: RunFolder, accelerators: str, workers: str) -> None:
        """Record what the session runs on, and find the standard that it judges by."""
        environment = describe(self.inventory, accelerators=accelerators)
        device = self.planned[0].case.device
        self.standard = standard_of(self.profiles, Match(device, machine_of(device, accelerators)), environment)
        if self.standard.notes:
            environment["judged_by"] = "; ".join(self.standard.notes)
        folder.describe(environment, profile=self.standard.profile, workers=workers)


def _ran_out_of_time(evidence: Evidence) -> bool:
    failures = (evidence.failure, evidence.reference_failure)
    return any(failure.outcome is Outcome.TIMED_OUT for failure in failures if failure)


def _untimed(known: Measurements, asked: Property) -> bool:
    return asked is not Property.MEMORY and known.speed is None and known.speed_failure is None


def _unweighed(known: Measurements, asked: Property) -> bool:
    weighed = known.memory is not None or known.memory_failure is not None
    return asked in (Property.MEMORY, Property.REGRESSION) and not weighed
