"""Gather the evidence of many cases side by side, ahead of the tests that judge it.

Each case is run by a thread that uses workers of its own. Nothing is timed or weighed meanwhile: a test that needs a
device alone waits until all is gathered. So the outcome of a case does not depend on how many run at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from harness.records.evidence import Evidence
from harness.session.costs import in_words
from harness.session.plan import Planned

Make = Callable[[Planned], Evidence]
"""Function that runs a case. Raises HarnessError for what is not the case's fault."""
Notify = Callable[[str], None]
"""Function that shows a line on what a person waits for."""

BETWEEN_LINES = 15.0
"""Least seconds between two lines that show the progress."""


class Stopped(Exception):
    """Raised by a case that ran while the session ended. Its evidence is discarded."""


@dataclass
class Gathering:
    """Makes evidence in `jobs` threads, in the order in which the cases are given."""

    make: Make
    keep: Callable[[Evidence, float], None]
    """Function that is given evidence as soon as it exists, and the seconds that it took."""
    jobs: int
    cost: Callable[[str], float] = lambda _: 0.0
    """Estimated seconds of a case, by its id."""
    notify: Notify = print
    minutes_behind: float = 0.0
    """Estimated minutes of what follows when all cases have run."""
    _waiting: dict[str, Future[Evidence]] = field(default_factory=dict)
    """Evidence that was not taken yet, by the id of its case."""
    _running: dict[str, float] = field(default_factory=dict)
    """Time at which each running case began, by its id: seconds of `time.monotonic`."""
    _pool: ThreadPoolExecutor | None = None
    _stopped: bool = False
    _asked: int = 0
    _last_line: float = 0.0
    _notes: dict[str, bool] = field(default_factory=dict)
    """Lines that threads want shown, each once, and whether the waiting thread has shown them."""

    def start(self, cases: Sequence[Planned]) -> None:
        """Begin to run all these cases. To be called once."""
        self._pool = ThreadPoolExecutor(self.jobs, thread_name_prefix="gathering")
        self._asked = len(cases)
        self._last_line = time.monotonic()
        self._waiting = {planned.case.id: self._pool.submit(self._run, planned) for planned in cases}

    def holds(self, case: str) -> bool:
        """Return whether evidence of this case is being made, or was made and not taken yet."""
        return case in self._waiting

    def take(self, case: str) -> Evidence:
        """Wait for the evidence of a case and return it. Raises what making it raised."""
        future = self._waiting[case]
        while not future.done():
            wait([future], timeout=1.0)
            self._tell()
        del self._waiting[case]
        return future.result()

    def finish(self) -> None:
        """Wait until no case runs or waits any more. Evidence can still be taken."""
        while any(not future.done() for future in self._waiting.values()):
            wait(self._waiting.values(), timeout=1.0)
            self._tell()

    def stop(self, kill_workers: Callable[[], None]) -> None:
        """End whatever runs. Nothing further is begun, and `kill_workers` ends what the threads wait for."""
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
        """Raise Stopped after `stop`. For threads that wait for something else than a worker."""
        if self._stopped:
            raise Stopped

    def note(self, line: str) -> None:
        """Have a line shown to a person, once. For threads, which may not write themselves."""
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
            self.notify(line)
        now = time.monotonic()
        if now - self._last_line < BETWEEN_LINES:
            return
        self._last_line = now
        self.notify("; ".join(self._progress(now)))

    def _progress(self, now: float) -> Iterator[str]:
        left = [case for case, future in self._waiting.items() if not future.done()]
        yield f"{self._asked - len(left)} of {self._asked} cases have run"
        running = dict(self._running)  # at once, since threads change it
        if running:
            yield f"now {', '.join(f'{case} for {now - since:.0f} s' for case, since in running.items())}"
        ran = sum(now - since for since in running.values())
        minutes = max(0.0, sum(map(self.cost, left)) - ran) / self.jobs / 60 + self.minutes_behind
        yield f"{in_words(minutes)} left"
