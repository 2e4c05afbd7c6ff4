"""Start sessions of pytest quickly: fork them from a process that has imported what their workers are forked with.

The server of a session's workers spends many seconds on importing torch and transformers, and tests start dozens of
sessions. Otherwise each is what a user's is: a process of its own, in a folder and an environment of its own, with a
server of its own that has imported neither pytest nor the session. What is about starting, or about variables that are
read while packages are imported, is tested with real commands (`suites/meta/documents/test_docs.py`, `suites/bare`).
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).parents[3]
MOST_BYTES = 1 << 20
"""Size of the largest request: the environment is most of it."""
IMPORTED = "harness.execution.fork_server"
"""With all that workers are forked with. Sessions import pytest and the rest themselves."""
FORK_SERVER = "from multiprocessing.forkserver import main; "
"""How the command begins by which multiprocessing starts its fork server."""


class SessionServer:
    """The process that sessions are forked from. It starts with the first of them, and ends with this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: list[StartedSession] = []

    def start(self, folder: Path, *arguments: str) -> StartedSession:
        """Run pytest in a folder, with the environment variables of this moment."""
        if self._process is None:
            self._start_server()
        output, errors = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - read once the session has ended
        told, report = os.pipe()
        request = pickle.dumps((str(folder), arguments, dict(os.environ)))
        socket.send_fds(self._socket, [request], [output.fileno(), errors.fileno(), report])
        os.close(report)
        self._sessions.append(StartedSession(output, errors, told))
        return self._sessions[-1]

    def kill_all(self) -> None:
        """Kill what still runs of all sessions that were started."""
        for each in self._sessions:
            each.kill()
        self._sessions.clear()

    def _start_server(self) -> None:
        from harness.machine.variables import WORKER_VARIABLES  # torch reads these while it is imported

        self._socket, theirs = _sockets()
        # It is of no test, although one starts it: what a session left is looked for by its variables.
        variables = {**WORKER_VARIABLES, **os.environ}
        variables.pop("HARNESS_TEST", None)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "suites.meta.session.session_server", str(theirs.fileno())],
                cwd=REPOSITORY, env=variables, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        atexit.register(self._close)

    def _close(self) -> None:
        self.kill_all()
        self._socket.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


session_server = SessionServer()


