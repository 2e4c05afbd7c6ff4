"""A model kept loaded in workers of its own: one worker, or one for each rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from harness.commands.confirm import in_worker as loaded
from harness.commands.confirm.records import LoadSummary, TimedRun
from harness.execution.runner import Runner
from harness.execution.setup import CaseRun
from harness.execution.worker import Answer, call_together


class LoadedModel:
    """A model, loaded and warm until it is closed. Raises WorkerFailed wherever a worker does not deliver."""

    def __init__(self, runner: Runner, name: str, run: CaseRun, kernels: tuple[str, ...], *, own: int) -> None:
        """Load the model of a run. Logs are named after `name`, and `kernels` are those of the verified run.

        `own` is the number of the harness's processes that may compute on the device meanwhile.
        """
        self._kernels = kernels
        self._seconds = runner.seconds
        self._open = ExitStack()
        with ExitStack() as until_loaded:
            self._workers, places = until_loaded.enter_context(runner.workers(name, run.optimization))
            self._ask(loaded.load, [(run, own, place) for place in places])
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
