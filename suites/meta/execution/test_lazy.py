"""Sessions name what workers run, and import none of it: neither transformers nor torch's compiler."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from importlib import import_module
from pathlib import PurePath

import pytest

from harness.execution.lazy import LazyModule
from suites.conftest import REPOSITORY

pathlib = LazyModule("pathlib")


def test_function_is_named_and_called_where_it_is_unpickled():
    assert pickle.loads(pickle.dumps(pathlib.PurePath)) == pathlib.PurePath  # noqa: S301 - pickled in this line
    assert pathlib.PurePath("a", "b") == PurePath("a/b")


def test_name_that_is_not_there_fails_when_it_is_called():
    missing = pathlib.NoSuchThing
    with pytest.raises(AttributeError, match="NoSuchThing"):
        missing()


def lazy_names():
    """(file, module, name) of all that is named lazily: no import and no type checker looks at those."""
    for package in ("harness", "suites"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            text = path.read_text()
            for alias, module in re.findall(r"(\w+) = LazyModule\(\"([\w.]+)\"\)", text):
                for name in sorted(set(re.findall(rf"(?<![\w.]){alias}\.([a-z]\w*)", text))):
                    yield path.name, module, name


@pytest.mark.parametrize(("file", "module", "name"), [each for each in lazy_names() if each[1] != "pathlib"])
def test_what_is_named_lazily_is_there(file, module, name):
    """More than a dozen are found, or this looks for the wrong thing."""
    assert len([*lazy_names()]) > 12
    assert callable(getattr(import_module(module), name))


@pytest.mark.workers
def test_collecting_imports_neither_transformers_nor_a_compiler():
    """They take longer than all else before the first verdict."""
    script = (
        "import sys, pytest\n"
        "code = pytest.main(['--device', 'cpu', '--collect-only', '-q', '-p', 'no:cacheprovider'])\n"
        "import harness.execution.runner\n"
        "heavy = {'transformers', 'torch._dynamo', 'torch._inductor', 'scipy'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy), int(code))\n"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert told.stdout.splitlines()[-1] == "heavy: [] 0", told.stdout + told.stderr
