"""Plant every fault of the catalogue, run correct paths on drawn prompts, and let our rules and others' judge both."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from fixtures.models import MODELS
from fixtures.workloads import PROBES, WORKLOADS, look_up, segment, text
from harness.execution.runner import Runner
from harness.execution.tensor_files import kept_file, read_generation
from harness.judging.correctness import judge
from harness.machine.inventory import Inventory
from harness.paths.base import Optimization
from harness.paths.registry import PATHS
from harness.records.enums import Dtype, Outcome, Property
from harness.records.evidence import Case, Evidence
from harness.records.finding import checks_of
from harness.records.run import Verdict
from harness.records.workload import Workload
from harness.session.plan import find_model, needs
from suites.conftest import CATALOGUE
from suites.invariants.asking import Asking
from suites.invariants.relations import relation_named
from suites.invariants.search import SearchBudget
from suites.meta.faults.catalogue import LADDER, Fault, Planted
from suites.meta.faults.rivals import RIVALS, Runs


@dataclass(frozen=True)
class Cell:
    """One fault, or one correct variant, in one precision or over the whole ladder."""

    outcome: Outcome
    factor: float | None
    """By what factor the most exceeded limit is exceeded, of those that are not zero; None if no number decided."""
    rivals: Mapping[str, bool]
    """Whether each rule of others accepts the run; without those that have nothing to say of it."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """The verdict's, where they are kept: those of the ladder hold those of each dtype."""
    rule: str = ""
    """Name of the number with that factor."""


@dataclass(frozen=True)
class Row:
    """All cells of a fault or of a correct variant."""

    name: str
    path: str
    what: str
    cells: Mapping[str, Cell]
    """By dtype, and `ladder` for what a verdict on them together says."""
    seconds: float
    expected: Outcome = Outcome.PASS


def measure_fault(fault: Fault, runner: Runner, inventory: Inventory) -> Row:
    """A fault's row. Without cells if its path cannot run here."""
    started = time.monotonic()
    own = runner
    if fault.into is not Planted.CANDIDATE:
        own = Runner(probes=PROBES, logs=runner.logs, reference_fault=fault.dotted)
    planted = "" if fault.into is Planted.BASELINE else fault.dotted
    optimization = _path(fault.path)
    case = _case(fault.path, fault.model, next(entry for entry in WORKLOADS if entry.name == fault.workload))
    if fault.relation:
        case = replace(case, workload=relation_named(fault.relation).workload)
        with tempfile.TemporaryDirectory() as folder, closing(Asking(Path(folder), EXAMPLE_SECONDS)) as asking:
            cells = dict(_asked(case, optimization, own, asking, fault=fault.dotted, inventory=inventory))
    else:
        cells = dict(_cells(case, optimization, own, planted=planted, dtypes=fault.dtypes, inventory=inventory))
    if own is not runner:
        own.close()
    return Row(fault.name, fault.where, fault.what, cells, time.monotonic() - started, fault.outcome)


RELATION = "relation"
"""Column of a correct relation."""
BUDGET = SearchBudget(16, shrinks=False)
"""Examples of a relation. The smallest one that violates it is of no interest here."""
FEW_EXAMPLES = 4
"""Examples of a relation without a fault, from each of many seeds."""
EXAMPLE_SECONDS = 240.0
"""Deadline of one example."""
CORRECT = (
    "attention.sdpa",
    "attention.sdpa_math",
    "caching.dynamic",
    "caching.none",
    "caching.static",
    "caching.quantized_quanto4",
    "kernels.flash_attn2_local",
    "kernels.layers_local",
    "quantization.torchao_int8",
    "quantization.torchao_int4",
    "quantization.quanto_int8",
    "quantization.quanto_int4",
    "quantization.bnb_nf4",
    "quantization.bnb_int8",
    "compilation.static_cache",
    "parallelism.tp2",
    "continuous_batching.sdpa",
    "continuous_batching.eager",
    "caching.quantized_quanto4_repacked",
    "quantization.bnb_nf4_double",
    "quantization.torchao_float8",
    "quantization.hqq4",
)
"""Paths on which the catalogue has faults, and their siblings."""
FEATURED = (
    ("attention.sdpa", "small_dynamic_rope"),
    ("attention.sdpa", "small_own_scale"),
    ("attention.sdpa", "small_long_rope"),
    ("caching.dynamic", "small_sinks"),
    ("caching.static", "small_sinks"),
    ("caching.static", "small_soft_cap"),
    ("kernels.experts_batched_mm", "small_sinks"),
    ("kernels.experts_grouped_mm", "small_sinks"),
)
"""Paths with faults that only models with features show, and those models."""
DEFECTIVE = {("quantization.torchao_int8", "tiny_olmo3", Dtype.FP16)}
"""Cells in which a library is wrong, and a mismatch is no false alarm: torchao 0.18 multiplies by levels of up to 127
before it scales, and float16 overflows."""
RARELY = 4
"""One in so many seeds is tried on models with features, each of which takes as long as one of ours."""
COMPILED = {"compilation.static_cache"}
"""Tried on one seed: each length compiles anew."""


