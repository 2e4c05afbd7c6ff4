"""The architecture: a module imports only from its own layer and those above it."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from suites.conftest import REPOSITORY

pytestmark = pytest.mark.workers

LAYERS = (
    ("vocabulary", "records", "measured", "confirmed", "recipes", "errors", "codec"),
    (
        "machine",
        "equivalence",
        "measurement",
        "baseline_store",
        "baseline_proposals",
        "run_files",
        "paths.base",
        "paths.observed",
    ),
    ("paths", "models", "measurement.work"),
    (
        "plan",
        "costs",
        "checkout",
        "execution",
        "judge",
        "judge_measured",
        "claims",
        "judge_by_standard",
        "rejudging",
        "gate",
    ),
    (
        "report",
        "session",
        "options",
        "plugin",
        "comparison",
        "comparison_of_cases",
        "comparison_of_machines",
        "cli",
        "cli_words",
        "cli_baseline",
        "cli_calibrate",
        "cli_report",
        "cli_compare",
        "cli_merge",
        "merging",
        "cli_confirm",
        "confirmation",
        "cli_machine",
        "cli_validate",
        "statement",
        "validating",
    ),
)
NOUNS = ("harness.vocabulary", "harness.records", "harness.measured", "harness.recipes")
PURE = ("harness.equivalence.rules", "harness.equivalence.limits", "harness.equivalence.ratchet")
MEASURING = tuple(
    f"harness.measurement.{name}"
    for name in ("statistics", "regression", "memory_rules", "speed_rules", "roofline", "thresholds")
)
JUDGES = ("harness.judge", "harness.judge_measured", "harness.claims")
ALLOWED_TO_JUDGE = (*NOUNS, *PURE, *MEASURING, "harness.machine.allowances", "harness.judge")


def modules(package):
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text())


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module):
    """Index of the layer of a module of `harness`; the longest matching name decides."""
    name = module.removeprefix("harness.")
    matches = [
        (len(entry), index)
        for index, entries in enumerate(LAYERS)
        for entry in entries
        if name == entry or name.startswith(f"{entry}.")
    ]
    return max(matches)[1] if matches else -1


def violations(name, tree):
    """Imports of module `name` that point downwards, or outside of what it may know."""
    for target in imports(tree):
        package = target.partition(".")[0]
        if package == "harness" and name.startswith("harness.") and layer(target) > layer(name):
            yield f"{name} imports {target} from a layer below"
        if name in JUDGES and package == "harness" and not target.startswith(ALLOWED_TO_JUDGE):
            yield f"{name} imports {target}"
        if name.startswith("harness.") and package in {"fixtures", "suites", "conftest"}:
            yield f"{name} imports {target}"
        if name.startswith("harness.") and package == "pytest" and name not in {"harness.plugin", "harness.cli"}:
            yield f"{name} imports pytest"
        if name.startswith("fixtures") and package == "harness" and not target.startswith(NOUNS):
            yield f"{name} imports {target}, which is no noun"


@pytest.mark.parametrize("package", ["harness", "fixtures"])
def test_imports_point_upwards(package):
    assert [found for name, tree in modules(package) for found in violations(name, tree)] == []


def test_every_module_has_a_layer():
    """A module that stands in no row would escape the check above."""
    assert [name for name, _ in modules("harness") if name != "harness" and layer(name) < 0] == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("harness.records", "from harness.execution import runner"),
        ("harness.paths.base", "import harness.paths.eager"),
        ("harness.judge", "from harness.codec import to_plain"),
        ("harness.models.loading", "from fixtures.models import MODELS"),
        ("harness.report.tables", "import pytest"),
        ("fixtures.models", "from harness.plan import Catalogue"),
    ],
)
def test_forbidden_imports_are_found(name, source):
    assert list(violations(name, ast.parse(source)))


@pytest.mark.parametrize(
    "module",
    [
        "judge",
        "judge_measured",
        "gate",
        "plan",
        "plugin",
        "cli",
        "report.folder",
        "machine.needs",
        "equivalence.calibration",
        *("judge", "judge_measured", "plan", "plugin", "cli", "report.folder", "machine.needs"),
        *("equivalence.calibration", "confirmation", "execution.side"),
    ],
)
def test_judging_and_planning_need_no_torch(module):
    """Finished runs are judged, and cases planned, without importing torch or transformers."""
    code = f"import sys, harness.{module}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
