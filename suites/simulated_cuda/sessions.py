"""Sessions of the suite on the simulated device, and what they found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class SimulatedSession:
    """One session that has ended."""

    code: int
    """Exit code of pytest."""
    text: str
    """What it printed."""
    folder: Path
    """Where its runs are."""

    @property
    def record(self) -> dict:
        """Return what `run.json` holds."""
        return json.loads((self.folder / "latest" / "run.json").read_text())

    @property
    def outcomes(self) -> dict[tuple[str, str], list[str]]:
        """Return the outcomes of engagement and equivalence, in this order, by path and workload."""
        found: dict[tuple[str, str], list[str]] = {}
        for verdict in self.record["verdicts"]:
            found.setdefault((verdict["path"], verdict["workload"]), []).append(verdict["outcome"])
        return found

    def cells(self) -> Iterator[tuple[str, str]]:
        """Yield each path with the cells of its row in a table: both outcomes, and why the last is no PASS."""
        for (path, _), outcomes in self.outcomes.items():
            why = "" if outcomes[-1] == "PASS" else self.messages[path].partition(": ")[2]
            yield path, " | ".join([*outcomes, why.replace("|", "/")])

    @property
    def messages(self) -> dict[str, str]:
        """Return the last message about each path."""
        return {verdict["path"]: verdict["message"] for verdict in self.record["verdicts"]}


def run(
    folder: Path, *arguments: str, variables: Mapping[str, str] | None = None, tool: str = "pytest"
) -> SimulatedSession:
    """Run pytest, or another module of the project, in this environment; its run folders are made in `folder`. pytest
    is asked for the nightly tier, since tests choose cases of any."""
    command = [sys.executable, "-m", tool, *arguments]
    if tool == "pytest":
        command += ["--nightly", f"--run-dir={folder}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **(variables or {})}, capture_output=True, text=True, check=False
    )
    return SimulatedSession(done.returncode, done.stdout + done.stderr, folder)


def judge(
    folder: Path,
    *paths: str,
    workload: str = "ragged_b4",
    model: str = "tiny_qwen3",
    properties: str = "engagement or equivalence",
    variables: Mapping[str, str] | None = None,
) -> SimulatedSession:
    """Judge properties of paths, by default of all but flex attention, on one workload of one model."""
    chosen = " or ".join(f"{model}-{path}-{workload}" for path in paths) or f"{model} and {workload} and not flex"
    return run(
        folder, "suites/every_path", "--device", "cuda", "--model", model, "-m", properties, "-k", chosen,
        variables=variables,
    )  # fmt: skip
