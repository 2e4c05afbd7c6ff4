"""Workers of a session: requests to fresh ones, answers that are kept, and where ranks meet. Imports no torch."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import WorkerDied, WorkerFailed, refuse_full_disk
from harness.execution.lazy import LazyModule
from harness.execution.preloading import server_contents
from harness.execution.scratch import Scratch
from harness.execution.setup import CASE_TIMEOUT, RankAddress
from harness.execution.worker import Answer, Worker

if TYPE_CHECKING:
    from harness.machine import devices
else:
    devices = LazyModule("harness.machine.devices")


@dataclass(kw_only=True)
class WorkerPool:
    """Fresh workers for requests of any threads, and a folder of files that they leave for each other. `close` removes
    that folder."""

    logs: Path
    """Folder for the output of workers."""
    seconds: float = CASE_TIMEOUT
    """Deadline of one request, in seconds."""
    _scratch: Scratch = field(default_factory=Scratch)
    _known: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    _asking: dict[tuple[Any, ...], threading.Lock] = field(default_factory=dict)
    """Locks by key, each held by the thread that finds out what is not known yet. Others wait for its answer."""
    _guard: threading.Lock = field(default_factory=threading.Lock)
    """Lock of the fields that threads share."""
    _live: set[Worker] = field(default_factory=set)
    _ports: set[int] = field(default_factory=set)
    """Ports where ranks of this session met. No two models may meet at one."""

    @property
    def scratch(self) -> Path:
        """Folder in which workers leave files for each other."""
        return self._scratch.path

    def ask(
        self, name: str, function: Callable[..., Answer], *arguments: Any, more: float = 0.0, threads: int = 0
    ) -> Answer:
        """Return what `function` returns in a worker of its own, whose output goes to a log of that name. It has `more`
        seconds beyond the usual deadline. Raises WorkerFailed."""
        with self.worker(name, threads) as worker:
            return worker.call(function, *arguments, seconds=self.seconds + more)

    def once(
        self,
        key: tuple[Any, ...],
        name: str,
        function: Callable[..., Answer],
        *arguments: Any,
        more: float = 0.0,
        threads: int = 0,
    ) -> Answer:
        """Return what `ask` returned for this key the first time. A failure is remembered too.

        A worker that dies is tried a second time: many cases depend on its answer, and it may be killed by chance.
        """
        with self._guard:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:
            if key not in self._known:
                try:
                    try:
                        self._known[key] = self.ask(name, function, *arguments, more=more, threads=threads)
                    except WorkerDied:
                        self._known[key] = self.ask(name, function, *arguments, more=more, threads=threads)
                except WorkerFailed as error:
                    self._known[key] = error
            known: Answer | WorkerFailed = self._known[key]
        if isinstance(known, WorkerFailed):
            raise known
        return known

    @contextmanager
    def worker(self, name: str, threads: int = 0) -> Iterator[Worker]:
        """Yield a worker whose output goes to a log of that name."""
        log = self.logs / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.log"
        with Worker(log=log, threads=threads) as worker:
            with self._guard:
                self._live.add(worker)
            try:
                yield worker
            finally:
                with self._guard:
                    self._live.remove(worker)

    @contextmanager
    def rank_workers(self, name: str, count: int, threads: int = 0) -> Iterator[tuple[list[Worker], list[RankAddress]]]:
        """Yield workers that are to be ranks of one model, and the places where they meet."""
        port = self._port()
        with ExitStack() as stack:
            workers = [stack.enter_context(self.worker(f"{name}-rank{rank}", threads)) for rank in range(count)]
            yield workers, [RankAddress(rank, count, port) for rank in range(count)]

    def _device(
        self, question: Callable[[str], Answer], device: str, *, unknown: Callable[[WorkerFailed], Answer]
    ) -> Answer:
        """Return a worker's answer on devices, so that this process never holds one. Where it gives none, return what
        `unknown` makes of its error."""
        try:
            return self.ask("devices", question, device)
        except WorkerFailed as error:
            refuse_full_disk(error, "devices")
            return unknown(error)

    def device_names(self, device: str) -> str:
        """Return the names of the devices of a type, or why they are unknown."""
        return self._device(devices.device_names, device, unknown=lambda error: f"{device}: unknown, {error}")

    def preloaded(self) -> str:
        """Return what the server of this session's workers has imported, and what each worker imports itself."""
        try:
            return str(self.ask("server", server_contents))
        except WorkerFailed as error:
            refuse_full_disk(error, "server")
            return f"unknown, {error}"

    def device_keys(self, device: str) -> list[str]:
        """Return keys that distinguish the visible devices of a type from all others of this machine. If the devices do
        not answer, return the type itself: their cases then say why."""
        return [device] if device == "cpu" else self._device(devices.device_keys, device, unknown=lambda _: [device])

    def forget_failures(self) -> None:
        """Forget failures, so that whatever failed once by chance is tried anew when it is needed again."""
        with self._guard:
            self._known = {key: known for key, known in self._known.items() if not isinstance(known, WorkerFailed)}

    def kill_workers(self) -> None:
        """End all workers of this pool. Whoever waits for one learns that it died."""
        with self._guard:
            live = tuple(self._live)
        for worker in live:
            worker.kill()

    def close(self) -> None:
        self._scratch.remove()

    def _port(self) -> int:
        while True:
            port = free_port()
            with self._guard:
                if port not in self._ports:
                    self._ports.add(port)
                    return port


def free_port() -> int:
    """Return a port of this machine on which nobody listens, where ranks can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
