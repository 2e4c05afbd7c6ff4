"""Gather the evidence of many cases side by side, ahead of the tests that judge it.

Each case is run by a thread that asks workers of its own. Nothing that is timed or weighed runs meanwhile: whoever
wants a device alone waits until all is gathered. So the outcome of a case does not depend on how many run at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from harness.records.evidence import Evidence
from harness.session.costs import told
from harness.session.plan import Planned

Make = Callable[[Planned], Evidence]
"""Runs a case. Raises HarnessError for what is not the case's fault."""
Told = Callable[[str], None]
"""Is told what a person waits for."""

BETWEEN_LINES = 15.0
"""Seconds between two lines that tell how far it has come."""


class Stopped(Exception):
    """What a case raises that ran while the session ended: its evidence is nobody's."""


@dataclass
class Gathering:
    """Makes evidence in `jobs` threads, in the order in which it is asked for."""

    make: Make
    keep: Callable[[Evidence, float], None]
    """Is given evidence as soon as there is some, and the seconds that it took."""
    jobs: int
    cost: Callable[[str], float] = lambda _: 0.0
    """Seconds that a case takes, as far as anybody knows."""
    told: Told = print
    minutes_behind: float = 0.0
    """What follows when all has run."""
    _waiting: dict[str, Future[Evidence]] = field(default_factory=dict)
    """By the id of the case, until it was taken."""
    _running: dict[str, float] = field(default_factory=dict)
    """Since when each case runs, by its id."""
    _pool: ThreadPoolExecutor | None = None
    _stopped: bool = False
    _asked: int = 0
    _last_line: float = 0.0
    _notes: dict[str, bool] = field(default_factory=dict)
    """What threads have to tell, each once, and whether the waiting one has told it for them."""

    def start(self, cases: Sequence[Planned]) -> None:
        """Begin with all these cases. To be called once."""
        self._pool = ThreadPoolExecutor(self.jobs, thread_name_prefix="gathering")
        self._asked = len(cases)
        self._last_line = time.monotonic()
        self._waiting = {planned.case.id: self._pool.submit(self._run, planned) for planned in cases}

    def holds(self, case: str) -> bool:
        """Return whether evidence of this case is being made, or was made and not taken yet."""
        return case in self._waiting

    def take(self, case: str) -> Evidence:
        """Return the evidence of a case, as soon as there is some. Raises what making it raised."""
        future = self._waiting[case]
        while not future.done():
            wait([future], timeout=1.0)
            self._tell()
        del self._waiting[case]
        return future.result()

    def finish(self) -> None:
        """Wait until nothing runs or waits any more; what was made can still be taken."""
        while any(not future.done() for future in self._waiting.values()):
            wait(self._waiting.values(), timeout=1.0)
            self._tell()

    def stop(self, kill_workers: Callable[[], None]) -> None:
        """End, whatever runs: nothing further is begun, and `kill_workers` ends what the threads wait for."""
        self._stopped = True
        if self._pool is None:
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        # A thread may be about to start its next worker: until none runs, those of the moment are ended.
        while any(not future.done() for future in self._waiting.values()):
            kill_workers()
            wait(self._waiting.values(), timeout=0.1)
        self._waiting.clear()

    def refuse_if_stopped(self) -> None:
        """Raises Stopped. For threads that wait for something else than a worker."""
        if self._stopped:
            raise Stopped

    def note(self, line: str) -> None:
        """Have a person told of something, once. For threads, which may not write themselves."""
        self._notes.setdefault(line, False)

    def _run(self, planned: Planned) -> Evidence:
        self.refuse_if_stopped()
        self._running[planned.case.id] = began = time.monotonic()
        try:
            evidence = self.make(planned)
        finally:
            del self._running[planned.case.id]
        self.refuse_if_stopped()  # it may be of a worker that was killed for that
        self.keep(evidence, time.monotonic() - began)
        return evidence

    def _tell(self) -> None:
        for line in [line for line, was_told in dict(self._notes).items() if not was_told]:
            self._notes[line] = True
            self.told(line)
        now = time.monotonic()
        if now - self._last_line < BETWEEN_LINES:
            return
        self._last_line = now
        self.told("; ".join(self._progress(now)))

    def _progress(self, now: float) -> Iterator[str]:
        left = [case for case, future in self._waiting.items() if not future.done()]
        yield f"{self._asked - len(left)} of {self._asked} cases have run"
        running = dict(self._running)  # at once, since threads change it
        if running:
            yield f"now {', '.join(f'{case} for {now - since:.0f} s' for case, since in running.items())}"
        ran = sum(now - since for since in running.values())
        minutes = max(0.0, sum(map(self.cost, left)) - ran) / self.jobs / 60 + self.minutes_behind
        yield f"{told(minutes)} left"