def drawn(seed: int) -> Workload:
    """Four rows of drawn lengths and contents, padded."""
    draw = random.Random(seed)
    return Workload(
        f"drawn_{seed}",
        (
            segment(draw.randint(50, 90), period=draw.randint(23, 47), seed=seed),
            text(draw.randint(40, 110), skip=draw.randint(0, 300)),
            look_up(draw.randint(12, 30), asked=draw.randint(2, 8), seed=seed),
            text(draw.randint(8, 40), skip=draw.randint(0, 400)),
        ),
        8,
    )


Keep = Callable[[str, str, Callable[[], Row]], Row]
"""Gives the row of a name and a path: it is measured, or was before."""


def measure_correct(runner: Runner, inventory: Inventory, *, seeds: range, keep: Keep) -> Iterator[Row]:
    """Paths without a fault on drawn prompts, in turn on each of the tiny models, and some on models with features."""
    for seed in seeds:
        model, workload = MODELS[seed % len(MODELS)], drawn(seed)
        ours = [(path, model.name) for path in CORRECT if path not in COMPILED or seed == seeds[0]]
        for name, recipe in (*ours, *(FEATURED if seed % RARELY == 0 else ())):
            yield keep(f"{recipe}, {workload.name}", name, partial(_correct, name, recipe, workload, runner, inventory))


def _correct(name: str, recipe: str, workload: Workload, runner: Runner, inventory: Inventory) -> Row:
    started = time.monotonic()
    sound = tuple(dtype for dtype in LADDER if (name, recipe, dtype) not in DEFECTIVE)
    case = _case(name, recipe, workload)
    cells = dict(_cells(case, _path(name), runner, planted="", dtypes=sound, inventory=inventory))
    # Only what a fault showed is held against limits later.
    cells = {column: replace(cell, numbers={}) for column, cell in cells.items()}
    return Row(f"{recipe}, {workload.name}", name, "correct", cells, time.monotonic() - started)


def measure_relations(
    asked: Iterable[tuple[str, str]], runner: Runner, inventory: Inventory, *, seeds: range, keep: Keep
) -> Iterator[Row]:
    """Relations of paths without a fault, each a pair of their names: with other examples for each seed, in turn on
    each of the tiny models. Relations of one path stand together, for one worker answers them."""
    with tempfile.TemporaryDirectory() as folder, closing(Asking(Path(folder), EXAMPLE_SECONDS)) as asking:
        for seed in seeds:
            name = f"{MODELS[seed % len(MODELS)].name}, seed {seed}"
            for path, relation in sorted(asked):
                measure = partial(_held, path, relation, seed, runner, inventory, asking)
                yield keep(name, f"{path}-{relation}", measure)


def _held(path: str, relation: str, seed: int, runner: Runner, inventory: Inventory, asking: Asking) -> Row:
    started, model = time.monotonic(), MODELS[seed % len(MODELS)]
    case = replace(_case(path, model.name, WORKLOADS[0]), workload=relation_named(relation).workload)
    budget = replace(BUDGET, examples=FEW_EXAMPLES, seed=seed)
    found = dict(_asked(case, _path(path), runner, asking, budget=budget, inventory=inventory))
    cells = {RELATION: replace(found["ladder"], numbers={})} if found else {}
    return Row(f"{model.name}, seed {seed}", f"{path}-{relation}", "correct", cells, time.monotonic() - started)


