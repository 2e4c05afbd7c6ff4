"""A server as a process: started with a deadline, weighed, killed, and gone with all that it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.errors import HarnessError, Incompatible
from harness.machine.variables import WORKER_VARIABLES

START_SECONDS = 240.0
"""Seconds within which a server must be healthy: it imports everything, and loads the model."""
END_SECONDS = 10.0
"""Seconds within which nothing of a killed server may be left."""
NEEDED = ("fastapi", "uvicorn", "openai", "pydantic")
"""Packages without which `transformers serve` does not start: its extra `serving`."""
WEIGHED_EVERY = 0.1
ENDED = ("Z", "X")
"""States of a process that has ended. It stays in the table until its parent waits for it, which may be never."""
PAGES = 24
"""Pages of 256 tokens: too few for all clients at once."""
BATCH_TOKENS = 256


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def serve_command(model: str, *, device: str, dtype: str, attention: str, port: int, fault: str = "") -> list[str]:
    """The command that serves a local model by continuous batching. Raises Incompatible if packages are missing."""
    from importlib.util import find_spec

    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise Incompatible(
            f"`transformers serve` needs {', '.join(missing)}, but the environment has none "
            "(pip install 'transformers[serving]')"
        )
    options = {
        "--device": device, "--dtype": dtype, "--attn-implementation": attention, "--host": "127.0.0.1",
        "--port": str(port), "--cb-num-blocks": str(PAGES), "--cb-max-batch-tokens": str(BATCH_TOKENS),
    }  # fmt: skip
    start = [sys.executable, "-m", "suites.server.start", fault, "serve", model, "--continuous-batching"]
    return [*start, *(word for option in options.items() for word in option)]


@dataclass
class Server:
    """A process that serves HTTP on a port of this machine. Use as a context manager."""

    command: Sequence[str]
    port: int
    log: Path
    resident: list[tuple[float, int]] = field(default_factory=list)
    """(`time.monotonic()`, bytes) while `weighed`."""

    def __enter__(self) -> Self:
        """Start it, and wait until it is healthy. Raises HarnessError if it ends, or is not in time."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **WORKER_VARIABLES, "HF_HUB_OFFLINE": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
        try:
            self._wait_until_healthy()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, and whatever it started."""
        self.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill the process alone, as the kernel does when memory runs out."""
        self.process.kill()
        self.process.wait()

    def left(self, seconds: float = END_SECONDS) -> bool:
        """Whether some process that it started is still there after that time."""
        deadline = time.monotonic() + seconds
        while _lives(self.process.pid):
            if time.monotonic() >= deadline:
                return True
            time.sleep(WEIGHED_EVERY)
        return False

    @contextmanager
    def weighed(self) -> Iterator[None]:
        """Read its resident memory again and again meanwhile."""
        done = threading.Event()

        def weigh() -> None:
            while True:  # once at least, however soon the server is gone
                with suppress(FileNotFoundError, ProcessLookupError, IndexError):  # it is gone, and the clients say so
                    self.resident.append((time.monotonic(), _resident_bytes(self.process.pid)))
                if done.wait(WEIGHED_EVERY):
                    return

        thread = threading.Thread(target=weigh, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise HarnessError(
                    f"the server ended with {self.process.returncode} before it served (read {self.log})"
                )
            if self._is_healthy():
                return
            time.sleep(WEIGHED_EVERY)
        raise HarnessError(f"the server is not healthy after {START_SECONDS:g} seconds (read {self.log})")

    def _is_healthy(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=END_SECONDS)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (HTTPException, OSError):
            return False
        finally:
            connection.close()


def _lives(group: int) -> bool:
    """Whether some process of a group runs or sleeps. One that has ended, but that nobody has waited for, does not."""
    return any(state not in ENDED and own == group for state, own in _states_and_groups())


def _states_and_groups() -> Iterator[tuple[str, int]]:
    """Of each process on the machine its state and its group: proc(5), the third and fifth field of `stat`."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has gone meanwhile
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]  # its name may hold spaces and brackets
            yield state, int(group)


def _resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
