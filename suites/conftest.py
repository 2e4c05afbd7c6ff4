"""What tests of the harness share: one runner with its references, and the cases of the catalogue by path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fixtures.architectures import ARCHITECTURES
from fixtures.features import FEATURES
from fixtures.models import MODELS, MORE_MODELS, SLICES, WHOLE
from fixtures.workloads import PROBES, WORKLOADS
from harness.execution.runner import Runner
from harness.paths.registry import PATHS
from harness.records.enums import Dtype
from harness.records.evidence import Case
from harness.session.plan import Catalogue

REPOSITORY = Path(__file__).parents[1]
CATALOGUE = Catalogue(PATHS, MODELS, WORKLOADS, PROBES, MORE_MODELS, SLICES, WHOLE, (*ARCHITECTURES, *FEATURES))


@pytest.fixture(scope="session", autouse=True)
def sessions_of_their_own():
    """Processes that tests start are no workers of pytest-xdist; pytest-benchmark would take them for some."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def runner(tmp_path_factory):
    """Runs cases as the plugin does; references are computed once for all tests."""
    made = Runner(probes=PROBES, logs=tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


@pytest.fixture
def planned_case():
    """(case, optimization) of a path on the tiny model."""

    def make(path, *, workload="ragged_b4", dtype=Dtype.BF16):
        optimization = next(entry for entry in PATHS if entry.name == path)
        chosen = next(entry for entry in WORKLOADS if entry.name == workload)
        return Case(path, optimization.technique, MODELS[0], chosen, "cpu", dtype), optimization

    return make
