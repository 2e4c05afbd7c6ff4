"""Sessions name what workers run, and import none of it: neither transformers nor torch's compiler."""

from __future__ import annotations

import pickle
import subprocess
import sys
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