class StartedSession:
    """A session of pytest that leads a process group of its own, as far as tests use `subprocess.Popen` of it."""

    def __init__(self, output: IO[bytes], errors: IO[bytes], told: int) -> None:
        self._output, self._errors, self._told = output, errors, told
        self._lines = b""
        while b"\n" not in self._lines:
            self._hear()
        self.pid = int(self._lines.partition(b"\n")[0])
        self.returncode: int | None = None
        os.set_blocking(told, False)

    def _hear(self) -> None:
        """Take what the process said that watches the session: the session's id, and later its end."""
        lines = os.read(self._told, 64)
        if not lines:
            raise RuntimeError("the process that watches a session died")
        self._lines += lines

    def poll(self) -> int | None:
        if self.returncode is None and self._told >= 0:
            with suppress(BlockingIOError):
                self._hear()
            if self._lines.count(b"\n") == 2:
                self.returncode = os.waitstatus_to_exitcode(int(self._lines.split(b"\n")[1]))
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the session and its process group, if it has not ended, and let go of what it wrote."""
        if self._told < 0:
            return
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._let_go()

    def communicate(self, timeout: float = 600.0) -> tuple[str, str]:
        """Return all that the session wrote, and its errors. To be asked once.

        Raises subprocess.TimeoutExpired after `timeout` seconds, with what it has written until then.
        """
        end = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        output, errors = (_written(each) for each in (self._output, self._errors))
        if self.returncode is None:
            raise subprocess.TimeoutExpired("pytest", timeout, output, errors)
        self._let_go()
        return output, errors

    def _let_go(self) -> None:
        os.close(self._told)
        self._told = -1
        self._output.close()
        self._errors.close()


def _written(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _sockets() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends that keep requests apart, and take large ones."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for each in pair:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
    return pair


def main(descriptor: int) -> None:
    """Import, and fork a session for each request, until the other end of the socket is closed."""
    import_module(IMPORTED)
    own = len(_paths_of(os.environ)) + 1
    base = sys.path[own:]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who watch sessions
    with socket.socket(fileno=descriptor) as requests:
        while True:
            request, descriptors, *_ = socket.recv_fds(requests, MOST_BYTES, 3)
            if not request:
                return
            if os.fork() == 0:
                requests.close()
                _watch(pickle.loads(request), base, *descriptors)  # noqa: S301 - from our own parent
            for each in descriptors:
                os.close(each)


def _paths_of(environment: Any) -> list[str]:
    return [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]


def _watch(request: tuple[str, tuple[str, ...], dict[str, str]], base: list[str], *descriptors: int) -> None:
    """Fork a session, and tell its process id and its end."""
    *streams, report = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    session = os.fork()
    if session == 0:
        os.close(report)
        _run(*request, base, streams)
    for each in streams:
        os.close(each)
    os.write(report, f"{session}\n".encode())
    os.write(report, f"{os.waitpid(session, 0)[1]}\n".encode())
    os._exit(0)


def _run(
    folder: str, arguments: tuple[str, ...], environment: dict[str, str], base: list[str], streams: list[int]
) -> None:
    """Be the session: what `python -m pytest` does in that folder."""
    os.setsid()
    for stream, source in enumerate((os.open(os.devnull, os.O_RDONLY), *streams)):
        os.dup2(source, stream)
        os.close(source)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [folder, *_paths_of(environment), *base]
    sys.argv[:] = ["pytest", *arguments]
    tempfile.tempdir = None  # it may be another here
    code = 70
    try:
        _keep_a_fork_server()
        import pytest

        code = int(pytest.main(list(arguments)))
    finally:
        # Python has no public names for what os._exit leaves out, and sys.exit would run in the server's frames.
        threading._shutdown()  # noqa: SLF001 - a thread that does not end keeps a real session from ending too
        atexit._run_exitfuncs()  # noqa: SLF001 - of what the session registered
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _keep_a_fork_server() -> None:
    """Fork the server of workers now, before pytest is imported, and let multiprocessing find it when it starts one."""
    from multiprocessing import util

    ours, theirs = _sockets()
    server = os.fork()
    if server == 0:
        ours.close()
        _become_a_fork_server(theirs)
    theirs.close()
    spawn = util.spawnv_passfds

    def spawned(path: str, arguments: list[str], descriptors: list[int]) -> int:
        command = arguments[-1]
        if not command.startswith(FORK_SERVER) or ours.fileno() < 0:
            return int(spawn(path, arguments, descriptors))
        request = pickle.dumps((command, list(descriptors), dict(os.environ), str(Path.cwd())))
        socket.send_fds(ours, [request], list(descriptors))
        ours.close()  # one is forked: a second would be started as usual
        return server

    util.spawnv_passfds = spawned


def _become_a_fork_server(requests: socket.socket) -> None:
    """Wait until it is wanted, and run the command that a new process would be started with."""
    code = 0
    try:
        request, received, *_ = socket.recv_fds(requests, MOST_BYTES, 8)
        requests.close()
        if request:
            command, wanted, environment, folder = pickle.loads(request)  # noqa: S301 - from our own parent
            # Numbers above all that are in use, so that none is overwritten before it was moved.
            high = [os.dup2(each, 500 + at) for at, each in enumerate(received)]
            for source, number in zip(high, wanted, strict=True):
                os.dup2(source, number, inheritable=False)
                os.close(source)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            exec(command, {"__name__": "__main__"})  # noqa: S102 - multiprocessing's own
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - its trace is all that anybody can see of it
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
