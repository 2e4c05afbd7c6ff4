"""Server of one environment in `harness confirm`: its own Python runs this module and answers requests.

Requests and answers are JSON, one after the other, through an inherited pipe; standard output and error are the log.
The process ends when the pipe closes, or standard input, which only the asking process holds open.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness.commands.confirm.records import Greeting, LoadSummary, Proof, Role, TimedRun
from harness.errors import HarnessError, WorkerFailed, first_line
from harness.machine.inventory import describe, take_inventory
from harness.records.codec import to_plain
from harness.session.checkout import find_catalogue
from harness.session.plan import Catalogue, Planned, plan_case, with_models

if TYPE_CHECKING:
    from harness.commands.confirm.loaded_model import LoadedModel
    from harness.execution.runner import Runner


LINGER_SECONDS = 5
"""Seconds for which the process lives on after the asking process is gone."""


class EnvironmentServer:
    """One side, which answers requests about a checkout's cases. Raises WorkerFailed if a case is to blame."""

    def __init__(self, catalogue: Catalogue, *, logs: Path, seconds: float, fault: str) -> None:
        """Start without a worker.

        `seconds` is the deadline of one request to a worker; `fault` is planted into paths, as `CaseSetup.fault`.
        """
        self._catalogue, self._logs, self._seconds, self._fault = catalogue, logs, seconds, fault
        self._runner: Runner | None = None
        self._kernels: dict[str, tuple[str, ...]] = {}
        self._standing: dict[Role, LoadedModel] = {}

    def greet(self, *, devices: list[str]) -> Greeting:
        """Return versions, hardware, accelerators' names and devices' keys, for these torch device types."""
        inventory = take_inventory()
        there = [device for device in devices if inventory.devices.get(device)]
        names = ", ".join(self._running().device_names(device) for device in there if device != "cpu")
        keys = tuple(key for device in there for key in self._running().device_keys(device))
        return Greeting(str(Path(harness.__file__).resolve().parent), describe(inventory, accelerators=names), keys)

    def prove(self, *, case: str) -> Proof:
        """Run a case as every session does: engagement and equivalence. A repeated request tries failures anew."""
        planned = self._planned(case)
        if planned.unmet:
            return Proof(unmet=planned.unmet)
        runner = self._running()
        runner.forget_failures()
        evidence = runner.evidence(planned.case, planned.optimization, fault=self._fault)
        for run in evidence.rungs:
            if run.dtype is planned.case.dtype:
                self._kernels[case] = run.engagement.kernels
        return Proof(evidence=evidence)

    def load(self, *, case: str, role: str, own: int) -> None:
        """Load and warm up the path of a case that was proved, or eager on the same case."""
        from harness.commands.confirm.loaded_model import LoadedModel
        from harness.execution.speed.timed_model import EAGER_KERNELS

        planned, runner, kernels = self._planned(case), self._running(), self._kernels[case]
        run = runner.case_run(planned.case, planned.optimization, fault=self._fault)
        if role == Role.EAGER:
            # The baseline of correctness, which is the path's own: only its tokens were verified.
            run, kernels = run.setup.eager(run.dtype), EAGER_KERNELS
        name = f"{case}-turns-{run.optimization.name}"
        self._standing[Role(role)] = LoadedModel(runner, name, run, kernels, own=own)

    def run(self, *, role: str) -> TimedRun:
        return self._standing[Role(role)].run()

    def end(self, *, role: str) -> LoadSummary:
        """Return what is known of a loaded model, and unload it."""
        return self._standing.pop(Role(role)).end()

    def clear(self) -> None:
        """Unload all models."""
        while self._standing:
            self._standing.popitem()[1].close()

    def close(self) -> None:
        self.clear()
        if self._runner:
            self._runner.close()

    def _planned(self, case: str) -> Planned:
        return plan_case(case, self._catalogue, take_inventory())

    def _running(self) -> Runner:
        from harness.execution.runner import Runner  # imports torch, which may not be there: that is told first

        if self._runner is None:
            self._runner = Runner(probes=self._catalogue.probes, logs=self._logs, seconds=self._seconds)
        return self._runner


def answer(side: EnvironmentServer, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `answer` to a request, the `failure` of a case, or in a line why it was `refused`.

    A request names a public method of `side` as `ask`; all else in it are the method's arguments.
    """
    arguments = {name: value for name, value in request.items() if name != "ask"}
    try:
        return _answered(side, request["ask"], arguments)
    except HarnessError as error:
        return {"refused": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it is, the asking process tells it in a line
        traceback.print_exc()
        return {"refused": f"{type(error).__name__}: {first_line(error)}"}


def _answered(side: EnvironmentServer, ask: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"answer": to_plain(getattr(side, ask)(**arguments))}
    except WorkerFailed as error:
        from harness.execution.runner import failure_of  # imports torch, which is there if a worker was

        return {"failure": to_plain(failure_of(error, "timing"))}


def _end_with_asker() -> None:
    """End this process and its workers soon after the asking process is gone, unless it ends by itself."""
    os.read(sys.stdin.fileno(), 1)  # a lock of Python's own stream would be held when this process ends by itself
    time.sleep(LINGER_SECONDS)
    os._exit(1)


def main(descriptor: int) -> None:
    pipe = Connection(descriptor)
    threading.Thread(target=_end_with_asker, daemon=True).start()
    settings = json.loads(pipe.recv_bytes())
    _, catalogue = find_catalogue(Path.cwd())
    side = EnvironmentServer(
        with_models(catalogue, tuple(settings["models"])),
        logs=Path(settings["logs"]),
        seconds=settings["seconds"],
        fault=settings["fault"],
    )
    try:
        while True:
            pipe.send_bytes(json.dumps(answer(side, json.loads(pipe.recv_bytes())), allow_nan=False).encode())
    except (EOFError, BrokenPipeError):
        side.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
