"""Plan the cases of an accelerator: models by its memory, and what each tier runs on them. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.machine.inventory import Inventory
from harness.machine.requirements import DeviceMemory, Package
from harness.paths.base import Optimization
from harness.records.enums import Bottleneck, Dtype, Technique, Tier
from harness.records.workload import ModelSpec
from harness.session.plan import ACCELERATOR_DTYPE, Catalogue, Planned, gib_of, plan

PAYS = {Technique.ATTENTION: Bottleneck.PREFILL, Technique.CONTINUOUS_BATCHING: Bottleneck.BATCH}
"""Load in which a technique should pay on an accelerator, if it is another than decoding for one sequence."""


def plan_accelerator(
    catalogue: Catalogue, inventory: Inventory, chosen: ChosenModels, *, device: str, dtypes: tuple[Dtype, ...] = ()
) -> list[Planned]:
    """Return the cases of an accelerator for which no model was requested, each with its tier.

    The catalogue's models and its slices show engagement and equivalence. A slice runs each path on the first workload
    that suits it: the first slice daily, the others nightly. Whole models are timed, since steps of a tiny one are all
    launches, and in the load in which a path should pay: of the first model every path, daily if it is the first of its
    technique and library; of later models those alone, nightly. All else is slow.
    """
    untimed = replace(catalogue, workloads=tuple(load for load in catalogue.workloads if not load.timed))
    timed = replace(catalogue, workloads=tuple(load for load in catalogue.workloads if load.timed))
    planned = plan(untimed, inventory, models=catalogue.models, device=device, dtypes=dtypes)
    for model in chosen.slices:
        usual = Tier.DAILY if model == chosen.slices[0] else Tier.NIGHTLY
        entries = plan(untimed, inventory, models=(model,), device=device, dtypes=dtypes)
        planned += [_in_tier(entry, usual if Tier.DAILY.holds(entry.tier) else Tier.SLOW) for entry in entries]
    for model in chosen.whole:
        entries = plan(timed, inventory, models=(model,), device=device, dtypes=dtypes)
        first = first_of_libraries(entries)
        smallest = model == chosen.whole[0]
        planned += [_in_tier(entry, _tier_of_timed(entry, first, smallest=smallest)) for entry in entries]
    return planned


def _tier_of_timed(entry: Planned, first: frozenset[str], *, smallest: bool) -> Tier:
    """Return the tier of a timed case. `first` are the ids of the first paths of each technique and library."""
    pays = entry.case.workload.timed in loads_that_pay(entry.optimization)
    if entry.slow or not pays:
        return Tier.SLOW
    if entry.case.path in first:
        return Tier.DAILY if smallest else Tier.NIGHTLY
    return Tier.NIGHTLY if smallest else Tier.SLOW


def first_of_libraries(entries: Sequence[Planned]) -> frozenset[str]:
    """Return the first path of each technique and library that can run here, or the first of those that cannot."""
    first: dict[object, str] = {}
    for entry in sorted(entries, key=lambda entry: entry.unmet is not None):
        first.setdefault(_library(entry), entry.case.path)
    return frozenset(first.values())


@dataclass(frozen=True)
class ChosenModels:
    """Slices and whole models that an accelerator's memory holds, and what was left out."""

    slices: tuple[ModelSpec, ...]
    whole: tuple[ModelSpec, ...]
    left_out: tuple[str, ...]
    """A clause for each model that was left out, with the reason."""

    def __str__(self) -> str:
        """Return what a reader of the record must know. What is free is not in it: it is another figure each time, and
        a run is resumed, merged and compared in an equal environment alone."""
        names = ", ".join(model.name for model in (*self.slices, *self.whole))
        return "; ".join((f"by free memory: {names}", *self.left_out))


def choose_models(catalogue: Catalogue, inventory: Inventory) -> ChosenModels:
    """Return the models that run on an accelerator by default, by its free memory.

    If it holds none of a kind, the smallest is planned, and its cases say why they cannot run. The smallest is chosen
    too if the free memory is not known. A catalogue without whole models is timed on its own.
    """
    slices, left = _fitting(catalogue.slices, inventory, each=Dtype.FP64.bytes)
    whole, left_whole = _fitting(catalogue.whole, inventory, each=2 * ACCELERATOR_DTYPE.bytes)  # eager beside it
    return ChosenModels(slices, whole or catalogue.models, (*left, *left_whole))


def _fitting(
    models: tuple[ModelSpec, ...], inventory: Inventory, *, each: int
) -> tuple[tuple[ModelSpec, ...], tuple[str, ...]]:
    """Return the models that the memory holds with `each` bytes for a parameter, and a clause for each other one."""
    free = inventory.free_bytes
    needs = {model: DeviceMemory(gib) for model in models if (gib := gib_of(model.source, each=each))}
    unmet = [model for model, need in needs.items() if free is None or need.gib * 2**30 > free]
    fit = tuple(model for model in models if model not in unmet) or models[:1]
    unknown = ", and the free memory is not known" if free is None else ""
    return fit, tuple(f"{model.name} {needs[model].short}{unknown}" for model in unmet if model not in fit)


def loads_that_pay(optimization: Optimization) -> tuple[Bottleneck, ...]:
    """Return the loads in which an accelerator times a path: where it should gain, or else its technique."""
    return tuple(optimization.expected_gain_in()) or (PAYS.get(optimization.technique, Bottleneck.DECODE),)


def _library(entry: Planned) -> object:
    technique = entry.case.technique  # stacks have the libraries of their parts
    needs = () if technique is Technique.STACKS else entry.optimization.needs()
    packages = {need.distribution for need in needs if isinstance(need, Package)}
    return technique, frozenset(packages), entry.case.dtype


def _in_tier(entry: Planned, tier: Tier) -> Planned:
    markers = dict.fromkeys((*entry.markers, *(["slow"] if tier is Tier.SLOW else [])))
    return replace(entry, tier=tier, markers=tuple(markers))
