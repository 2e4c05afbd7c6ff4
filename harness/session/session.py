"""One pytest session: it runs, judges and records the cases that were selected. Knows nothing of pytest."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.judging.claims import as_claim
from harness.judging.gate import Forgiven
from harness.judging.verdicts import unsupported
from harness.machine.host import available_memory, processor
from harness.machine.inventory import describe
from harness.machine.jobs import cores, threads_of_small
from harness.machine.locks import Patience, devices_held
from harness.profiles.defects import LibraryDefect, excused
from harness.profiles.exceptions import forgiven
from harness.profiles.expectations import Expectations, expectations_of
from harness.profiles.profile import Match, Profile, machine_of
from harness.records.enums import Outcome, Property
from harness.records.evidence import Evidence
from harness.records.run import Verdict
from harness.records.run_files import case_ids_of, evidence_of, measurements_of
from harness.session.case_judge import CaseJudge
from harness.session.costs import Costs, Step
from harness.session.gathering import Gathering
from harness.session.outlook import Outlook
from harness.session.plan import Planned
from harness.session.preconditions import digests_of, models_of, refuse_folders, refuse_models
from harness.session.references import reference_lines
from harness.session.request import Selection, SessionOptions
from harness.session.run_folder import RunFolder, RunRequest, resumable_run
from harness.session.session_plan import SessionPlan

if TYPE_CHECKING:
    from harness.execution.runner import Runner

Judging = Callable[[CaseJudge], Verdict]
"""Function that gives a verdict on a case."""


def memory_of_models(options: SessionOptions, device_free: int | None) -> int:
    """Return the bytes that one model may take, looked at before anything runs; 0 if they are not known."""
    if device_free is not None:
        return device_free  # no more than --memory, by which the accelerator's cases were planned
    return available_memory() if options.memory is None else int(options.memory * 2**30)


class Session:
    """One pytest session. No folder is made and no worker starts before the first verdict is requested."""

    def __init__(  # noqa: PLR0913 - what a session is made of
        self,
        options: SessionOptions,
        plan: SessionPlan,
        profiles: tuple[Profile, ...],
        selection: Selection,
        *,
        defects: tuple[LibraryDefect, ...] = (),
        notify: Callable[[str], None] = print,
    ) -> None:
        """Read the run to resume, if there is one. `notify` shows a line on what a person waits for.

        Raises HarnessError if that is no run, or one of other tests or of another tier.
        """
        self.options = options
        self.plan = plan
        self.selection = selection
        self.costs = Costs.read(options.run_dir, f"{processor()}, {cores()} cores, {', '.join(plan.inventory.devices)}")
        self.failures_without_verdict = 0
        """Number of tests that failed so far and gave no failing verdict."""
        self.problem = ""
        """Error message of closing the record; empty if there was none."""
        self.cases: CaseJudge | None = None
        """None until the first verdict is requested."""
        self.evidence: dict[str, Evidence] = {}
        free = None if plan.device == "cpu" else plan.inventory.free_bytes or 0
        self.outlook = Outlook(selection.tests, self.costs, self.evidence, free, options.jobs)
        self._memory = memory_of_models(options, free)
        self._profiles = profiles
        self._defects = defects
        self._notify = notify
        self._given: dict[tuple[str, Property], Verdict] = {}
        """Verdicts that this session or the resumed one gave, by id and property."""
        self._devices: tuple[str, ...] = ()
        """Devices that this session may use, by names that are unique on this machine."""
        self._gathering: Gathering | None = None
        if options.resume:
            run = resumable_run(options.resume, selection.digest, options.tier)
            self.outlook.ran = frozenset(case_ids_of(options.resume))
            self.outlook.done |= {(verdict.case, verdict.property) for verdict in run.verdicts}

    def check(self) -> None:
        """Check what the selected cases depend on. Raises HarnessError for what is wrong, before anything runs."""
        entries = [test.planned for test in self.selection.tests]
        if all(entry.unmet for entry in entries):
            return
        refuse_folders(self.options.resume or self.options.run_dir)
        seconds = self.options.case_timeout
        refuse_models(models_of(entries), self.plan.catalogue, seconds=seconds, notify=self._notify)
        runnable = [entry for entry in entries if entry.unmet is None]
        for line in reference_lines(runnable, self.options.reference, memory=self._memory):
            self._notify(line)

    @property
    def first_line(self) -> str:
        """One line for the start: how many cases the selected tests are of, and about how long they take."""
        return self.outlook.first_line(self.options.tier, self.plan.left_out_by_tier)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return self.cases.folder.run.verdicts if self.cases else ()

    def judge_by(self, planned: Planned, property_: Property, judging: Judging) -> Verdict:
        """Return the verdict that `judging` gives if the case can run here, and put it into the record.

        A verdict that was given stands: by the resumed session, or by this one if another plugin repeats a test.
        """
        cases = self.cases or self._open()
        if (planned.id, property_) in self._given:
            return self._given[planned.id, property_]
        if planned.unmet:
            verdict = unsupported(planned.case, property_, planned.unmet)
        else:
            # Before a lock is held, since threads that gather wait for it too.
            self._take_gathered(planned.case.id, alone=property_.alone)
            if property_.alone:
                self.outlook.tell_progress(self._notify)
            with devices_held(self._devices, alone=property_.alone, notify=self._notify):
                began = time.monotonic()
                verdict = judging(cases)
            if property_.alone or planned.case.id not in self.evidence:
                self.costs.add(Step.of(planned, property_, name=planned.id), time.monotonic() - began)
        if planned.claim and verdict.case != planned.claim:
            verdict = as_claim(planned.claim, verdict)
        expectations, on = cases.expectations, cases.folder.run.started
        verdict = forgiven(verdict, expectations.known_failures, on=on)
        verdict = excused(verdict, expectations.defects, expectations.environment, on=on)
        cases.folder.add(verdict)
        self._given[planned.id, property_] = verdict
        self.outlook.done.add((planned.id, property_))
        return verdict

    def close(self, exit_code: int) -> int:
        """Close the record and return the exit code.

        It is 1 instead of 0 if a gate is red, or if tests of cases were selected and none was judged.
        """
        if self.cases:
            if self._gathering:
                self._gathering.stop(self.cases.runner.kill_workers)
            self.cases.runner.close()
        self.costs.write(self.options.run_dir)
        if self.cases is None:
            return exit_code or int(bool(self.selection.count))
        folder, expectations = self.cases.folder, self.cases.expectations
        entries = expectations.known_failures
        elsewhere = [str(entry) for entry in entries if any(entry.names(left.case) for left in self.plan.left_out)]
        folder.run = replace(folder.run, elsewhere=tuple(elsewhere))
        pardon = None
        if folder.run.gate is not None:
            pardon = Forgiven(expectations.skips, expectations.known_failures, expectations.defects)
        return folder.finish(exit_code, failed_otherwise=self.failures_without_verdict, forgiven=pardon).exit or 0

    def _open(self) -> CaseJudge:
        """Make or resume the run's folder, find what judges this machine, and begin to run cases."""
        from harness.execution.runner import Runner  # imports torch, which listing cases does not need

        options, plan = self.options, self.plan
        request = RunRequest(
            options.words,
            self.selection.count,
            self.selection.digest,
            options.shard,
            options.gate,
            str(options.tier),
            plan.left_out_by_tier,
        )
        folder = (
            RunFolder.resumed(options.resume, request) if options.resume else RunFolder.new(options.run_dir, request)
        )
        runner = Runner(
            probes=plan.catalogue.probes,
            logs=folder.logs,
            seconds=options.case_timeout,
            reference=options.reference,
            memory_bytes=self._memory,
        )
        claimed = frozenset(entry.case.id for entry in plan.all if entry.claim)
        try:
            expectations = self._describe(folder, runner)
            cases = CaseJudge(runner, folder, expectations, self.costs, options.timing_seconds, claimed, self.evidence)
            if options.resume:
                self._take_up(cases)
        except BaseException:
            runner.close()
            raise
        self.cases = cases
        self._gather(cases)
        return cases

    def _take_up(self, cases: CaseJudge) -> None:
        """Take over what an interrupted session left. Its verdicts stand, and what it ran is not run again."""
        folder = cases.folder
        cases.evidence |= evidence_of(folder.path)
        cases.measured |= measurements_of(folder.path)
        cases.resumed_only = set(cases.evidence)
        self._given = {(verdict.case, verdict.property): verdict for verdict in folder.run.verdicts}

    def _describe(self, folder: RunFolder, runner: Runner) -> Expectations:
        """Record what the session runs on, and return what it judges by."""
        devices = sorted({entry.case.device for entry in self.plan.all if entry.unmet is None})
        self._devices = tuple(key for device in devices for key in runner.device_keys(device))
        accelerators = ", ".join(runner.device_names(device) for device in devices if device != "cpu")
        environment = describe(self.plan.inventory, accelerators=accelerators)
        device = self.plan.device
        match = Match(device, machine_of(device, accelerators))
        expectations = expectations_of(self._profiles, match, environment, defects=self._defects)
        if self.plan.chosen:
            environment["models"] = str(self.plan.chosen)
        environment |= digests_of(models_of(self.plan.all))
        if expectations.notes:
            environment["judged_by"] = "; ".join(expectations.notes)
        folder.describe(environment, profile=expectations.profile, workers=runner.preloaded() if devices else "")
        return expectations

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

    def _gather(self, judge: CaseJudge) -> None:
        """Begin to run side by side the small cases that tests will judge by their evidence."""
        runner, folder = judge.runner, judge.folder
        beside = self.outlook.beside()
        cases, jobs = {entry.case.id: entry for entry in beside.entries}, beside.jobs
        runner.threads = threads_of_small()
        parallel = jobs > 1 and len(cases) > 1
        folder.say_jobs(jobs if parallel else 1)
        if not parallel:
            return

        def make(planned: Planned) -> Evidence:
            patience = Patience(looked=gathering.refuse_if_stopped)
            with devices_held(self._devices, alone=False, notify=gathering.note, patience=patience):
                return runner.evidence(planned.case, planned.optimization)

        def keep(evidence: Evidence, seconds: float) -> None:
            if _ran_out_of_time(evidence):  # perhaps because others ran beside it
                runner.forget_failures()
                return
            self.costs.add(Step.of(cases[evidence.case]), seconds)
            folder.add_evidence(evidence)

        def cost(case: str) -> float:
            return self.costs.of(Step.of(cases[case]))

        gathering = Gathering(make, keep, jobs, cost, self._notify)
        gathering.minutes_behind = self.outlook.minutes_alone()
        gathering.start(tuple(cases.values()))
        self._gathering = gathering


def _ran_out_of_time(evidence: Evidence) -> bool:
    failures = (evidence.failure, evidence.reference_failure)
    return any(failure.outcome is Outcome.TIMED_OUT for failure in failures if failure)
