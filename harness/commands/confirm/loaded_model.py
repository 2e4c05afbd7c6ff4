"""A model kept loaded in workers of its own: one worker, or one for each rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from harness.commands.confirm import in_worker as loaded
from harness.commands.confirm.records import Ended, Timed
from harness.execution.runner import Runner
from harness.execution.worker import Answer, Worker, call_together
from harness.paths.base import Optimization
from harness.records.evidence import Case


@dataclass(frozen=True)
class Stood:
    """Model to load, and how."""

    case: Case
    optimization: Optimization
    kernels: tuple[str, ...]
    """Kernels of the verified run, as in Engagement."""
    fault: str = ""
    """Fault to plant, as `CaseSetup.fault`; empty for none."""
    own: int = 1
    """Number of the harness's processes that may compute on the device meanwhile."""


class Standing:
    """A model, loaded and warm until it is closed. Raises WorkerFailed wherever a worker does not deliver."""

    def __init__(self, runner: Runner, asked: Stood) -> None:
        self._kernels = asked.kernels
        self._seconds = runner.seconds
        self._open = ExitStack()
        with ExitStack() as until_loaded:
            name = f"{asked.case.id}-turns-{asked.optimization.name}"
            self._workers, places = until_loaded.enter_context(runner.workers(name, asked.optimization))
            case_run = runner.case_run(asked.case, asked.optimization, fault=asked.fault)
            self._ask(loaded.load, [(case_run, asked.own, place) for place in places])
            self._open = until_loaded.pop_all()

    def run(self) -> Timed:
        """Time one run: the first rank's time, dropped if any rank's is."""
        ranks = self._ask(loaded.run, [()] * len(self._workers))
        return replace(ranks[0], dropped=next((rank.dropped for rank in ranks if rank.dropped), ""))

    def end(self) -> Ended:
        """Close the model, and return what is known of its runs. If ranks ran, an error in any of them counts."""
        try:
            ranks = self._ask(loaded.end, [(self._kernels,)] * len(self._workers))
        finally:
            self.close()
        return replace(
            next((rank for rank in ranks if rank.wrong), ranks[0]),
            differing=sum(rank.differing for rank in ranks),
            foreign=max(rank.foreign for rank in ranks),
        )

    def close(self) -> None:
        self._open.close()

    def _ask(self, function: Callable[..., Answer], arguments: Sequence[tuple[Any, ...]]) -> list[Answer]:
        workers: list[Worker] = self._workers
        if len(workers) == 1:
            return [workers[0].call(function, *arguments[0], seconds=self._seconds)]
        return call_together(workers, function, arguments, seconds=self._seconds)
