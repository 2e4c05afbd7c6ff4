"""Try requests: each call in a worker of its own, so that none disturbs another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import first_line
from harness.execution.lazy import LazyModule
from harness.execution.setup import RankAddress
from harness.execution.worker import Worker, call_together
from harness.execution.worker_pool import free_port
from suites.silence.hearing import heard, line_of, lines_of
from suites.silence.judging import answer_of
from suites.silence.records import Answer, Call, Request, Trial

looks = LazyModule("suites.silence.looks")

SECONDS = 240.0
"""Deadline of one call."""


def try_call(name: str, *, asked: bool, fault: str = "", place: RankAddress | None = None) -> Trial:
    """Return what one call of the request `name` showed: that with the request, or its control. Runs in a worker."""
    from harness.execution.loading import planted  # imports transformers, which planning does not need
    from suites.silence.requests import request_named

    request = request_named(name)
    call = request.asked if asked else request.control
    facts: dict[str, str] = {}
    raised = ""
    with planted(fault), heard() as said:
        try:
            facts = looks.look(call, place)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the library's answer
            raised = f"{type(error).__name__}: {line_of(first_line(error))}"
    return Trial(facts, lines_of(said), raised)


def as_asked(name: str, fault: str, place: RankAddress | None) -> Trial:
    return try_call(name, asked=True, fault=fault, place=place)


def as_control(name: str, fault: str, place: RankAddress | None) -> Trial:
    return try_call(name, asked=False, fault=fault, place=place)


@dataclass
class Trials:
    """Tries requests, and remembers what was seen of controls, which many requests share."""

    logs: Path
    fault: str = ""
    """Fault to plant into every worker: `module:function` of a context manager."""
    _controls: dict[Call, Trial] = field(default_factory=dict)

    def answer(self, request: Request) -> Answer:
        """Return the word on a request. Raises ControlFails, and WorkerFailed if a worker does not answer."""
        control = self._control_of(request)
        return answer_of(request, self._try(request, asked=True), control)

    def _control_of(self, request: Request) -> Trial:
        if request.control in self._controls:
            return self._controls[request.control]
        control = self._try(request, asked=False)
        # One that raised is tried again: it may have raised for a reason that has passed.
        if not control.raised:
            self._controls[request.control] = control
        return control

    def _try(self, request: Request, *, asked: bool) -> Trial:
        call, function = (request.asked, as_asked) if asked else (request.control, as_control)
        log = self.logs / f"{request.name}-{'asked' if asked else 'control'}.log"
        if call.ranks == 1:
            with Worker(log=log) as worker:
                return worker.call(function, request.name, self.fault, None, seconds=SECONDS)
        return self._on_ranks(request, call, function, log)

    def _on_ranks(self, request: Request, call: Call, function: object, log: Path) -> Trial:
        port = free_port()
        places = [RankAddress(rank, call.ranks, port) for rank in range(call.ranks)]
        workers: list[Worker] = []
        try:
            workers += [Worker(log=log.with_suffix(f".{rank}.log"), threads=1) for rank in range(call.ranks)]
            arguments = [(request.name, self.fault, place) for place in places]
            first, *_ = call_together(workers, function, arguments, seconds=SECONDS)
            return first
        finally:
            for worker in workers:
                worker.__exit__(None, None, None)
