"""Times and operators of paths on this machine, each path of a model in a worker of its own."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fixtures.models import MODELS, MORE_MODELS, SLICES, WHOLE
from fixtures.workloads import WORKLOADS
from harness.errors import WorkerFailed
from harness.execution.setup import CaseRun, CaseSetup
from harness.execution.worker import Worker
from harness.judging.prediction import predict
from harness.paths.registry import PATHS
from harness.records.enums import Dtype
from harness.records.prediction import Constants, RunOperators
from harness.records.workload import Folder, ModelSpec, Seeded

EIGHT_PATHS = (
    *("eager", "attention.sdpa", "caching.static", "caching.none", "caching.quantized_quanto4"),
    *("compilation.static_cache", "quantization.quanto_int8", "quantization.torchao_int8", "kernels.layers_local"),
)
"""Eager and eight paths."""
DECODE, PREFILL = "decode_b1", "prefill_b1"
MEASURED = (
    ("tiny_llama3", DECODE, EIGHT_PATHS),
    ("tiny_llama3", PREFILL, EIGHT_PATHS),
    ("tiny_qwen3", DECODE, EIGHT_PATHS),
    ("mini", DECODE, EIGHT_PATHS),
    ("mini", PREFILL, ("eager", "attention.sdpa")),
    ("shape_qwen3_0_6b", DECODE, ("eager", "attention.sdpa", "caching.static", "compilation.static_cache")),
)
"""Models, with the workload and the paths that are timed on each: what a CPU can do in a quarter of an hour."""
RUNS = 5
"""Timed runs of each path, after those that warm it up. The median counts."""
SECONDS = 900.0


@dataclass(frozen=True)
class Measured:
    """What one path took on one model and workload."""

    model: str
    path: str
    workload: str
    dtype: Dtype
    prefill: float
    """Seconds to the first token."""
    decode: float
    """Seconds of a decode step."""
    steps: int
    operators: RunOperators
    constants: Constants
    """Constants of the machine, measured by the same process just before: its speed drifts from minute to minute."""

    @property
    def seconds(self) -> float:
        return self.prefill + self.steps * self.decode


@dataclass(frozen=True)
class Study:
    """All that was measured."""

    environment: dict[str, str]
    measured: tuple[Measured, ...]


def time_path(run: CaseRun, model: str) -> Measured:
    """Load a path, warm it up and time it. Runs in a worker."""
    from harness.execution.speed.constants import measure_constants
    from harness.execution.speed.timed_model import load_timed_model, no_garbage
    from harness.execution.speed.warm_model import warm_up
    from harness.machine.conditions import open_conditions

    timed = load_timed_model(run)
    warm_up(timed, open_conditions("cpu"))
    constants = measure_constants("cpu")
    timed.run()  # what it needs lies in the caches again
    with no_garbage():
        samples = [timed.run()[0] for _ in range(RUNS)]
    steps = run.setup.workload.new_tokens - 1
    first = [sample.first or sample.seconds for sample in samples]
    later = [(sample.seconds - start) / steps for sample, start in zip(samples, first, strict=True)]
    operators = timed.operators()
    assert operators
    return Measured(
        model,
        run.optimization.name,
        run.setup.workload.name,
        run.dtype,
        statistics.median(first),
        statistics.median(later),
        steps,
        operators,
        constants,
    )


def measure(only: str, folder: Path) -> Iterator[Measured]:
    """Time what MEASURED lists, or only the model named. What fails is left out, with its log in `folder`."""
    for name, workload, paths in MEASURED:
        if only not in {"", name}:
            continue
        spec = next(model for model in (*MODELS, *SLICES, *WHOLE, *MORE_MODELS) if model.name == name)
        recipe = _loadable(spec, folder)
        load = next(load for load in WORKLOADS if load.name == workload)
        for path in (path for path in PATHS if path.name in paths):
            run = CaseRun(CaseSetup(recipe, load, "cpu", folder), spec.cpu_dtype, path)
            try:
                with Worker(log=folder / f"{name}-{path.name}-{workload}.log") as worker:
                    yield worker.call(time_path, run, name, seconds=SECONDS)
            except WorkerFailed as error:
                print(f"{name} {path.name} {workload}: {error}")


def _loadable(spec: ModelSpec, folder: Path) -> ModelSpec:
    if not isinstance(spec.source, Seeded):
        return spec
    place = folder / spec.name
    if not (place / "config.json").exists():
        from harness.execution.loading import save_seeded

        with Worker(log=folder / f"{spec.name}.log") as worker:
            worker.call(save_seeded, spec, place, seconds=SECONDS)
    return replace(spec, source=Folder(str(place)))


@dataclass(frozen=True)
class Compared:
    """One predicted time beside the measured one."""

    measured: Measured
    phase: str
    predicted: float
    took: float

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted / self.took - 1


def compared(study: Study) -> Iterator[Compared]:
    """Yield the predicted prefill and decode step of all that was measured."""
    for each in study.measured:
        yield Compared(each, "prefill", predict(each.operators.prefill, each.constants).seconds, each.prefill)
        yield Compared(each, "decode", predict(each.operators.decode, each.constants).seconds, each.decode)
