"""The workflows are valid, and what they run works: here with fewer cases, on a CPU, and with fewer downloads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import yaml

from suites.conftest import REPOSITORY

pytestmark = pytest.mark.workers

WORKFLOWS = REPOSITORY / ".github" / "workflows"
NIGHTLY, PULL_REQUEST = (WORKFLOWS / f"{name}.yml" for name in ("nightly", "pull_request"))
FEWER = {"SELECT": "engagement", "PYTEST_ADDOPTS": "--device cpu --dtype fp32 -k sdpa-single --model tiny_qwen3"}
"""Instead of all cases of a GPU."""
SHORT = {"PIP_NO_DEPS": "1"}
"""Instead of gigabytes: what is left out is found where these tests find it."""
CASE = "cpu-fp32-tiny_qwen3-attention.sdpa-single"


def steps(path):
    """(name, script, environment) of every step that runs something, for the first entry of its first job's matrix."""
    workflow = yaml.safe_load(path.read_text())
    job = next(iter(workflow["jobs"].values()))
    shared = {**workflow.get("env", {}), **job.get("env", {})}
    matrix = job["strategy"]["matrix"]
    chosen = matrix["include"][0] if "include" in matrix else {name: entries[0] for name, entries in matrix.items()}
    for step in job["steps"]:
        if "run" in step:
            own = {name: filled(value, chosen) for name, value in {**shared, **step.get("env", {})}.items()}
            yield step["name"], step["run"], own


def filled(text, chosen):
    """With values of the matrix in place of its expressions; variables of the repository are not set, and the first run
    is number 1."""
    text = re.sub(r"\$\{\{ github\.\w+ \}\}", "1", text)
    text = re.sub(r"\$\{\{ vars\.\w+ \}\}", "", text)
    return re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda found: str(chosen[found[1]]), text)


@pytest.fixture
def checkout(tmp_path):
    """What a runner checks out."""
    folder = tmp_path / "checkout"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


def run(script, folder, **environment):
    """As a runner does: by bash, which stops at the first failure."""
    known = {
        **os.environ,
        "PYTHONPATH": "" if "pip install" in script else sysconfig.get_path("purelib"),
        **environment,
    }
    known["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), known["PATH"]])
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], cwd=folder, env=known, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("path", [NIGHTLY, PULL_REQUEST], ids=lambda path: path.stem)
def test_workflow_is_valid(path):
    """By the published schema, which comes with the tool."""
    command = ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    done = run(" ".join(command), REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflow_that_is_not_valid_is_found(tmp_path):
    """The check above can fail."""
    (tmp_path / "broken.yml").write_text(NIGHTLY.read_text().replace("runs-on", "run-on"))
    done = run("check-jsonschema --builtin-schema vendor.github-workflows broken.yml", tmp_path)
    assert done.returncode == 1
    assert "runs-on" in done.stdout + done.stderr


def test_steps_of_the_nightly_gate_work(checkout, tmp_path):
    """The gate is green of what passes, and what it says is in the job's summary."""
    summary = tmp_path / "summary.md"
    for name, script, own in steps(NIGHTLY):
        short = SHORT if name == "Install" else {}
        done = run(script, checkout, **{**own, **FEWER, **short, "GITHUB_STEP_SUMMARY": str(summary)})
        assert done.returncode == 0 or name == "Machine", (name, done.stdout, done.stderr)  # others may use it
        assert name != "Gate" or "gate: green: 1 verdict given, 0 skipped as the profile allows" in done.stdout
    assert "**gate: green: 1 verdict given" in summary.read_text()
    assert (checkout / "runs" / "1-1" / "5.22.2" / "latest" / "report.md").is_file()


def test_red_gate_fails_the_nightly_job(checkout):
    """A case that cannot run there: its step fails, and the summary is written all the same; but never that of another
    night."""
    known = {name: script for name, script, _ in steps(NIGHTLY)}
    [own, *_] = [own for _, _, own in steps(NIGHTLY)]
    run("python3 -m venv .venv", checkout)
    earlier = checkout / "runs" / "latest" / "report.md"
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    assert run(known["Summary"], checkout, **own, GITHUB_STEP_SUMMARY="summary").returncode == 1
    fewer = {**own, **FEWER, "PYTEST_ADDOPTS": "--device cpu --dtype bf16 -k flash_attn2_hub-single --model tiny_qwen3"}
    done = run(known["Gate"], checkout, **fewer)
    assert done.returncode == 1
    assert re.search(
        r"^gate: red: nothing was judged in \d+ verdicts?; .*UNSUPPORTED of cpu-", done.stdout, re.MULTILINE
    )
    assert run(known["Summary"], checkout, **own, GITHUB_STEP_SUMMARY="summary").returncode == 0
    always = [step for step in yaml.safe_load(NIGHTLY.read_text())["jobs"]["gate"]["steps"] if "if" in step]
    assert [step["if"] for step in always] == ["always()"] * 3


def test_runs_of_long_ago_make_room(checkout):
    [room] = [script for name, script, _ in steps(NIGHTLY) if name == "Room"]
    for name, days in (("1-1", 40), ("2-1", 1)):
        (checkout / "runs" / name).mkdir(parents=True)
        os.utime(checkout / "runs" / name, (time.time() - 86400 * days,) * 2)
    assert run(room, checkout).returncode == 0
    assert [each.name for each in (checkout / "runs").iterdir()] == ["2-1"]


def test_pull_requests_run_environments_that_there_are(checkout):
    """Those of tox, in a job for each; their commands are run by these tests, and by CI."""
    [job] = yaml.safe_load(PULL_REQUEST.read_text())["jobs"].values()
    described = (REPOSITORY / "tox.ini").read_text()
    environments = job["strategy"]["matrix"]["environment"]
    assert environments == ["lint", "types", "tests", "bare", "simulated-cuda", "cpu"]
    assert all(re.search(rf"^\[testenv:{name}\b", described, re.MULTILINE) for name in environments)
    name, script, own = next(steps(PULL_REQUEST))
    assert (name, own["ENVIRONMENT"]) == ("Run", "lint")
    done = run(f"{script.replace('tox run', 'tox config').rstrip()} -k commands", checkout, **own)
    assert done.returncode == 0, done.stderr
    assert "ruff check ." in done.stdout
