"""Wires the harness to what this repository offers: its paths, models, workloads and local kernels."""

from __future__ import annotations

import os

from fixtures.architectures import ARCHITECTURES
from fixtures.features import FEATURES
from fixtures.kernels import LOCAL_KERNELS
from fixtures.models import MODELS, MORE_MODELS, SLICES, WHOLE
from fixtures.workloads import PROBES, WORKLOADS
from harness.machine.local_kernels import announced_with
from harness.paths.registry import PATHS
from harness.session.plan import Catalogue

pytest_plugins = ("harness.plugin", "pytester")

# What the user announced wins: the kernels package would take the last of two folders for one name.
os.environ["LOCAL_KERNELS"] = announced_with(os.environ.get("LOCAL_KERNELS", ""), LOCAL_KERNELS)


def pytest_harness_catalogue() -> Catalogue:
    return Catalogue(
        paths=PATHS,
        models=MODELS,
        workloads=WORKLOADS,
        probes=PROBES,
        more_models=MORE_MODELS,
        slices=SLICES,
        whole=WHOLE,
        architectures=(*ARCHITECTURES, *FEATURES),
    )
