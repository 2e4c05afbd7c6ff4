"""What README promises works with `dependencies` alone: no test of ours may need more to be collected."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from suites.conftest import REPOSITORY

DEPENDENCIES = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]


def closure(requirements):
    """Names of the distributions that these requirements need here, without extras."""
    known, waiting = set(), [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = requirement.name.lower()
        if name in known or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        known.add(name)
        waiting += map(Requirement, metadata.requires(name) or [])
    return known


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder that holds `dependencies`, with what they need, and nothing else of this environment."""
    folder = tmp_path_factory.mktemp("bare")
    for name in closure(DEPENDENCIES):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files if file.parts[0] not in {"..", "__pycache__"}}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    return folder


def run(bare, *arguments):
    """Run pytest without the other packages of this environment, which -S leaves out."""
    paths = os.pathsep.join([str(REPOSITORY), str(bare)])
    return subprocess.run(
        [sys.executable, "-S", "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": paths, "PYTEST_ADDOPTS": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_environment_is_bare(bare):
    """The tests below would say nothing if it had others."""
    missing = ("scipy", "torchao", "optimum", "hqq", "pynvml", "selenium", "pygal")
    script = f"import importlib.util as u; print([n for n in {missing} if u.find_spec(n)])"
    command = [sys.executable, "-S", "-c", script]
    done = subprocess.run(command, env={"PYTHONPATH": str(bare)}, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_everything_is_collected_with_the_dependencies_alone(bare):
    done = run(bare, "--collect-only", "-q", "suites")
    assert done.returncode == 0, done.stdout[-2000:]


def test_marker_of_a_missing_device_says_so_in_one_line(bare):
    """README promises that without CUDA it selects nothing, says why, and exits with 5."""
    done = run(bare, "-m", "cuda", "--device", "cpu")
    lines = [line for line in done.stdout.splitlines() if line.startswith("nothing was judged: ")]
    assert done.returncode == 5, done.stdout[-2000:]
    assert len(lines) == 1
    assert lines[0].startswith("nothing was judged: -m cuda selects none of the ")


def test_expression_of_markers_alone_collects_no_tests_of_the_project(bare):
    """Nobody who asks a machine for its verdicts should pay for them."""
    done = run(bare, "--collect-only", "-q")
    assert "suites/every_path" in done.stdout
    assert "suites/meta" not in done.stdout
