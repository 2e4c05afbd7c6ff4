"""Plan the cases of a session from a catalogue and a machine. Nothing is loaded, nothing runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path

from harness.errors import HarnessError, UnknownName
from harness.machine.inventory import Inventory
from harness.machine.model_size import Room
from harness.machine.requirements import Device, DeviceMemory, HubModel, Need, RealDevice
from harness.paths.base import Aspect, Optimization
from harness.profiles.defects import is_ours
from harness.records.enums import HALF_PRECISIONS, Dtype, Technique, Tier
from harness.records.evidence import Case, case_id
from harness.records.workload import Folder, Hub, ModelSpec, Probes, Seeded, Workload
from harness.session.option_values import place

ACCELERATOR_DTYPE = Dtype.BF16
"""Native dtype of accelerators when none is requested: checkpoints are published in it."""
LONGEST_NAME = 200
"""Characters of the longest hub id: the hub allows 96 on each side of the slash."""
TIMED_ANYWHERE = 3.0
"""GiB of the largest model that is timed on a simulated device too."""


@dataclass(frozen=True)
class Catalogue:
    """Paths, models, workloads and probes that can run."""

    paths: tuple[Optimization, ...]
    models: tuple[ModelSpec, ...]
    """Models that run when none is requested."""
    workloads: tuple[Workload, ...]
    probes: Probes
    more_models: tuple[ModelSpec, ...] = ()
    """Models that run only when requested by name: they are large, or far away."""
    slices: tuple[ModelSpec, ...] = ()
    """Models of a few layers in published widths, on which an accelerator's kernels run with their real tiles."""
    whole: tuple[ModelSpec, ...] = ()
    """Models that an accelerator times by default, the smallest first."""
    architectures: tuple[ModelSpec, ...] = ()
    """Small models of the architectures that people run, one each."""

    def __post_init__(self) -> None:
        for entries in (self.paths, self.all_models, self.workloads):
            names = [entry.name for entry in entries]
            if doubled := {name for name in names if names.count(name) > 1}:
                raise ValueError(
                    f"{', '.join(sorted(doubled))} stands twice in the catalogue, but names should be unique"
                )

    @property
    def all_models(self) -> tuple[ModelSpec, ...]:
        """All models that have a name here."""
        return (*self.models, *self.slices, *self.whole, *self.more_models, *self.architectures)


@dataclass(frozen=True, repr=False)
class Planned:
    """A case with what is needed to run it, or with the reason why it cannot run here."""

    case: Case
    optimization: Optimization
    markers: tuple[str, ...]
    unmet: str | None
    """First need that this machine does not meet; None if it meets all."""
    tier: Tier = Tier.NIGHTLY
    """First tier that runs the case."""
    claim: str = ""
    """Claim of the optimization overview that is tried on the case; empty if the case itself is judged."""

    @property
    def id(self) -> str:
        return self.claim or self.case.id

    @property
    def slow(self) -> bool:
        """True if the case runs only when slow cases are requested."""
        return self.tier is Tier.SLOW

    def __repr__(self) -> str:
        """Return a short text: other plugins write parameters of tests into their files."""
        return f"Planned({self.id})"


def plan(
    catalogue: Catalogue,
    inventory: Inventory,
    *,
    models: tuple[ModelSpec, ...],
    device: str,
    dtypes: tuple[Dtype, ...] = (),
) -> list[Planned]:
    """Return every path on every model that it concerns, dtype and workload as a case, each with its tier.

    Workloads are innermost, so that a model's runs stand together. Without `dtypes` each model runs in its native one,
    and the other half precisions are slow cases. The first model stands for all in the daily tier.

    Raises HarnessError if two models have one name: ids would no longer distinguish their cases.
    """
    models = tuple(dict.fromkeys(models))
    for name, count in Counter(model.name for model in models).items():
        if count > 1:
            sources = ", ".join(str(model.source) for model in models if model.name == name)
            raise HarnessError(f"{count} models are named {name}: {sources} (run them apart, or rename a folder)")
    planned = [
        _planned(
            optimization,
            Case(optimization.name, optimization.technique, model, workload, device, dtype),
            inventory,
            native=dtype in (dtypes or _native(model, device)),
        )
        for model in models
        for dtype in dtypes or dict.fromkeys((*_native(model, device), *HALF_PRECISIONS))
        for optimization in catalogue.paths
        if optimization.concerns(model)
        for workload in catalogue.workloads
    ]
    return in_tiers(planned, models=models[:1])


def _native(model: ModelSpec, device: str) -> tuple[Dtype]:
    return (model.cpu_dtype if device == "cpu" else ACCELERATOR_DTYPE,)


