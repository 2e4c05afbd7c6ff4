"""Setups of cases on the tiny models and on the small architectures."""

from __future__ import annotations

from dataclasses import replace

from fixtures.architectures import ARCHITECTURES
from fixtures.features import FEATURES
from fixtures.models import MODELS
from fixtures.workloads import WORKLOADS
from harness.execution.loading import save_seeded
from harness.execution.setup import CaseSetup
from harness.records.enums import Reference
from harness.records.workload import Folder, Seeded

RAGGED = next(each for each in WORKLOADS if each.name == "ragged_b4")


def setup_of(name, folder, reference=Reference.FLOAT64):
    """Setup of a model by name; the weights of a seeded one are written first."""
    [recipe] = [each for each in (*ARCHITECTURES, *FEATURES, *MODELS) if each.name == name]
    if isinstance(recipe.source, Seeded):
        if not (folder / name).exists():
            save_seeded(recipe, folder / name)
        recipe = replace(recipe, source=Folder(str(folder / name)))
    return CaseSetup(recipe, RAGGED, "cpu", folder, reference=reference)
