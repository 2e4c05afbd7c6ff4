"""Worker processes, forked from a server that has imported torch and transformers but touched no device.

A worker serves one request after another until it is closed. So a crash or a hang costs one answer, and a model can be
kept for many. A worker leads a process group of its own, and ends with the session that started it.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from harness.errors import (
    HarnessError,
    HubSilent,
    Incompatible,
    LibraryRaised,
    NotExact,
    WorkerDied,
    WorkerFailed,
    WorkerRaised,
    WorkerTimedOut,
    first_line,
    full_disk_line,
)
from harness.execution.preloading import device_is_spoiled
from harness.execution.scratch import Scratch
from harness.machine.host import oom_kills
from harness.machine.variables import WORKER_VARIABLES

Answer = TypeVar("Answer")

SERVER = "harness.execution.fork_server"
"""Module that the server imports. It imports the rest."""

ROOT = Path(__file__).parents[2]
PACKAGES = ("harness", "suites", "fixtures")
"""Folders of this project's own code, in ROOT."""
ASKING = (
    *("harness/paths", "harness/execution/generation.py", "harness/execution/loading.py"),
    *("harness/execution/serving.py", "harness/execution/speed/timed_model.py"),
    *(f"suites/invariants/{name}" for name in ("forward.py", "turns.py", "decoding", "served.py")),
)
"""Code that asks libraries for what a path is made of: to load, to prepare, to generate, to serve."""
BETWEEN = (
    *("harness/execution/correctness/float64.py", "harness/execution/correctness/attention_operator.py"),
    "harness/observation/wrapping.py",
)
"""Code that stands between a call and the library, and passes it on."""
OWN_CACHE = "harness/paths/dense_cache.py"
"""Code of paths that is itself a reference of this project."""

_BOOKKEEPING = threading.Lock()
"""Lock for starting processes and reading how they ended. Of two threads that read at once, multiprocessing would show
one nothing."""

SETTLING_SECONDS = 1.0
"""Seconds that the death of a rank may take to show after another rank noticed it."""
STARVED = "; meanwhile the kernel killed a process because memory ran out (fewer --jobs, or a smaller --model)"
"""Clause on a worker that was killed while the kernel counted one more kill for want of memory."""
LONGEST_FOLDER = 70
"""Longest name of a folder for sockets. The system allows 107 bytes with multiprocessing's own two names below it."""
AFTER_ITS_FOLDER = -200
"""Priority of what multiprocessing does at the end. It removes its own folder at -100, and fails if that is gone."""
GRACE_SECONDS = 10
"""Seconds after its deadline at which the kernel kills a worker that its parent could not."""


