"""Runner of cases. References run once per session, each precision of each case in a worker of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import (
    NO_ROOM,
    NotObservable,
    WorkerDied,
    WorkerFailed,
    WorkerRaised,
    WorkerTimedOut,
    refuse_full_disk,
)
from harness.execution.extensions import BUILD_SECONDS, build_quanto
from harness.execution.fitting import judged_by, with_room
from harness.execution.lazy import LazyModule
from harness.execution.measuring import Sampling, TimedBlock, joined, memory_of
from harness.execution.setup import CaseRun, CaseSetup, RankAddress
from harness.execution.speed.alternating import AlternatingSides, alternate
from harness.execution.worker import Worker, call_together
from harness.execution.worker_pool import WorkerPool
from harness.machine.host import available_memory
from harness.machine.jobs import is_small
from harness.machine.model_size import ModelSize, Room
from harness.machine.requirements import ExtensionBuild, size_of_source
from harness.paths.base import Aspect, Optimization
from harness.records.enums import Dtype, Outcome, Reference
from harness.records.evidence import Case, EagerCheck, Evidence, Failure, PrecisionRun
from harness.records.measurements import Measurements, MemoryComparison, Peaks, Speed
from harness.records.observation import CACHE_CLASSES, EXPERTS, SERVED, SPREAD, Rank
from harness.records.workload import Folder, ModelSpec, Probes, Seeded

if TYPE_CHECKING:
    from harness.execution import fit, loading, ranks
    from harness.execution.correctness import candidate
    from harness.execution.correctness.references import eager as references
    from harness.execution.memory import weighing
    from harness.execution.speed import constants, paired
    from harness.machine import peaks as device_memory
else:
    fit = LazyModule("harness.execution.fit")
    references = LazyModule("harness.execution.correctness.references.eager")
    candidate = LazyModule("harness.execution.correctness.candidate")
    ranks = LazyModule("harness.execution.ranks")
    loading = LazyModule("harness.execution.loading")
    constants = LazyModule("harness.execution.speed.constants")
    device_memory = LazyModule("harness.machine.peaks")
    paired = LazyModule("harness.execution.speed.paired")
    weighing = LazyModule("harness.execution.memory.weighing")

BY_LAYER_DEADLINES = 3.0
"""Number of deadlines that a reference by layer has beyond the usual one."""
UNTIMED_RANKS = "is not timed: ranks compute alike, whoever starts them"


@dataclass(kw_only=True)
class Runner(WorkerPool):
    """Runner of cases that remembers references. `close` removes the tensors it kept."""

    probes: Probes
    threads: int = 0
    """CPU threads of workers that run small, untimed models; 0 leaves the number to torch."""
    reference_fault: str = ""
    """Fault to plant into the reference and the eager runs compared with it, in the form of `CaseSetup.fault`. The load
    of rounded weights gets it too."""
    reference: Reference | None = None
    """Reference that was requested; None for the most precise one that there is room for."""
    memory_bytes: int | None = None
    """Bytes that a worker may take; None for what is free when that is first looked at."""

    def evidence(
        self,
        case: Case,
        optimization: Optimization,
        *,
        fault: str = "",
        rungs: tuple[Dtype, ...] = (),
        kept: Path | None = None,
    ) -> Evidence:
        """Run the case in its own precisions or in `rungs`, with `fault` planted into the candidate if named. Compared
        tensors stay in the folder `kept` if named. Several threads may run different cases at once."""
        rungs_run: list[PrecisionRun] = []
        trusts: list[EagerCheck] = []
        unseen = self.why_unseen(optimization)
        floor = 0.0
        why_none: dict[str, Any] = {"failure": unseen} if unseen else {}
        reference, why, left_out = Reference.FLOAT64, "", ""
        dtypes: tuple[Dtype, ...] = ()
        if not unseen:
            try:
                reference, why = self.reference_of(case)
                dtypes, left_out = self._fitting(rungs or optimization.rungs(case), case, optimization, reference)
            except WorkerFailed as error:
                why_none = {"reference_failure": failure_of(error, "eager")}
        for dtype in dtypes:
            try:
                run = replace(self.case_run(case, optimization, fault=fault), dtype=dtype)
                run = replace(run, setup=replace(run.setup, kept=kept, reference=reference))
                floor, trust = self.eager(run.setup, dtype)
            except WorkerFailed as error:
                why_none = {"reference_failure": failure_of(error, "eager")}
                break
            trusts.append(trust)
            try:
                rungs_run.append(self._run(f"{case.id}-{dtype}", run))
            except WorkerFailed as error:
                why_none = {"failure": failure_of(error, f"{dtype} run")}
                break
        return Evidence(
            case=case.id,
            tolerance=optimization.tolerance,
            budget=optimization.budget,
            trained=any(trust.trained for trust in trusts) or not trusts,
            rungs=tuple(rungs_run),
            trusts=tuple(trusts),
            floor=floor,
            reference=reference,
            left_out=left_out,
            why=why,
            **why_none,
        )

    def reference_of(self, case: Case) -> tuple[Reference, str]:
        """Return the reference of a case, with the reason if a model allows none that is more precise.

        It is the one that was requested, or the most precise one that there is room for. A model of which that cannot
        be had is compared with itself. Raises WorkerFailed if it cannot even be loaded.
        """
        reference = self.reference_by_room(case)
        if reference.exact and not self.reference:
            try:
                self._floor(replace(self.setup(case), reference=reference), case.dtype)
            except WorkerRaised as error:
                if error.not_exact:
                    return Reference.OWN, str(error)
            except WorkerFailed:
                pass  # told when the reference is asked for
        return reference, ""

    def reference_by_room(self, case: Case) -> Reference:
        """Return the reference that was requested, or the most precise one that there is room for. Nothing runs."""
        size = self._size(case)
        if self.reference or size is None:
            return self.reference or Reference.FLOAT64
        return self._room(case.device).reference(size, case.dtype)

    def _size(self, case: Case) -> ModelSize | None:
        """Return the size of a case's model; None if it is small, or its files do not tell."""
        if is_small(case.recipe):
            return None
        return size_of_source(self._loadable(case.recipe).source)

    def _holds_two(self, case: Case) -> bool:
        """Return whether there is room for eager and a path in one worker. Otherwise they take turns."""
        size = self._size(case)
        return size is None or self._room(case.device).holds(2 * case.dtype.bytes * size.parameters)

    def _room(self, device: str) -> Room:
        """Return the memory that a model may take on a device. Raises WorkerFailed."""
        if self.memory_bytes is not None:
            return Room(self.memory_bytes, device)
        if device == "cpu":
            return Room(self._host_memory, device)
        return Room(self.once(("free", device), f"free-{device}", device_memory.free_bytes), device)

    @cached_property
    def _host_memory(self) -> int:
        """Bytes of the host's memory that were free when they were first looked at."""
        return available_memory()

    def _fitting(
        self, rungs: tuple[Dtype, ...], case: Case, optimization: Optimization, reference: Reference
    ) -> tuple[tuple[Dtype, ...], str]:
        """Return the dtypes that a reference can judge and that have room, and what is left out.

        Raises WorkerRaised if that leaves out the case's own dtype.
        """
        judged = judged_by(reference, rungs, own=case.dtype)
        size = self._size(case)
        roomy = with_room(rungs, size, self._room(case.device), optimization, own=case.dtype) if size else rungs
        kept = tuple(dtype for dtype in judged if dtype in roomy)
        why = "no reference that is more precise" if roomy == rungs else "no room"
        gone = ", ".join(dtype for dtype in rungs if dtype not in kept)
        return kept, f"not run in {gone}: {why}" if gone else ""

    def timed(
        self, measurements: Measurements, case: Case, optimization: Optimization, sampling: Sampling
    ) -> Measurements:
        """Return the measurements of a case with its speed added, or the reason why there is none."""
        try:
            peaks = self.peaks(case.device)
            measurements, sampling = replace(measurements, peaks=peaks), replace(sampling, constants=peaks.constants)
        except WorkerFailed as error:
            measurements = replace(measurements, peaks_failure=failure_of(error, "peaks"))
        try:
            return replace(measurements, speed=self.speed(case, optimization, sampling))
        except WorkerFailed as error:
            return replace(measurements, speed_failure=failure_of(error, "timing"))

    def weighed(self, measurements: Measurements, case: Case, optimization: Optimization) -> Measurements:
        """Return the measurements of a case with its memory added, or the reason why there is none."""
        try:
            return replace(measurements, memory=self.memory(case, optimization))
        except WorkerFailed as error:
            return replace(measurements, memory_failure=failure_of(error, "weighing"))

    def speed(self, case: Case, optimization: Optimization, sampling: Sampling, *, fault: str = "") -> Speed:
        """Time a case whose evidence this runner made, in its native dtype, with `fault` planted into the candidate.
        Raises WorkerFailed."""
        name, run = f"{case.id}-speed", self.case_run(case, optimization, fault=fault)
        launch = optimization.launch()
        if launch and launch.torchrun:
            raise WorkerRaised(UNTIMED_RANKS, incompatible=True)
        if launch is None and self._holds_two(case):
            try:
                return self.ask(name, paired.time_pairs, run, sampling, more=sampling.seconds)
            except WorkerRaised as error:
                if NO_ROOM not in str(error):  # alone, or in a path's refusal: there may be room for the path alone
                    raise
        sides = AlternatingSides(
            candidate=lambda: self._block(name, run, sampling),
            eager=lambda: self._block(f"{name}-eager", run.setup.eager(case.dtype), sampling),
            rows=case.workload.batch,
            new_tokens=case.workload.new_tokens,
        )
        return alternate(sides, sampling)

    def memory(self, case: Case, optimization: Optimization, *, fault: str = "") -> MemoryComparison:
        """Weigh a case, and eager once for all cases of its model, workload and dtype. Raises WorkerFailed."""
        run = self.case_run(case, optimization, fault=fault)
        about = f"{case.device}-{case.dtype}-{case.recipe.name}-{case.workload.name}{run.setup.baseline}"
        eager = self.once(("held", about), f"eager-{about}-memory", weighing.weigh, run.setup.eager(case.dtype))
        named = f"snapshots/{case.id}.pickle"
        snapshot = self.logs.parent / named
        if case.device == "cuda":
            snapshot.parent.mkdir(exist_ok=True)
        held = self.ask(f"{case.id}-memory", weighing.weigh, run, snapshot)
        return memory_of(held, eager, optimization, snapshot=named if snapshot.exists() else "")

    def observe_ranks(self, case: Case, optimization: Optimization, *, count: int) -> list[Rank]:
        """Return what each of `count` ranks keeps of the model of a case that this runner ran. Raises WorkerFailed."""
        with self.rank_workers(f"{case.id}-ranks", count) as (workers, places):
            run = self.case_run(case, optimization)
            seen = call_together(workers, ranks.run_rank, [(run, place) for place in places], seconds=self.seconds)
        return [rank for observed in seen for rank in observed.ranks]

    def peaks(self, device: str) -> Peaks:
        """Return the peak rates of the machine, measured once. Raises WorkerFailed."""
        return self.once(("peaks", device), f"peaks-{device}", constants.measure_machine, device)

    def setup(self, case: Case) -> CaseSetup:
        """Return the inputs of a case, without a fault in the candidate."""
        recipe, fault = self._loadable(case.recipe), self.reference_fault
        return CaseSetup(recipe, case.workload, case.device, self.scratch, reference_fault=fault)

    def case_run(self, case: Case, optimization: Optimization, *, fault: str = "") -> CaseRun:
        """Return the run of an optimization on a case's inputs in its native dtype, with `fault` planted if named."""
        one_by_one = Aspect.EXPERTS in optimization.changes
        return CaseRun(replace(self.setup(case), fault=fault, one_by_one=one_by_one), case.dtype, optimization)

    @contextmanager
    def workers(self, name: str, optimization: Optimization) -> Iterator[tuple[list[Worker], list[RankAddress | None]]]:
        """Yield the workers in which a path is timed, and the places where their ranks meet: one worker without a
        place, or as many as the path has ranks. Their output goes to logs of that name. Raises WorkerFailed."""
        launch = optimization.launch()
        if launch and launch.torchrun:
            raise WorkerRaised(UNTIMED_RANKS, incompatible=True)
        if launch is None:
            with self.worker(name) as worker:
                yield [worker], [None]
            return
        with self.rank_workers(name, launch.ranks) as (workers, places):
            yield workers, [*places]

    def build(self, optimization: Optimization, device: str) -> None:
        """Build once, outside of any case's deadline, what the optimization's library builds at first use. Raises
        WorkerRaised if that fails."""
        if ExtensionBuild() not in optimization.needs():
            return
        try:
            self.once(("built", device), f"build-quanto-{device}", build_quanto, device, more=BUILD_SECONDS)
        except WorkerFailed as error:
            raise WorkerRaised(f"optimum-quanto's extension was not built: {error}", log=error.log) from error

    def why_unseen(self, optimization: Optimization) -> Failure | None:
        """Return why an optimization cannot be observed in the installed releases; None if it can be.

        The failure is that of whatever is judged of the optimization.
        """
        used = {
            **{name: name in optimization.cache_classes for name in CACHE_CLASSES},
            SERVED: optimization.serving() is not None,
            SPREAD: optimization.launch() is not None,
            EXPERTS: Aspect.EXPERTS in optimization.changes,
        }
        try:
            misfits = self.once(("observation",), "observation", fit.misfits)
            if Aspect.COMPILATION in optimization.changes:
                misfits = misfits | self.once(
                    ("observation", "compiling"), "observation-compiling", fit.misfits_compiling
                )
        except WorkerFailed as error:
            return failure_of(error, "observation")
        for part, why in misfits.items():
            if used.get(part, True):
                return Failure(Outcome.UNSUPPORTED, str(NotObservable(part, why)))
        return None

    def _run(self, name: str, run: CaseRun) -> PrecisionRun:
        self.build(run.optimization, run.setup.device)
        launch = run.optimization.launch()
        if launch is None:
            return self.ask(name, candidate.run_candidate, run, self.probes.text, threads=self._threads(run.setup))
        if launch.torchrun:
            return self.ask(name, ranks.launch_ranks, run, launch.ranks)
        try:
            return self._run_ranks(name, run, launch.ranks)
        except WorkerRaised as error:
            if "EADDRINUSE" not in str(error):
                raise
        # Somebody took the port between its choice and its use.
        return self._run_ranks(name, run, launch.ranks)

    def _block(self, name: str, run: CaseRun, sampling: Sampling) -> TimedBlock:
        launch = run.optimization.launch()
        if launch is None:
            return self.ask(name, paired.time_block, run, sampling)
        with self.rank_workers(name, launch.ranks) as (workers, places):
            requests = [(run, sampling, place) for place in places]
            return joined(call_together(workers, paired.time_block, requests, seconds=self.seconds))

    def _run_ranks(self, name: str, run: CaseRun, count: int) -> PrecisionRun:
        started = time.monotonic()
        with self.rank_workers(name, count, self._threads(run.setup)) as (workers, places):
            seen = call_together(workers, ranks.run_rank, [(run, place) for place in places], seconds=self.seconds)
            compared = workers[0].call(ranks.compare_ranks, run, seen, seconds=self.seconds)
        return replace(compared, seconds=time.monotonic() - started)

    def _threads(self, setup: CaseSetup) -> int:
        """Return the CPU threads of every worker that runs a model on a workload; 0 leaves it to torch. The number is
        the same whether other workers run at the time or not, since results depend on it."""
        return self.threads if setup.workload.timed is None and is_small(setup.recipe) else 0

    def _loadable(self, recipe: ModelSpec) -> ModelSpec:
        """Return the recipe itself or, for seeded weights, one of the folder into which they are written once."""
        if not isinstance(recipe.source, Seeded):
            return recipe
        folder = self.scratch / "models" / recipe.name
        self.once(("checkpoint", recipe.name), f"checkpoint-{recipe.name}", loading.save_seeded, recipe, folder)
        return replace(recipe, source=Folder(str(folder)))

    def eager(self, setup: CaseSetup, dtype: Dtype) -> tuple[float, EagerCheck]:
        """Return the reference's floor and the trust in eager in `dtype`, computed once, a failure included."""
        setup = replace(setup, fault=self.reference_fault)
        about, threads = setup.file(dtype).stem, self._threads(setup)
        floor = self._floor(setup, dtype)
        request = (setup, dtype, self.probes)
        trust = self.once((about,), f"eager-{about}", references.measure_eager, *request, threads=threads)
        return floor, trust

    def _floor(self, setup: CaseSetup, dtype: Dtype) -> float:
        """Return the reference's floor, computed once. It is of `dtype` where eager itself is the reference."""
        setup = replace(setup, fault=self.reference_fault, kept=None)
        name = f"reference-{setup.reference_file(dtype).stem}"
        # A layer at a time takes a small part of a deadline with small models, and minutes with large ones.
        more = BY_LAYER_DEADLINES * self.seconds if setup.reference is Reference.BY_LAYER else 0.0
        request, threads = (setup, dtype), self._threads(setup)
        return self.once((name,), name, references.make_reference, *request, more=more, threads=threads)


def failure_of(error: WorkerFailed, what: str) -> Failure:
    """Return why a worker did not give `what`, from its error. Raises DiskRefuses if a disk is full."""
    refuse_full_disk(error, what)
    outcomes = {WorkerDied: Outcome.CRASHED, WorkerTimedOut: Outcome.TIMED_OUT}
    outcome = outcomes.get(type(error), Outcome.ERROR)
    if isinstance(error, WorkerRaised) and (error.incompatible or error.by_library):
        outcome = Outcome.UNSUPPORTED if error.incompatible else Outcome.CRASHED
    return Failure(outcome, f"{what}: {error}", log=error.log)
