"""Runner of cases. References run once per session, each precision of each case in a worker of its own."""

from __future__ import annotations

import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import (
    NO_ROOM,
    DiskRefuses,
    WorkerDied,
    WorkerFailed,
    WorkerRaised,
    WorkerTimedOut,
    refuse_full_disk,
)
from harness.execution.extensions import BUILD_SECONDS, build_quanto
from harness.execution.lazy import LazyModule
from harness.execution.measuring import Block, Sampling, joined, memory_of
from harness.execution.preloading import server_contents
from harness.execution.setup import CASE_TIMEOUT, CaseRun, CaseSetup, RankAddress
from harness.execution.speed.alternating import Sides, alternate
from harness.execution.worker import Answer, Worker, call_together
from harness.machine.jobs import is_small
from harness.machine.peaks import measure_peaks
from harness.machine.requirements import ExtensionBuild
from harness.paths.base import Optimization
from harness.records.enums import Dtype, Outcome
from harness.records.evidence import Case, EagerCheck, Evidence, Failure, PrecisionRun
from harness.records.measurements import Measurements, Memory, Peaks, Speed
from harness.records.observation import Rank
from harness.records.workload import Folder, ModelRecipe, Probes, Seeded

if TYPE_CHECKING:
    from harness.execution import ranks
    from harness.execution.correctness import candidate
    from harness.execution.correctness.references import eager as references
    from harness.execution.memory import weighing
    from harness.execution.speed import paired
    from harness.machine import devices
else:
    references = LazyModule("harness.execution.correctness.references.eager")
    candidate = LazyModule("harness.execution.correctness.candidate")
    ranks = LazyModule("harness.execution.ranks")
    paired = LazyModule("harness.execution.speed.paired")
    weighing = LazyModule("harness.execution.memory.weighing")
    devices = LazyModule("harness.machine.devices")

