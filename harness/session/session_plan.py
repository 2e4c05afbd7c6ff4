"""Cases of one session: the catalogue's, and those that folders of tests plan for themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Protocol

from harness.machine.inventory import Inventory
from harness.records.enums import Dtype, Tier
from harness.records.workload import ModelSpec, Workload
from harness.session.accelerator_plan import ChosenModels, choose_models, plan_accelerator
from harness.session.plan import Catalogue, Planned, in_tiers, plan


class Replan(Protocol):
    """Type of `SessionPlan.replan`."""

    def __call__(
        self, workloads: tuple[Workload, ...], *, recipes: tuple[ModelSpec, ...] = (), path: str = ""
    ) -> list[Planned]: ...


@dataclass
class SessionPlan:
    """Planned cases, which grow while tests are collected."""

    catalogue: Catalogue
    inventory: Inventory
    device: str
    """torch device type."""
    dtypes: tuple[Dtype, ...]
    """Native dtypes that were requested; empty for each model's own."""
    named_models: tuple[ModelSpec, ...]
    """Models that were requested; empty for the catalogue's."""
    tier: Tier
    own: list[Planned] = field(init=False)
    """Cases of the catalogue that the session's tier holds."""
    of_folders: list[Planned] = field(default_factory=list)
    """Cases of folders that have a plan of their own."""
    chosen: ChosenModels | None = field(init=False, default=None)
    """Models that the accelerator's memory was found to hold; None on a CPU, and if models were requested."""
    left_out: list[Planned] = field(default_factory=list)
    """Cases of later tiers."""

    def __post_init__(self) -> None:
        self.own = self._kept(self._planned())

    def replan(
        self, workloads: tuple[Workload, ...], *, recipes: tuple[ModelSpec, ...] = (), path: str = ""
    ) -> list[Planned]:
        """Return the session's paths, or only `path`, on other workloads, on its models or on `recipes`. All tiers are
        included."""
        paths = tuple(entry for entry in self.catalogue.paths if path in {"", entry.name})
        catalogue = replace(self.catalogue, workloads=workloads, paths=paths)
        models = recipes or self.named_models or self.catalogue.models
        planned = plan(catalogue, self.inventory, models=models, device=self.device, dtypes=self.dtypes)
        # What somebody named is planned for each of its models, and not for the first alone.
        return in_tiers(planned, models=models) if recipes or self.named_models else planned

    def _planned(self) -> list[Planned]:
        if self.named_models or self.device == "cpu":
            return self.replan(self.catalogue.workloads)
        self.chosen = choose_models(self.catalogue, self.inventory)
        return plan_accelerator(self.catalogue, self.inventory, self.chosen, device=self.device, dtypes=self.dtypes)

    def add(self, planned: list[Planned]) -> list[Planned]:
        """Add the cases of a folder, and return those that the tier holds."""
        kept = self._kept(planned)
        self.of_folders += kept
        return kept

    @property
    def all(self) -> tuple[Planned, ...]:
        return (*self.own, *self.of_folders)

    @property
    def left_out_by_tier(self) -> dict[str, int]:
        """Number of cases that could run here but belong to later tiers, by tier in order."""
        counted = Counter(entry.tier for entry in self.left_out if entry.unmet is None)
        return {str(tier): counted[tier] for tier in Tier if counted[tier]}

    def _kept(self, planned: list[Planned]) -> list[Planned]:
        self.left_out += [entry for entry in planned if not self.tier.holds(entry.tier)]
        return [entry for entry in planned if self.tier.holds(entry.tier)]