def _asked(
    case: Case,
    path: Optimization,
    runner: Runner,
    asking: Asking,
    *,
    inventory: Inventory,
    fault: str = "",
    budget: SearchBudget = BUDGET,
) -> Iterator[tuple[str, Cell]]:
    """The verdict on a relation, which is asked on the whole ladder at once and of which rivals say nothing."""
    if any(need.unmet(inventory, device=case.device) for need in needs(path, case)):
        return
    verdict = asking.verdict(case, path, runner, budget=budget, folder=asking.scratch, fault=fault)
    if verdict.outcome is not Outcome.UNSUPPORTED:
        yield "ladder", _cell(verdict, {}, keeps_numbers=True)


def _path(name: str) -> Optimization:
    return next(path for path in PATHS if path.name == name)


def _case(path: str, model: str, workload: Workload) -> Case:
    return Case(path, _path(path).technique, find_model(model, CATALOGUE), workload, "cpu", Dtype.BF16)


def _cells(
    case: Case,
    path: Optimization,
    runner: Runner,
    *,
    planted: str,
    dtypes: tuple[Dtype, ...],
    inventory: Inventory,
) -> Iterator[tuple[str, Cell]]:
    """By dtype, the most precise first, then the ladder. What cannot run here, or says so itself, has no cell."""
    if any(need.unmet(inventory, device=case.device) for need in needs(path, case)):
        return
    found: list[tuple[Case, Evidence]] = []
    accepted: dict[str, bool] = {}
    for dtype in (dtype for dtype in dtypes if dtype in path.dtypes(case.device)):
        native = replace(case, dtype=dtype)
        with tempfile.TemporaryDirectory() as folder:
            evidence = runner.evidence(native, path, fault=planted, rungs=(dtype,), kept=Path(folder))
            rivals = _rivals(Path(folder), dtype)
        verdict = judge(native, Property.EQUIVALENCE, evidence)
        if verdict.outcome is not Outcome.UNSUPPORTED:
            found.append((native, evidence))
            accepted |= {name: accepted.get(name, True) and taken for name, taken in rivals.items()}
            yield dtype, _cell(verdict, rivals)
    if found:
        yield "ladder", _cell(_together(found), accepted, keeps_numbers=True)


def _together(found: list[tuple[Case, Evidence]]) -> Verdict:
    """The verdict on all rungs of a case; if one has no result, on that."""
    native, last = found[-1]
    failed = next(((case, each) for case, each in found if each.failure or each.reference_failure), None)
    if failed:
        return judge(failed[0], Property.EQUIVALENCE, failed[1])
    rungs = tuple(rung for _, each in found for rung in each.rungs)
    trusts = tuple(trust for _, each in found for trust in each.trusts)
    return judge(native, Property.EQUIVALENCE, replace(last, rungs=rungs, trusts=trusts))


def _cell(verdict: Verdict, rivals: Mapping[str, bool], *, keeps_numbers: bool = False) -> Cell:
    factors = excesses(verdict.numbers)
    rule = max(factors, key=factors.__getitem__, default="")
    return Cell(
        verdict.outcome,
        factors.get(rule),
        dict(rivals),
        numbers=dict(verdict.numbers) if keeps_numbers else {},
        rule=rule,
    )


def excesses(numbers: Mapping[str, float]) -> dict[str, float]:
    """By what factor each number of a verdict exceeds its limit, where no number is zero that divides."""
    checks = checks_of(numbers).items()
    return {name: check.excess for name, check in checks if (check.limit if check.at_most else check.got)}


def _rivals(folder: Path, dtype: Dtype) -> dict[str, bool]:
    """What others would say of the tensors that were compared; nothing if there are none."""
    files = [kept_file(folder, role, dtype) for role in ("candidate", "eager", "reference")]
    if not all(file.exists() for file in files):
        return {}
    runs = Runs(*map(read_generation, files))
    return {rival.name: rival.accepts(runs, dtype) for rival in RIVALS if dtype in rival.dtypes}
