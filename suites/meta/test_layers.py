"""The architecture: folders of `harness` are floors, and a module imports from its own floor and those below it."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from suites.conftest import REPOSITORY

FLOORS = (
    ("errors", "statistics", "formatting"),
    ("records",),
    ("machine",),
    ("observation", "profiles"),
    ("paths",),
    ("judging",),
    ("execution", "reports"),
    ("session",),
    ("commands", "options"),
    ("plugin", "cli"),
)
"""From the lowest up. Rooms of one floor do not know each other, but for what stands there."""
WITHOUT_TORCH = ("records", "profiles", "judging", "reports", "session", "options", "plugin", "cli")
"""Finished runs are judged and reported, and cases planned, without importing torch or transformers."""
OF_FIXTURES = "harness.records."
"""All that models and workloads may know of the harness."""


def modules(package):
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text())


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "harness":
            yield from (f"harness.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def room(module):
    return module.split(".")[1]


def floor(module):
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


def violations(name, tree):
    """Imports of module `name` that point upwards, to a neighbour, or outside of what it may know."""
    for target in imports(tree):
        package = target.partition(".")[0]
        if name.startswith("harness.") and target.startswith("harness.") and room(target) != room(name):
            lowest = floor(name) == floor(target) == 0
            if floor(target) >= floor(name) and not lowest:
                yield f"{name} imports {target}, which stands no lower"
        if name.startswith("harness.") and package in {"fixtures", "suites", "conftest"}:
            yield f"{name} imports {target}"
        if name.startswith("harness.") and package == "pytest" and name not in {"harness.plugin", "harness.cli"}:
            yield f"{name} imports pytest"
        if name.startswith("fixtures") and package == "harness" and not target.startswith(OF_FIXTURES):
            yield f"{name} imports {target}, which is no record"


@pytest.mark.parametrize("package", ["harness", "fixtures"])
def test_imports_point_down(package):
    assert [found for name, tree in modules(package) for found in violations(name, tree)] == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("harness.records.evidence", "from harness.execution import runner"),
        ("harness.judging.correctness", "import harness.session.plan"),
        ("harness.observation.watch", "from harness.profiles.limits import LIMITS"),
        ("harness.machine.inventory", "from harness import session"),
        ("harness.execution.loading", "from fixtures.models import MODELS"),
        ("harness.reports.tables", "import pytest"),
        ("fixtures.models", "from harness.session.plan import Catalogue"),
    ],
)
def test_forbidden_imports_are_found(name, source):
    assert list(violations(name, ast.parse(source)))


@pytest.mark.workers
def test_judging_planning_and_reporting_need_no_torch():
    names = [name for name, _ in modules("harness") if name != "harness" and room(name) in WITHOUT_TORCH]
    code = f"import sys, {', '.join(names)}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert len(names) > 50
    assert told.stdout == "[]\n"
