"""The gate's and the acceptance's commands come to their end on the simulated device, which is rejected."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from suites.simulated_cuda.sessions import REPOSITORY, run
from suites.simulated_cuda.simulated import NAME, skip_elsewhere

skip_elsewhere()

CASES = ("attention.sdpa", "caching.static")
CHOSEN = (
    "suites/every_path", "--device", "cuda", "--dtype", "fp32", "--model", "tiny_qwen3", "-m", "cuda and engagement",
    "-k", " or ".join(f"tiny_qwen3-{path}-single" for path in CASES),
)  # fmt: skip
"""Two cases, in one precision."""


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """The command of the nightly gate."""
    return run(tmp_path_factory.mktemp("gated"), *CHOSEN, "--gate")


def test_machine_says_that_it_is_simulated():
    told = run(REPOSITORY, "machine", "--no-peaks", tool="harness.cli")
    assert f"  no profile matches cuda on {NAME}: there is none of a simulated device" in told.text.splitlines()
    assert f"  accelerators: {NAME}" in told.text.splitlines()


def test_gate_of_a_night_is_green(gated):
    assert gated.code == 0, gated.text[-3000:]
    assert "gate: green: 2 verdicts given, 0 skipped as the profile allows" in gated.text
    assert {verdict["outcome"] for verdict in gated.record["verdicts"]} == {"PASS"}


@pytest.mark.slow
def test_gate_is_red_for_what_the_device_lacks(tmp_path):
    found = run(tmp_path, *CHOSEN[:-1], "tiny_qwen3-attention.sdpa_cudnn-single", "--gate")
    assert found.code == 1
    assert "gate: red: nothing was judged in 1 verdict; " in found.text, found.text[-3000:]


@pytest.mark.slow
def test_killed_session_is_resumed(tmp_path):
    """Its first verdict stands."""
    command = [sys.executable, "-m", "pytest", *CHOSEN, "--nightly", f"--run-dir={tmp_path}"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, start_new_session=True) as session:
        record = tmp_path / "latest" / "run.json"
        deadline = time.monotonic() + 300
        while not (record.is_file() and "PASS" in record.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(session.pid, signal.SIGKILL)
    found = run(tmp_path, *CHOSEN, "--resume", str(tmp_path / "latest"))
    assert (found.code, len(found.record["verdicts"]), len(found.record["resumed"])) == (0, 2, 1), found.text[-3000:]


@pytest.mark.slow
def test_shards_of_two_devices_are_merged(tmp_path):
    """Each is given a device of its own, as docs/running.md shows it."""
    folders = [tmp_path / "gpu0", tmp_path / "gpu1"]
    for place, folder in enumerate(folders):
        variables = {"SIMULATED_CUDA_DEVICES": "2", "CUDA_VISIBLE_DEVICES": str(place)}
        assert run(folder, *CHOSEN, "--shard", f"{place + 1}/2", variables=variables).code == 0
    latest = [str(folder / "latest") for folder in folders]
    merged = run(tmp_path, "merge", *latest, "--gate", "--run-dir", str(tmp_path / "whole"), tool="harness.cli")
    assert merged.code == 0, merged.text
    assert "gate: green: 2 verdicts given" in merged.text


@pytest.mark.slow
def test_validate_rejects_the_device_though_everything_passes(tmp_path):
    """With `--keep-going` the suites run, and what they found stands in the statement."""
    told = run(
        tmp_path, "validate", "--device", "cuda", "--fingerprint-seconds", "1", "--keep-going", "--run-dir",
        str(tmp_path), "--", *CHOSEN[3:], tool="harness.cli",
    )  # fmt: skip
    line = next(line for line in told.text.splitlines() if line.startswith("rejected: "))
    assert told.code == 1, told.text[-3000:]
    assert line.startswith(f"rejected: {NAME}, cuda:0: the device is {NAME}, but should be a real one (")
    assert "no profile is proposed of a machine that is rejected" in told.text
    [statement] = {path.resolve() for path in tmp_path.glob("*/*/statement.md")}  # `latest` is a link
    assert "2 PASS" in statement.read_text() or "2 verdicts pass" in statement.read_text()


def test_cpu_is_judged_without_a_device_though_torchao_asks_for_one(tmp_path):
    """On an ordinary laptop: a CUDA build of torch, torchao, and no GPU."""
    arguments = ["suites/every_path", "--device", "cpu", "-m", "engagement", "-k", "tiny_qwen3-attention.sdpa-single"]
    found = run(tmp_path, *arguments, variables={"SIMULATED_CUDA_DEVICES": "0"})
    assert {verdict["outcome"] for verdict in found.record["verdicts"]} == {"PASS"}, found.text[-3000:]
    assert "itself, because that touches a device: " in found.record["workers"]