class Worker:
    """One worker process. Use as a context manager; leaving it ends the process and all its children.

    Workers are forked from one server per session. The server takes the environment variables of the moment it is first
    needed. Starting it takes some seconds, which belong to no request's deadline.
    """

    def __init__(self, *, log: Path, threads: int = 0) -> None:
        """Start a worker whose standard output and error go to the file `log`. On a CPU it computes with that many
        `threads`; 0 leaves it to torch. Raises WorkerDied if it cannot start, and DiskRefuses."""
        self.log = log
        self._oom_kills = oom_kills()
        context = _server()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, str(log), threads), daemon=True)
        try:
            with _BOOKKEEPING:
                self._process.start()
        except (EOFError, OSError) as error:
            raise WorkerDied(f"the server that forks workers does not answer: {error!r}") from error
        theirs.close()  # otherwise the death of the worker would not read as the end of the pipe

    def call(self, function: Callable[..., Answer], *arguments: Any, seconds: float) -> Answer:
        """Return what `function(*arguments)` returns in the worker. All of it must survive pickling. Raises WorkerDied,
        WorkerTimedOut (after killing the worker) or WorkerRaised."""
        self._ask(function, arguments, seconds)
        if not self._pipe.poll(seconds):
            self.kill()
            raise WorkerTimedOut(f"no answer within {seconds:g} s, worker killed", log=str(self.log))
        answer: Answer = self._answer()
        return answer

    def _ask(self, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> None:
        try:
            # What the request needs is imported when it is unpacked: that too must end at the deadline.
            self._pipe.send((seconds, bytes(ForkingPickler.dumps((function, arguments)))))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise WorkerRaised(f"the request cannot be sent to a worker: {error}") from error
        except OSError as error:
            raise self._died() from error

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if isinstance(answer, WorkerRaised):
            raise answer
        return answer

    def _died(self) -> WorkerDied:
        code = self._end()
        starved = code == -signal.SIGKILL and oom_kills() > self._oom_kills
        return WorkerDied(f"worker ended {_ending(code)}{STARVED if starved else ''}", log=str(self.log))

    def _end(self) -> int | None:
        """Return the exit code of the process as soon as it has one; None if that takes longer than GRACE_SECONDS."""
        wait([self._process.sentinel], timeout=GRACE_SECONDS)
        with _BOOKKEEPING:
            code: int | None = self._process.exitcode
        return code

    @property
    def pid(self) -> int:
        pid: int = self._process.pid  # set by start(); never the 0 that would mean our own group
        return pid

    def kill(self) -> None:
        """End the worker and every process it started."""
        with suppress(ProcessLookupError):  # the group does not exist before the worker's first instruction
            os.killpg(self.pid, signal.SIGKILL)
        with _BOOKKEEPING:
            self._process.kill()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self.kill()


def ask(log: Path, function: Callable[..., Answer], *arguments: Any, seconds: float) -> Answer:
    """Call a function in a worker of its own, whose output goes to the file `log`. Raises WorkerFailed."""
    with Worker(log=log) as worker:
        return worker.call(function, *arguments, seconds=seconds)


def call_together(
    workers: Sequence[Worker], function: Callable[..., Answer], arguments: Sequence[tuple[Any, ...]], *, seconds: float
) -> list[Answer]:
    """Return what `function` returns in each worker for its own arguments, in their order. The workers need each other,
    so the first that fails ends them all. Raises what `Worker.call` does, naming the rank."""
    deadline = time.monotonic() + seconds
    waiting = {}
    answers: dict[int, Answer] = {}
    try:
        for rank, (worker, own) in enumerate(zip(workers, arguments, strict=True)):
            worker._ask(function, own, seconds)
            waiting[worker._pipe] = rank
        while waiting:
            ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                late = ", ".join(f"rank {rank}" for rank in sorted(waiting.values()))
                log = str(workers[min(waiting.values())].log)
                raise WorkerTimedOut(f"{late}: no answer within {seconds:g} s, all ranks killed", log=log)
            for pipe in ready:
                rank = waiting.pop(pipe)
                try:
                    answers[rank] = workers[rank]._answer()
                except WorkerFailed as error:
                    raise _first_cause(error, rank, waiting, workers) from error
    except WorkerFailed:
        for worker in workers:
            worker.kill()
        raise
    return [answers[rank] for rank in range(len(workers))]


def _first_cause(error: WorkerFailed, rank: int, waiting: dict[Any, int], workers: Sequence[Worker]) -> WorkerFailed:
    """Return the failure of a rank, with its name. If another rank died, return that instead: the others only report
    it."""
    if isinstance(error, WorkerRaised) and not error.incompatible:
        for pipe in wait(list(waiting), timeout=SETTLING_SECONDS):
            try:
                workers[waiting[pipe]]._answer()
            except WorkerDied as death:
                error, rank = death, waiting[pipe]
            except WorkerFailed:
                continue
    error.args = (f"rank {rank}: {error}",)
    return error


def _server() -> Any:
    """Return the multiprocessing context whose server imports SERVER. The server keeps the environment of its start."""
    context = multiprocessing.get_context("forkserver")
    for name, value in WORKER_VARIABLES.items():
        os.environ.setdefault(name, value)
    root = str(ROOT)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in {"", root}]
    # The server does not inherit sys.path, and ignores a preload it cannot import. First, since another folder may hold
    # packages of the same names.
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])
    context.set_forkserver_preload([SERVER])
    with _BOOKKEEPING:
        _sockets()
    return context


