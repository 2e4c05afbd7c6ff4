"""The first commands end as the documents say: dependencies alone, a CUDA build of torch, no GPU."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from suites.conftest import REPOSITORY

FEW = "ragged_b4 and tiny_qwen3"
"""One workload of one model, which is not timed."""
NARROWED = [
    pytest.param("multi_gpu", f"{FEW} and parallelism.tp2-", 0, r"^2 PASS; record: ", id="multi_gpu"),
    pytest.param("kernels", "tiny_qwen3-kernels.flash_attn2_local-ragged_b4", 0, r"^2 PASS; record: ", id="kernels"),
    pytest.param("flash_attn", FEW, 1, r"^nothing was judged: UNSUPPORTED: needs cuda: torch ", id="flash_attn"),
]
"""Marker, further selection, exit code, and how the one line of the result begins."""


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", f"--run-dir={folder}", *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_environment_is_what_it_says():
    """Otherwise the tests below say nothing: a CUDA build, no device, and nothing beside the dependencies."""
    assert torch.version.cuda
    assert not torch.cuda.is_available()
    assert [name for name in ("torchao", "optimum", "hqq", "scipy", "pynvml") if find_spec(name)] == []


def test_every_test_is_collected(tmp_path):
    done = run(tmp_path, "--collect-only", "-q", "suites")
    assert done.returncode == 0, done.stdout[-2000:]


def test_expression_of_markers_collects_no_tests_of_the_project(tmp_path):
    """Nobody who asks a machine for its verdicts should pay for them."""
    done = run(tmp_path, "--collect-only", "-q", "-k", "tiny_qwen3 and single")
    assert "suites/every_path" in done.stdout
    assert "suites/meta" not in done.stdout


def test_without_a_device_the_headline_says_why(tmp_path):
    done = run(tmp_path, "-m", "cuda")
    [line] = re.findall(r"^nothing was judged: .*$", done.stdout, re.MULTILINE)
    assert done.returncode == 5, done.stdout[-2000:]
    assert re.match(r"nothing was judged: -m cuda selects none of the \d+ cases planned here; there is no CUDA", line)


@pytest.mark.parametrize(("marker", "chosen", "code", "line"), NARROWED)
def test_marker_ends_with_its_code_and_one_line(tmp_path, marker, chosen, code, line):
    done = run(tmp_path, "-m", f"{marker} and (engagement or equivalence)", "-k", chosen)
    assert done.returncode == code, done.stdout[-2000:]
    assert len(re.findall(line, done.stdout, re.MULTILINE)) == 1, done.stdout[-2000:]


def test_cases_of_the_first_command_pass(tmp_path):
    """Of those that the main job runs, on the CPU."""
    paths = ("eager", "attention.sdpa", "caching.static", "quantization.bnb_nf4", "compilation.static_cache")
    chosen = " or ".join(f"tiny_qwen3-{path}-ragged_b4" for path in paths)
    done = run(tmp_path, "-m", "engagement or equivalence", "-k", chosen)
    record = json.loads((tmp_path / "latest" / "run.json").read_text())
    outcomes = {verdict["outcome"] for verdict in record["verdicts"]}
    assert (done.returncode, outcomes) == (0, {"PASS"}), done.stdout[-3000:]
    assert len(record["verdicts"]) == 2 * len(paths)
    assert record["workers"] == "forked from a server that has imported everything they share"