UNTIMED_RANKS = "is not timed: ranks compute alike, whoever starts them"


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Create the folder for temporary files. Raises DiskRefuses if that fails."""
    try:
        return tempfile.TemporaryDirectory(prefix="harness-")
    except OSError as error:
        raise DiskRefuses(
            f"temporary files: {error.strerror} (free the disk, or name another folder in TMPDIR)"
        ) from error


@dataclass
class Runner:
    """Runner of cases that remembers references. `close` removes the tensors it kept."""

    probes: Probes
    logs: Path
    """Folder for the output of workers."""
    seconds: float = CASE_TIMEOUT
    """Deadline of one request, in seconds."""
    threads: int = 0
    """CPU threads of workers that run small, untimed models; 0 leaves the number to torch."""
    reference_fault: str = ""
    """Fault to plant into the reference and the eager runs compared with it, in the form of `CaseSetup.fault`."""
    _scratch: tempfile.TemporaryDirectory[str] = field(default_factory=_temporary_folder)
    _known: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    _asking: dict[tuple[Any, ...], threading.Lock] = field(default_factory=dict)
    """Locks by key, each held by the thread that finds out what is not known yet. Others wait for its answer."""
    _guard: threading.Lock = field(default_factory=threading.Lock)
    """Lock of the fields that threads share."""
    _live: set[Worker] = field(default_factory=set)
    _ports: set[int] = field(default_factory=set)
    """Ports where ranks of this session met. No two models may meet at one."""

    def evidence(
        self,
        case: Case,
        optimization: Optimization,
        *,
        fault: str = "",
        rungs: tuple[Dtype, ...] = (),
        kept: Path | None = None,
    ) -> Evidence:
        """Run the case in its own precisions or in `rungs`, with `fault` planted into the candidate if named. The
        compared tensors stay in the folder `kept`, if there is one. Several threads of this process may run different
        cases at once."""
        rungs_run: list[PrecisionRun] = []
        trusts: list[EagerCheck] = []
        floor, why_none = 0.0, {}
        for dtype in rungs or optimization.rungs(case):
            try:
                run = replace(self.case_run(case, optimization, fault=fault), dtype=dtype)
                run = replace(run, setup=replace(run.setup, kept=kept))
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
            trained=not isinstance(case.recipe.source, Seeded),
            rungs=tuple(rungs_run),
            trusts=tuple(trusts),
            floor=floor,
            **why_none,
        )

    def timed(self, known: Measurements, case: Case, optimization: Optimization, sampling: Sampling) -> Measurements:
        """Return what is known of a case with its speed added, or the reason why there is none."""
        try:
            known = replace(known, peaks=self.peaks(case.device))
        except WorkerFailed as error:
            known = replace(known, peaks_failure=failure_of(error, "peaks"))
        try:
            return replace(known, speed=self.speed(case, optimization, sampling))
        except WorkerFailed as error:
            return replace(known, speed_failure=failure_of(error, "timing"))

    def weighed(self, known: Measurements, case: Case, optimization: Optimization) -> Measurements:
        """Return what is known of a case with its memory added, or the reason why there is none."""
        try:
            return replace(known, memory=self.memory(case, optimization))
        except WorkerFailed as error:
            return replace(known, memory_failure=failure_of(error, "weighing"))

    def speed(self, case: Case, optimization: Optimization, sampling: Sampling, *, fault: str = "") -> Speed:
        """Time a case whose evidence this runner made, in its native dtype, with `fault` planted into the candidate.

        Raises WorkerFailed.
        """
        name, run = f"{case.id}-speed", self.case_run(case, optimization, fault=fault)
        launch = optimization.launch()
        if launch and launch.torchrun:
            raise WorkerRaised(UNTIMED_RANKS, incompatible=True)
        if launch is None:
            deadline = self.seconds + sampling.seconds
            try:
                with self._worker(name) as worker:
                    return worker.call(paired.time_pairs, run, sampling, seconds=deadline)
            except WorkerRaised as error:
                if not str(error).startswith(NO_ROOM):
                    raise
        sides = Sides(
            candidate=lambda: self._block(name, run, sampling),
            eager=lambda: self._block(f"{name}-eager", run.setup.eager(case.dtype), sampling),
            rows=case.workload.batch,
            new_tokens=case.workload.new_tokens,
        )
        return alternate(sides, sampling)

    def memory(self, case: Case, optimization: Optimization, *, fault: str = "") -> Memory:
        """Weigh a case, and eager once for all cases of its model, workload and dtype. Raises WorkerFailed."""
        about = f"{case.device}-{case.dtype}-{case.recipe.name}-{case.workload.name}"
        run = self.case_run(case, optimization, fault=fault)
        eager = self.once(("held", about), f"eager-{about}-memory", weighing.weigh, run.setup.eager(case.dtype))
        named = f"snapshots/{case.id}.pickle"
        snapshot = self.logs.parent / named
        if case.device == "cuda":
            snapshot.parent.mkdir(exist_ok=True)
        held = self.ask(f"{case.id}-memory", weighing.weigh, run, snapshot)
        return memory_of(held, eager, optimization, snapshot=named if snapshot.exists() else "")

    def observe_ranks(self, case: Case, optimization: Optimization, *, count: int) -> list[Rank]:
        """Return what each of `count` ranks keeps of the model of a case that this runner ran. Raises WorkerFailed."""
        with self._ranks(f"{case.id}-ranks", count) as (workers, places):
            run = self.case_run(case, optimization)
            seen = call_together(workers, ranks.run_rank, [(run, place) for place in places], seconds=self.seconds)
        return [rank for observed in seen for rank in observed.ranks]

    def peaks(self, device: str) -> Peaks:
        """Return the peak rates of the machine, measured once. Raises WorkerFailed."""
        measured: Peaks = self.once(("peaks", device), f"peaks-{device}", measure_peaks, device)
        return measured

    def _device(
        self, question: Callable[..., Answer], *arguments: Any, unknown: Callable[[WorkerFailed], Answer]
    ) -> Answer:
        """Return a worker's answer on devices, so that this process never holds one. Where it gives none, return what
        `unknown` makes of its error."""
        try:
            return self.ask("devices", question, *arguments)
        except WorkerFailed as error:
            refuse_full_disk(error, "devices")
            return unknown(error)

    def device_names(self, device: str) -> str:
        """Return the names of the devices of a type, or why they are unknown."""
        return self._device(devices.device_names, device, unknown=lambda error: f"{device}: unknown, {error}")

    def preloaded(self) -> str:
        """Return what the server of this session's workers has imported, and what each worker imports itself."""
        return str(self._device(server_contents, unknown=lambda error: f"unknown, {error}"))

    def device_keys(self, device: str) -> list[str]:
        """Return keys that distinguish the visible devices of a type from all others of this machine. If the devices do
        not answer, return the type itself: their cases then say why."""
        return [device] if device == "cpu" else self._device(devices.device_keys, device, unknown=lambda _: [device])

    def free_memory(self, device: str) -> int:
        """Return the bytes that are free on the fullest device of a type; 0 if that is unknown."""
        return self._device(devices.free_memory, device, unknown=lambda _: 0)

    def setup(self, case: Case) -> CaseSetup:
        """Return the inputs of a case, without a fault."""
        return CaseSetup(self._loadable(case.recipe), case.workload, case.device, Path(self._scratch.name))

    def case_run(self, case: Case, optimization: Optimization, *, fault: str = "") -> CaseRun:
        """Return the run of an optimization on a case's inputs in its native dtype, with `fault` planted if named."""
        return CaseRun(replace(self.setup(case), fault=fault), case.dtype, optimization)

    def ask(
        self, name: str, function: Callable[..., Answer], *arguments: Any, more: float = 0.0, threads: int = 0
    ) -> Answer:
        """Return what `function` returns in a worker of its own, whose output goes to a log of that name. It has `more`
        seconds beyond the usual deadline. Raises WorkerFailed."""
        with self._worker(name, threads) as worker:
            return worker.call(function, *arguments, seconds=self.seconds + more)

    @contextmanager
    def workers(self, name: str, optimization: Optimization) -> Iterator[tuple[list[Worker], list[RankAddress | None]]]:
        """Yield the workers in which a path is timed, and the places where their ranks meet.

        That is one worker without a place, or as many as the path has ranks. Their output goes to logs of that name.
        Raises WorkerFailed.
        """
        launch = optimization.launch()
        if launch and launch.torchrun:
            raise WorkerRaised(UNTIMED_RANKS, incompatible=True)
        if launch is None:
            with self._worker(name) as worker:
                yield [worker], [None]
            return
        with self._ranks(name, launch.ranks) as (workers, places):
            yield workers, [*places]

    def forget_failures(self) -> None:
        """Forget failures, so that whatever failed once by chance is tried anew when it is needed again."""
        with self._guard:
            self._known = {key: known for key, known in self._known.items() if not isinstance(known, WorkerFailed)}

    def kill_workers(self) -> None:
        """End all workers of this runner. Whoever waits for one learns that it died."""
        with self._guard:
            live = tuple(self._live)
        for worker in live:
            worker.kill()

    def close(self) -> None:
        self._scratch.cleanup()

    def build(self, optimization: Optimization, device: str) -> None:
        """Build once, outside of any case's deadline, what the optimization's library builds at first use.

        Raises WorkerRaised if that fails.
        """
        if ExtensionBuild() not in optimization.needs():
            return
        try:
            self.once(("built", device), f"build-quanto-{device}", build_quanto, device, more=BUILD_SECONDS)
        except WorkerFailed as error:
            raise WorkerRaised(f"optimum-quanto's extension was not built: {error}", log=error.log) from error

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

    def _block(self, name: str, run: CaseRun, sampling: Sampling) -> Block:
        """Run one side in workers of its own, one per rank of a parallel model."""
        launch = run.optimization.launch()
        if launch is None:
            return self.ask(name, paired.time_block, run, sampling)
        with self._ranks(name, launch.ranks) as (workers, places):
            requests = [(run, sampling, place) for place in places]
            return joined(call_together(workers, paired.time_block, requests, seconds=self.seconds))

    def _run_ranks(self, name: str, run: CaseRun, count: int) -> PrecisionRun:
        started = time.monotonic()
        with self._ranks(name, count, self._threads(run.setup)) as (workers, places):
            seen = call_together(workers, ranks.run_rank, [(run, place) for place in places], seconds=self.seconds)
            compared = workers[0].call(ranks.compare_ranks, run, seen, seconds=self.seconds)
        return replace(compared, seconds=time.monotonic() - started)

    @contextmanager
    def _ranks(self, name: str, count: int, threads: int = 0) -> Iterator[tuple[list[Worker], list[RankAddress]]]:
        """Yield workers that are to be ranks of one model, and the places where they meet."""
        port = self._port()
        with ExitStack() as stack:
            workers = [stack.enter_context(self._worker(f"{name}-rank{rank}", threads)) for rank in range(count)]
            yield workers, [RankAddress(rank, count, port) for rank in range(count)]

    def _threads(self, setup: CaseSetup) -> int:
        """Return the CPU threads of every worker that runs a model on a workload; 0 leaves it to torch. The number is
        the same whether other workers run at the time or not, since results depend on it."""
        return self.threads if setup.workload.timed is None and is_small(setup.recipe) else 0

    @contextmanager
    def _worker(self, name: str, threads: int = 0) -> Iterator[Worker]:
        """Yield a worker whose output goes to a log of that name."""
        with Worker(log=self._log(name), threads=threads) as worker:
            with self._guard:
                self._live.add(worker)
            try:
                yield worker
            finally:
                with self._guard:
                    self._live.remove(worker)

    def _port(self) -> int:
        """Return a port that this session never used."""
        while True:
            port = _free_port()
            with self._guard:
                if port not in self._ports:
                    self._ports.add(port)
                    return port

    def _loadable(self, recipe: ModelRecipe) -> ModelRecipe:
        """Return the recipe itself or, for seeded weights, one of the folder into which they are written once."""
        if not isinstance(recipe.source, Seeded):
            return recipe
        folder = Path(self._scratch.name) / "models" / recipe.name
        self.once(("checkpoint", recipe.name), f"checkpoint-{recipe.name}", references.make_checkpoint, recipe, folder)
        return replace(recipe, source=Folder(str(folder)))

    def eager(self, setup: CaseSetup, dtype: Dtype) -> tuple[float, EagerCheck]:
        """Return the reference's floor and the trust in eager in `dtype`, computed once. A failure is remembered
        too."""
        about = f"{setup.device}-{setup.recipe.name}-{setup.workload.name}"
        setup = replace(setup, fault=self.reference_fault)
        threads = self._threads(setup)
        floor: float = self.once((about,), f"reference-{about}", references.make_reference, setup, threads=threads)
        asked = (setup, dtype, self.probes.recall)
        trust: EagerCheck = self.once(
            (about, dtype), f"eager-{about}-{dtype}", references.measure_eager, *asked, threads=threads
        )
        return floor, trust

    def once(
        self,
        key: tuple[Any, ...],
        name: str,
        function: Callable[..., Any],
        *arguments: Any,
        more: float = 0.0,
        threads: int = 0,
    ) -> Any:
        with self._guard:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:
            if key not in self._known:
                try:
                    self._known[key] = self.ask(name, function, *arguments, more=more, threads=threads)
                except WorkerFailed as error:
                    self._known[key] = error
            known = self._known[key]
        if isinstance(known, WorkerFailed):
            raise known
        return known

    def _log(self, name: str) -> Path:
        return self.logs / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.log"


def _free_port() -> int:
    """Return a port of this machine on which nobody listens, where ranks can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def failure_of(error: WorkerFailed, what: str) -> Failure:
    """Return why there is no result, from the error of the worker that should have given `what`.

    Raises DiskRefuses if a disk is full.
    """
    refuse_full_disk(error, what)
    outcomes = {WorkerDied: Outcome.CRASHED, WorkerTimedOut: Outcome.TIMED_OUT}
    declared = isinstance(error, WorkerRaised) and error.incompatible
    outcome = Outcome.UNSUPPORTED if declared else outcomes.get(type(error), Outcome.ERROR)
    return Failure(outcome, f"{what}: {error}", log=error.log)