@cache
def _sockets() -> Scratch:
    """Let multiprocessing keep its sockets in a folder of this process, which is swept after a kill, and return it.

    Raises DiskRefuses.
    """
    scratch = Scratch()
    if len(str(scratch.path)) <= LONGEST_FOLDER:
        usual, tempfile.tempdir = tempfile.tempdir, str(scratch.path)
        try:
            multiprocessing.util.get_temp_dir()  # makes its folder once a process
        finally:
            tempfile.tempdir = usual
        scratch.remove.atexit = False
        multiprocessing.util.Finalize(None, shutil.rmtree, (scratch.path, True), exitpriority=AFTER_ITS_FOLDER)
    return scratch


def _serve(pipe: Connection, log: str, threads: int) -> None:
    os.setsid()
    _redirect_output(log)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel ends us at the alarm, whatever code holds the lock
    _prepare_torch(threads)
    while True:
        try:
            deadline, request = pipe.recv()
        except EOFError:
            return
        signal.alarm(int(deadline) + GRACE_SECONDS)
        pipe.send(_answer(request, log))
        signal.alarm(0)


def _prepare_torch(threads: int) -> None:
    import torch  # which the session does not

    from harness.execution.vector_math import choose_vector_math

    choose_vector_math()
    if threads:
        torch.set_num_threads(threads)


def _answer(request: bytes, log: str) -> Any:
    try:
        function, arguments = pickle.loads(request)  # noqa: S301 - from our own parent; imports what it needs
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent learns of it and makes it a verdict
        with suppress(OSError):  # the disk of the log may be full
            traceback.print_exc()
        line = _line_of(error)
        # The error itself might not survive pickling.
        if isinstance(error, HarnessError):  # complete without its trace
            declared = isinstance(error, Incompatible | HubSilent)
            by_library = isinstance(error, LibraryRaised)
            return WorkerRaised(
                line,
                log=log if by_library else "",
                incompatible=declared,
                by_library=by_library,
                not_exact=isinstance(error, NotExact),
            )
        place = place_in_library(error)
        raised = f"{type(error).__name__}: {line}" + (f", raised in {place}" if place else "")
        return WorkerRaised(raised, log=log, by_library=bool(place))


def place_in_library(error: Exception) -> str:
    """Return file and line where a library raised while it did as asked; empty if this project is to blame.

    The library is to blame if ASKING holds the last code of ours that ran.
    """
    frames = traceback.extract_tb(error.__traceback__)
    files = [Path(frame.filename) for frame in frames]
    ours = [place for place, file in enumerate(files) if any(file.is_relative_to(ROOT / name) for name in PACKAGES)]
    if not ours or ours[-1] == len(files) - 1:
        return ""
    asked = next((files[place] for place in reversed(ours) if str(files[place].relative_to(ROOT)) not in BETWEEN), None)
    if asked is None or not any(asked.is_relative_to(ROOT / place) for place in ASKING) or asked == ROOT / OWN_CACHE:
        return ""
    return f"{str(files[-1]).rpartition('site-packages/')[2]}:{frames[-1].lineno}"


def _redirect_output(log: str) -> None:
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.close(target)
    # Python's own streams would buffer for as long as a file is written, and lose it when the worker is killed.
    sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", buffering=1) for n in (1, 2))


def _end_with_parent() -> None:
    """End this process group with the session. A worker's own parent is the server, which lives as long as workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _line_of(error: Exception) -> str:
    """Return an error in one line. The cause is added where torch only says that a fork cannot use a device."""
    line = full_disk_line(error) or first_line(error)
    if "in forked subprocess" in line and device_is_spoiled():
        return f"{line} (the process that forks workers used a device: look for a sitecustomize or .pth file that does)"
    return line


def _ending(code: int | None) -> str:
    if code is None:
        return "and did not say how"
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
