"""What pytest-benchmark does with our samples: its options, files, comparison and histogram, as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from harness.records.enums import Outcome, Property
from suites.conftest import REPOSITORY
from suites.every_path import test_speed as speed_module
from suites.meta.builders.evidence import CASE as PLANNED
from suites.meta.builders.judging import EQUIVALENT

pytestmark = pytest.mark.workers

CONFTEST = """
from fixtures.models import MODELS
from fixtures.workloads import PROBES, text
from harness.execution.runner import Runner
from harness.records.measurements import Peaks
from harness.paths.attention import Sdpa
from harness.paths.caching import OffloadedCache
from harness.session.plan import Catalogue
from harness.records.workload import Workload
from harness.records.enums import Dtype, Bottleneck
Runner.peaks = lambda runner, device: Peaks(1e15, 1e15, {Dtype.FP32: 1e15}, 1e-9)
pytest_plugins = ("harness.plugin",)
def pytest_harness_catalogue():
    models = [model for model in MODELS if model.name == "tiny_llama3"]
    loads = (Workload("short", (text(512),), 3, timed=Bottleneck.PREFILL),)
    return Catalogue(paths=(Sdpa(), OffloadedCache()), models=tuple(models), workloads=loads, probes=PROBES)
"""
"""A path that is several times as fast as eager, and one that no CPU can run. Measuring peaks would take longer than
all else."""
CASE = "cpu-fp32-tiny_llama3-attention.sdpa-short"
OTHER = "cpu-fp32-tiny_llama3-caching.offloaded-short"


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """A folder with our suites, and pytest's result there with some options."""
    folder = tmp_path_factory.mktemp("front")
    shutil.copytree(REPOSITORY / "suites" / "every_path", folder / "every_path")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    (folder / "conftest.py").write_text(CONFTEST)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    shared = ("--device", "cpu", "--dtype", "fp32", "--run-slow", "--timing-seconds", "10", "-p", "no:cacheprovider")

    def run(*options, module="pytest"):
        arguments = [*shared, "every_path", *options] if module == "pytest" else options
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return folder, run


@pytest.fixture(scope="module")
def first(front):
    """(folder, what pytest printed) of a run that saves all that pytest-benchmark can."""
    folder, run = front
    drawn = ["--benchmark-histogram=drawn/plot"] if find_spec("pygal") else []
    files = ["--benchmark-json=benchmarks.json", "--benchmark-save=one", "--benchmark-storage=kept"]
    done = run("--benchmark-only", "-rs", *files, *drawn)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def benchmarks(first):
    folder, _ = first
    return json.loads((folder / "benchmarks.json").read_text())["benchmarks"]


def timed(folder):
    """The candidate's seconds in the pairs that count, by the measurements of the latest run."""
    measured = json.loads((folder / "runs" / "latest" / "measurements" / f"{CASE}.json").read_text())
    return [pair["candidate"]["seconds"] for pair in measured["speed"]["pairs"] if not pair["dropped"]]


def test_raw_data_are_the_samples(first, benchmarks):
    """Every one of them, in order, by the replayed clock; with what the verdict says beside them."""
    folder, _ = first
    [found] = benchmarks
    assert found["stats"]["data"] == pytest.approx(timed(folder), rel=1e-9)
    assert len(found["stats"]["data"]) >= 8
    assert found["name"] == f"test_speed[{CASE}]"
    assert found["group"] == "cpu fp32 tiny_llama3 short"
    assert found["extra_info"]["outcome"] == "PASS"
    assert found["extra_info"]["path"] == "attention.sdpa"
    assert found["extra_info"]["speedup"] > 1
    assert found["extra_info"]["seconds"] == pytest.approx(found["stats"]["median"])


def test_nothing_else_is_run_with_the_benchmarks(first):
    """No other test, and nothing of the case that only they need."""
    folder, printed = first
    record = json.loads((folder / "runs" / "latest" / "run.json").read_text())
    assert {(verdict["case"], verdict["property"]) for verdict in record["verdicts"]} == {
        (CASE, "speed"),
        (OTHER, "speed"),
    }
    assert "1 passed, 11 skipped" in printed
    assert "Skipping non-benchmark (--benchmark-only active)." in printed


def test_case_that_was_not_timed_leaves_no_benchmark(first, benchmarks):
    """It is a skipped test, and no row of zeros."""
    _, printed = first
    assert f"UNSUPPORTED: {OTHER}: needs an accelerator" in printed
    assert [entry["extra_info"]["path"] for entry in benchmarks] == ["attention.sdpa"]


@pytest.mark.parametrize("outcome", Outcome)
def test_only_times_of_the_path_are_benchmarks(outcome):
    """Other tokens, other kernels, or more than the machine can do are no times of the path, and enter no file."""
    replayed = []
    benchmark = SimpleNamespace(extra_info={}, pedantic=lambda *_, rounds, **__: replayed.append(rounds))
    verdict = replace(EQUIVALENT, property=Property.SPEED, outcome=outcome)

    def judge(_property, *, then):
        then(verdict)

    speed_module.test_speed(judge, SimpleNamespace(case=PLANNED), lambda: [0.5, 0.6], benchmark)
    assert replayed == ([2] if outcome in {"PASS", "SLOW", "REPORTED", "INCONCLUSIVE"} else [])


def test_two_saved_runs_compare(front, first):
    """While the second runs, and afterwards."""
    folder, run = front
    second = run("--benchmark-only", "--benchmark-save=two", "--benchmark-storage=kept", "--benchmark-compare=0001")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Comparing against benchmarks from: " in second.stderr + second.stdout
    compared = run("--storage=kept", "compare", "0001", "0002", "--columns=median,rounds", module="pytest_benchmark")
    assert compared.returncode == 0, compared.stderr
    rows = [line.split() for line in compared.stdout.splitlines() if f"test_speed[{CASE}]" in line]
    assert sorted(row[1].strip("()") for row in rows) == ["0001_one", "0002_two"]
    assert str(len(timed(folder))) in {row[-1] for row in rows}


def test_disabled_benchmarks_are_judged_all_the_same(front):
    """The verdict is the harness's own; pytest-benchmark keeps nothing."""
    folder, run = front
    done = run("--benchmark-disable", "--benchmark-json=none.json", "-m", "speed", "-k", "attention.sdpa")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "Rounds" not in done.stdout
    assert not (folder / "none.json").exists()
    record = json.loads((folder / "runs" / "latest" / "run.json").read_text())
    assert [verdict["outcome"] for verdict in record["verdicts"]] == ["PASS"]


def test_histogram_is_drawn(first):
    if not find_spec("pygal"):  # importing it would leave a hook of the old kind behind
        # An extra of its own; tox.ini pins it for the tests, so that CI never comes here.
        pytest.skip("histograms need pip install pytest-benchmark[histogram]")
    folder, _ = first
    [drawn] = (folder / "drawn").iterdir()
    assert drawn.name == "plot-cpu_fp32_tiny_llama3_short.svg"
    assert CASE in drawn.read_text()
