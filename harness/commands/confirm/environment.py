"""Client of another Python: start `harness.commands.confirm.server` in it, send requests, read answers.

Imports no torch. Both sides run this process's code of the harness and the checkout, with their own packages.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, TypeVar

import harness
from harness.commands.confirm.records import Greeting, LoadSummary, Proof, Role, TimedRun, Who
from harness.errors import HarnessError
from harness.records.codec import from_plain
from harness.records.evidence import Failure

Answer = TypeVar("Answer")

MODULE = "harness.commands.confirm.server"
IMPORTING_SECONDS = 120.0
"""Seconds beyond the deadline of a request, for importing an environment from a cold disk."""
PROVING = 8
"""Requests to workers that one proof makes at most: checkpoint and reference, eager and path in three dtypes."""
GRACE_SECONDS = 10
"""Seconds for a side to end by itself."""
PACKAGE = Path(harness.__file__).resolve().parent


class CaseFailed(HarnessError):
    """A case could not be run in an environment that answers."""

    def __init__(self, who: Who, failure: Failure) -> None:
        super().__init__(f"{who}: {failure.message}")
        self.who, self.failure = who, failure


@dataclass(frozen=True)
class ClientSettings:
    """Settings of an EnvironmentClient."""

    root: Path
    """Root of the checkout that has the cases."""
    models: tuple[str, ...]
    """Further models, as `--model` names them."""
    seconds: float
    """Deadline of one request to a worker, in seconds."""
    logs: Path
    fault: str = ""
    """Fault to plant into paths, as `CaseSetup.fault`; empty for none."""


class EnvironmentClient:
    """Another Python that runs cases, until `close` ends the process and its workers.

    Raises HarnessError, of one line, wherever it does not answer as it should.
    """

    def __init__(self, who: Who, python: Path, asking: ClientSettings) -> None:
        self.who, self._asking = who, asking
        # Links stay: the interpreter of an environment is one, and knows by its own place which environment that is.
        named = python if python.exists() else shutil.which(python)
        self._python = Path(named or python).absolute()
        logs = (asking.logs / str(who)).resolve()
        self._log = logs / "side.log"
        _make(logs)
        self._pipe, theirs = Pipe()
        try:
            self._process = self._started(theirs.fileno())
        finally:
            theirs.close()  # otherwise its death would not read as the end of the pipe
        self._send({"models": asking.models, "logs": str(logs), "seconds": asking.seconds, "fault": asking.fault})

    def greet(self, devices: tuple[str, ...]) -> Greeting:
        """Return what the environment says of itself. Raises HarnessError if it runs another harness."""
        greeting = self._ask(Greeting, "greet", seconds=IMPORTING_SECONDS + self._asking.seconds, devices=list(devices))
        if Path(greeting.harness) != PACKAGE:
            raise HarnessError(
                f"{self.who}: {self._python} imports harness from {greeting.harness}, but should from {PACKAGE} (both "
                "sides must run the same code: look for a .pth file or an import hook that puts another one first)"
            )
        return greeting

    def prove(self, case: str) -> Proof:
        return self._ask(Proof, "prove", seconds=PROVING * self._asking.seconds + IMPORTING_SECONDS, case=case)

    def load(self, case: str, role: Role, *, own: int) -> None:
        self._answer("load", case=case, role=role, own=own)

    def run(self, role: Role) -> TimedRun:
        return self._ask(TimedRun, "run", role=role)

    def end(self, role: Role) -> LoadSummary:
        return self._ask(LoadSummary, "end", role=role)

    def clear(self) -> None:
        self._answer("clear")

    def _ask(self, kind: type[Answer], request: str, *, seconds: float | None = None, **arguments: Any) -> Answer:
        return from_plain(kind, self._answer(request, seconds=seconds, **arguments), where=f"{self.who}: {request}")

    def _answer(self, request: str, *, seconds: float | None = None, **arguments: Any) -> Any:
        """Return a plain answer. `seconds` is its deadline; by default that of a worker's request, and a little."""
        seconds = seconds or self._asking.seconds + GRACE_SECONDS
        self._send({"ask": request, **arguments})
        if not self._pipe.poll(seconds):
            self.close()
            raise HarnessError(
                f"{self.who}: {self._python} gave no answer to {request} within {seconds:g} s, and was killed with its "
                f"workers (read {self._log}, or allow more with --case-timeout)"
            )
        return self._read(request)

    def _read(self, request: str) -> Any:
        try:
            reply: Mapping[str, Any] = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._died(request) from error
        if "refused" in reply:
            raise HarnessError(f"{self.who}: {self._python}: {reply['refused']}")
        if "failure" in reply:
            raise CaseFailed(self.who, from_plain(Failure, reply["failure"], where=f"{self.who}: {request}"))
        return reply["answer"]

    def _send(self, request: Mapping[str, Any]) -> None:
        try:
            self._pipe.send_bytes(json.dumps(request).encode())
        except OSError as error:
            raise self._died("start") from error

    def _started(self, descriptor: int) -> subprocess.Popen[bytes]:
        paths = dict.fromkeys((str(PACKAGE.parent), str(self._asking.root)))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
        environment["PYTHONPATH"] = os.pathsep.join(paths)  # one for this process would hide what is installed there
        try:
            with self._log.open("ab") as log:
                return subprocess.Popen(
                    [self._python, "-m", MODULE, str(descriptor)],
                    cwd=self._asking.root,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(descriptor,),
                    start_new_session=True,  # an interrupt is ours to handle
                )
        except OSError as error:
            raise HarnessError(f"{self.who}: {self._python}: {_unusable(self._python, error)}") from error

    def _died(self, request: str) -> HarnessError:
        self.close()
        code = self._process.returncode
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1].strip() if lines else "it wrote nothing"
        lacking = "install that there, and " if last.startswith("ModuleNotFoundError") else ""
        ending = f"{self._python} ended {how} when it should {request}: {last}"
        return HarnessError(f"{self.who}: {ending} ({lacking}read {self._log})")

    def close(self) -> None:
        """Let the process end by itself, and kill it with its workers if it does not."""
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        if self._process.stdin:
            self._process.stdin.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _make(logs: Path) -> None:
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(
            f"{logs}: cannot hold logs: {error.strerror} (choose another folder with --run-dir)"
        ) from error


def _unusable(python: Path, error: OSError) -> str:
    if python.is_dir():
        return "is a folder, but should be an interpreter (name its bin/python)"
    if not python.exists():
        return "does not exist (name the interpreter of an environment, for example venv/bin/python)"
    return f"cannot be run: {error.strerror} (name the interpreter of an environment, for example venv/bin/python)"
