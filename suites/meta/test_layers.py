"""The architecture: folders of `harness` are floors, and a module imports from its own floor and those below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter

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
NOT_OF_JUDGING = ("torch", "transformers", "harness.records.codec", "harness.records.run_files", "harness.machine")
"""Judging is pure: it reads neither files nor the machine, and imports no torch, wherever it stands."""
COMMANDS = {
    "confirm": {"compare"},
    "upgrade": {"compare", "confirm"},
    "merge": {"compare"},
    "validate": {"baseline"},
    "machine": {"validate"},
}
"""Commands that use others. The modules `command` and `options` of the folder are for all."""
IN_WORKERS = {
    "harness.commands.calibrate.symmetry",
    "harness.commands.calibrate.variants",
    "harness.commands.calibrate.measure",
    "harness.commands.confirm.in_worker",
    "harness.commands.confirm.loaded_model",
    "harness.commands.validate.examining",
    "harness.commands.validate.fingerprinting",
}
"""Modules of commands that workers run, or that import what they run."""
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
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def room(module):
    return module.split(".")[1]


def floor(module):
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


def violations(name, tree):
    """Imports of module `name` that point upwards, to a neighbour, or outside of what it may know."""
    for target in imports(tree):
        package = target.partition(".")[0]
        if name.startswith("harness."):
            yield from (f"{name} imports {target}{why}" for why in _wrong(name, target))
        if name.startswith("fixtures") and package == "harness" and not target.startswith(OF_FIXTURES):
            yield f"{name} imports {target}, which is no record"


def _wrong(name, target):
    """Why a module of `harness` may not import a target."""
    if target.startswith("."):
        yield ", which does not say where it stands"
    elif target.startswith("harness."):
        yield from _of_another_room(name, target)
    if target.partition(".")[0] in {"fixtures", "suites", "conftest"}:
        yield ""
    if target.partition(".")[0] == "pytest" and name not in {"harness.plugin", "harness.cli"}:
        yield ""
    if room(name) == "judging" and f"{target}.".startswith(tuple(f"{each}." for each in NOT_OF_JUDGING)):
        yield ", but judging is pure"


def _of_another_room(name, target):
    lowest = floor(name) == floor(target) == 0
    if room(target) != room(name) and floor(target) >= floor(name) and not lowest:
        yield ", which stands no lower"
    if room(name) == room(target) == "commands":
        own, other = name.split(".")[2], target.split(".")[2]
        if other not in {own, "options", *COMMANDS.get(own, ())}:
            yield ", another command"


def private_imports(tree):
    """Names of a module's own that another one imports."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return [each.name for node in nodes for each in node.names if each.name.startswith("_")]


def test_what_is_private_stays_in_its_module():
    assert [(name, own) for name, tree in modules("harness") for own in private_imports(tree)] == []


def test_private_import_is_seen():
    assert private_imports(ast.parse("from harness.judging.timings import Bar, _first")) == ["_first"]


def own_names(tree):
    """Names that a module binds itself, at any depth of `if` and `try`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)


def missing_imports(importing, known):
    """Names that modules of `importing` take from those of `known`, which do not have them."""
    names = {name: set(own_names(tree)) for name, tree in known.items()}
    for name, tree in importing.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in names:
                for alias in node.names:
                    if alias.name not in names[node.module] and f"{node.module}.{alias.name}" not in names:
                        yield name, f"{node.module}.{alias.name}"


def test_imported_names_exist():
    """Also of imports within functions, and of modules that only workers or studies import."""
    known = {name: tree for package in ("harness", "fixtures", "suites") for name, tree in modules(package)}
    assert list(missing_imports(known, known)) == []


def test_import_of_a_name_that_is_gone_is_seen():
    gone = {"one": ast.parse("def late():\n    from other import renamed, kept")}
    assert list(missing_imports(gone, {"other": ast.parse("kept = 1")})) == [("one", "other.renamed")]


@pytest.mark.parametrize("package", ["harness", "fixtures"])
def test_imports_point_down(package):
    assert [found for name, tree in modules(package) for found in violations(name, tree)] == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("harness.records.evidence", "from harness.execution import runner"),
        ("harness.judging.correctness", "import harness.session.plan"),
        ("harness.judging.correctness", "from harness.records.codec import write_record"),
        ("harness.judging.correctness", "def judge():\n    import torch.nn"),
        ("harness.judging.correctness", "from .gate import RULES"),
        ("harness.commands.merge", "from harness.commands.validate.steps import propose_profile"),
        ("harness.observation.watch", "from harness.profiles.limits import LIMITS"),
        ("harness.machine.inventory", "from harness import session"),
        ("harness.execution.loading", "from fixtures.models import MODELS"),
        ("harness.reports.tables", "import pytest"),
        ("fixtures.models", "from harness.session.plan import Catalogue"),
    ],
)
def test_forbidden_imports_are_found(name, source):
    assert list(violations(name, ast.parse(source)))


def test_name_of_a_public_class_means_one_thing():
    nodes = [node for _, tree in modules("harness") for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names = Counter(node.name for node in nodes if not node.name.startswith("_"))
    assert len(names) > 100
    assert [name for name, number in names.items() if number > 1] == []


@pytest.mark.workers
def test_judging_planning_reporting_and_commands_need_no_torch():
    names = [name for name, _ in modules("harness") if name != "harness" and room(name) in WITHOUT_TORCH]
    names += [name for name, _ in modules("harness") if ".commands." in name and name not in IN_WORKERS]
    code = f"import sys, {', '.join(names)}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert len(names) > 90
    assert told.stdout == "[]\n"