def in_tiers(planned: Sequence[Planned], *, models: tuple[ModelSpec, ...]) -> list[Planned]:
    """Return the same cases, each with the first tier that runs it. `models` stand for all others.

    *daily*: each path on these models, on the first untimed workload that suits it. What each technique should gain is
    timed on these models too, or, if none of them is timed by default, on the first model that is. Stacks that compile
    are nightly on a CPU, and those with flex attention anywhere: their parts run by themselves. *smoke*: the first
    untimed daily case of each technique that can run here, by model and dtype. *nightly*: all others but *slow* ones,
    which repeat what another case shows, or cost a CPU minutes.
    """
    fast = [entry for entry in planned if not entry.slow]
    usual: dict[tuple[str, str, str], Workload] = {}
    for entry in fast:
        case = entry.case
        if case.workload.timed is None and entry.optimization.suits(case.workload, case.device):
            usual.setdefault((case.recipe.name, case.dtype, case.path), case.workload)
    timed = _first_timed([entry for entry in fast if entry.case.recipe in models]) or _first_timed(fast) or models
    first: dict[tuple[str, str, str], Planned] = {}
    tiers = {}
    for entry in fast:
        case = entry.case
        if case.workload.timed is not None:
            pays = case.workload.timed in entry.optimization.expected_gain_in()
            tiers[entry.id] = Tier.DAILY if pays and case.recipe in timed else Tier.NIGHTLY
            continue
        daily = case.recipe in models and usual.get((case.recipe.name, case.dtype, case.path)) is case.workload
        daily = daily and not _waits_for_the_night(entry)
        tiers[entry.id] = Tier.DAILY if daily else Tier.NIGHTLY
        if daily and entry.unmet is None:
            first.setdefault((case.recipe.name, case.dtype, case.technique), entry)
    for entry in first.values():
        tiers[entry.id] = Tier.SMOKE
    return [replace(entry, tier=tiers.get(entry.id, Tier.SLOW)) for entry in planned]


def _waits_for_the_night(entry: Planned) -> bool:
    """Return whether a stack compiles: steps for minutes on a CPU, or flex attention for each mask anywhere."""
    path = entry.optimization
    if entry.case.technique is not Technique.STACKS or path.impossible:
        return False
    flex = Aspect.COMPILATION in path.changes and not path.compiles_steps
    return flex or (path.compiles_steps and entry.case.device == "cpu")


def _first_timed(planned: Sequence[Planned]) -> tuple[ModelSpec, ...]:
    models = (entry.case.recipe for entry in planned if entry.case.workload.timed and entry.case.recipe.timed_daily)
    return tuple(dict.fromkeys(models))[:1]


def find_model(name: str, catalogue: Catalogue, *, trusted: bool = False) -> ModelSpec:
    """Return the recipe of `--model`: a name, a folder, or a hub id `owner/name[@revision]`.

    `trusted` says whether Python code that comes with the model may run. Raises UnknownName, or HarnessError for a
    folder that holds an adapter alone.
    """
    models = catalogue.all_models
    for model in models:
        if model.name == name:
            return model
    folder = place(name)
    if (folder / "config.json").is_file():
        return replace(_own_folder(folder, models), trusted=trusted)
    if (folder / "adapter_config.json").is_file():
        raise HarnessError(
            f"--model {folder}: holds an adapter, and no model (merge it with its model: peft's merge_and_unload, then "
            "save_pretrained)"
        )
    repository, at, revision = name.partition("@")
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository) and len(name) <= LONGEST_NAME and not folder.exists():
        # With owner and revision: results of one are no baselines of another. No hub id holds two dots in a row.
        parts = [*repository.split("/"), *([revision] if at else [])]
        return ModelSpec("..".join(map(_plain, parts)), Hub(repository, revision or "main"), trusted=trusted)
    names = [model.name for model in models if model not in catalogue.architectures]
    many = ["a name of fixtures/architectures"] if catalogue.architectures else []
    raise UnknownName("model", name, [*names, *many, "a folder with config.json", "a hub id owner/name"])


def _own_folder(folder: Path, models: Sequence[ModelSpec]) -> ModelSpec:
    """Return the recipe of a folder. Raises HarnessError if its cases would have the ids of another model's."""
    recipe = ModelSpec(_plain(folder.name), Folder(str(folder)), model_type=_model_type(folder))
    if is_ours(recipe.name):
        raise HarnessError(
            f"--model {folder}: is named like the small models of this repository, whose known defects are forgiven "
            "(rename the folder)"
        )
    namesake = next((model for model in models if model.name == recipe.name), None)
    if namesake is None:
        return recipe
    if namesake.source == recipe.source:
        return namesake
    raise HarnessError(
        f"--model {folder}: is named like the model {namesake.name} of this repository, whose baselines and known "
        "failures it would be judged by (rename the folder)"
    )


