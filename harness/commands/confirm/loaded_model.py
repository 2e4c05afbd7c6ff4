"""A model kept loaded in workers of its own: one worker, or one for each rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from harness.commands.confirm import in_worker as loaded
from harness.commands.confirm.records import LoadSummary, TimedRun
from harness.execution.runner import Runner
from harness.execution.worker import Answer, call_together
from harness.paths.base import Optimization
from harness.records.evidence import Case


class LoadedModel:
    """A model, loaded and warm until it is closed. Raises WorkerFailed wherever a worker does not deliver."""

    def __init__(  # noqa: PLR0913 - which model, and all that it is loaded with
        self, runner: Runner, case: Case, optimization: Optimization, kernels: tuple[str, ...], *, fault: str, own: int
    ) -> None:
        """Load the model. `kernels` are those of the verified run, and `fault` is planted, as `CaseSetup.fault`.

        `own` is the number of the harness's processes that may compute on the device meanwhile.
        """
        self._kernels = kernels
        self._seconds = runner.seconds
        self._open = ExitStack()
        with ExitStack() as until_loaded:
            name = f"{case.id}-turns-{optimization.name}"
            self._workers, places = until_loaded.enter_context(runner.workers(name, optimization))
            case_run = runner.case_run(case, optimization, fault=fault)
            self._ask(loaded.load, [(case_run, own, place) for place in places])
            self._open = until_loaded.pop_all()

    def run(self) -> TimedRun:
        """Time one run: the first rank's time, dropped if any rank's is."""
        ranks = self._ask(loaded.run, [()] * len(self._workers))
        return replace(ranks[0], dropped=next((rank.dropped for rank in ranks if rank.dropped), ""))

    def end(self) -> LoadSummary:
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
        if len(self._workers) == 1:
            return [self._workers[0].call(function, *arguments[0], seconds=self._seconds)]
        return call_together(self._workers, function, arguments, seconds=self._seconds)