def _model_type(folder: Path) -> str:
    """Return the model type in a folder's config.json; empty if it cannot be read, which its check tells."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    named = config.get("model_type", "") if isinstance(config, dict) else ""
    return named if isinstance(named, str) else ""


def with_models(catalogue: Catalogue, names: tuple[str, ...]) -> Catalogue:
    """Return a catalogue that also has the models of these names, which are those that `--model` takes."""
    named = tuple(find_model(name, catalogue) for name in names)
    catalogued = catalogue.all_models
    return replace(catalogue, more_models=(*catalogue.more_models, *(each for each in named if each not in catalogued)))


def case_ids(catalogue: Catalogue, device: str) -> set[str]:
    """Return the ids of all cases that a catalogue gives on a torch device type, in any dtype."""
    workloads = [workload.name for workload in catalogue.workloads]
    return {
        case_id(device, dtype, model=model.name, path=path.name, workload=workload)
        for path in catalogue.paths
        for model in catalogue.all_models
        if path.concerns(model)
        for workload in workloads
        for dtype in map(str, Dtype)
    }


def find_case(case_id: str, catalogue: Catalogue) -> tuple[Case, Optimization]:
    """Return the case of that id and its path. Raises HarnessError if the catalogue gives none."""
    ids = []
    for path, model in product(catalogue.paths, catalogue.all_models):
        why = path.lacking(model)
        for case in _cases(path, model, catalogue, device=case_id.partition("-")[0]):
            if case.id == case_id and why:
                raise HarnessError(
                    f"case {case_id!r} is unknown: {path.name} has nothing to exchange in {model.name} ({why})"
                )
            if case.id == case_id:
                return case, path
            ids += [] if why else [case.id]
    # Among ids of the same path: comparing with all would take a minute.
    path_named = next((path.name for path in catalogue.paths if f"-{path.name}-" in case_id), "")
    near = get_close_matches(case_id, [id_ for id_ in ids if f"-{path_named}-" in id_] if path_named else [], n=1)
    meant = f"did you mean {near[0]}?" if near else "pytest --collect-only -q shows them in brackets"
    raise HarnessError(f"case {case_id!r} is unknown, but should be the id of a case of the catalogue ({meant})")


def _cases(path: Optimization, model: ModelSpec, catalogue: Catalogue, *, device: str) -> Iterator[Case]:
    for workload, dtype in product(catalogue.workloads, Dtype):
        yield Case(path.name, path.technique, model, workload, device, dtype)


def plan_case(case_id: str, catalogue: Catalogue, inventory: Inventory) -> Planned:
    """Return the case of that id as planned: with its needs, and whether this machine meets them."""
    case, path = find_case(case_id, catalogue)
    alone = replace(catalogue, paths=(path,), workloads=(case.workload,))
    [planned] = plan(alone, inventory, models=(case.recipe,), device=case.device, dtypes=(case.dtype,))
    return planned


def needs(optimization: Optimization, case: Case) -> tuple[Need, ...]:
    """Return all needs of a case: its device, its model, and the needs of its optimization."""
    source = case.recipe.source
    model: tuple[Need, ...] = ()
    if isinstance(source, Hub):
        model = (HubModel(source.repository, source.revision),)
    elif least := gib_of(source, each=case.dtype.bytes):
        model = (DeviceMemory(least),)
        if case.workload.timed and gib_of(source) > TIMED_ANYWHERE:
            model = (RealDevice(), *model)
    return (Device(), *model, *optimization.needs())


def gib_of(source: Folder | Hub | Seeded, *, each: int = 8) -> float:
    """Return the GiB of a device that a model needs, to two digits; 0 if its shape is not known.

    `each` is the number of bytes for each parameter: those of its dtype at least, and 8 for a reference in float64.
    """
    weights = source.parameters if isinstance(source, Seeded) else None
    return float(f"{Room(0, 'cuda').needed(each * weights) / 2**30:.2g}") if weights else 0.0


def device_gib(case: Case) -> float:
    """Return the GiB of an accelerator that a case needs, by its model's shape.

    It is 0 on a CPU, and if the shape is not known.
    """
    return gib_of(case.recipe.source) if case.device != "cpu" else 0.0


def _planned(optimization: Optimization, case: Case, inventory: Inventory, *, native: bool) -> Planned:
    wanted = needs(optimization, case)
    # One after the other: asking whether the hub is in reach takes time, and is idle without the device.
    unmet = next((reason for need in wanted if (reason := need.unmet(inventory, device=case.device))), None)
    if unmet is None and optimization.impossible:
        unmet = f"incompatible: {optimization.impossible}"
    taken = optimization.dtypes(case.device)
    if unmet is None and case.dtype not in taken:
        unmet = f"needs {' or '.join(taken)}: its kernels do not take {case.dtype}"
    slow = not native or case.workload.slow or (case.device == "cpu" and _slow_on_cpu(optimization, case))
    marks = [
        case.technique,
        *(["cuda"] if case.device == "cuda" else []),
        *(["slow"] if slow else []),
        *(need.marker for need in wanted if need.marker),
    ]
    markers = tuple(dict.fromkeys(str(mark) for mark in marks))
    return Planned(case, optimization, markers, unmet, Tier.SLOW if slow else Tier.NIGHTLY)


def _slow_on_cpu(optimization: Optimization, case: Case) -> bool:
    if case.workload.timed is None:
        return optimization.slow_on_cpu(case)
    return case.workload.timed not in optimization.expected_gain_in() or not case.recipe.timed_daily


def _plain(name: str) -> str:
    """Return a name fit for case ids."""
    return "".join(char if char.isalnum() or char in "._" else "_" for char in name)
