"""Look for an input that violates a relation, and shrink it. hypothesis draws; a worker tries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky

from harness.errors import WorkerFailed, WorkerRaised
from harness.records.finding import LimitCheck
from suites.invariants.relations import Relation

Example = dict[str, Any]


@dataclass(frozen=True)
class SearchBudget:
    """How much is drawn for one relation of one case."""

    examples: int
    seed: int = 0
    """The same examples come from the same seed."""
    shrinks: bool = True
    """Whether a smaller example is looked for once one is wrong."""


@dataclass
class Searched:
    """What came of it."""

    tried: int = 0
    """Examples, those tried while shrinking included."""
    worst: dict[str, LimitCheck] = field(default_factory=dict)
    """By key, the number closest to its limit."""
    violating: list[LimitCheck] = field(default_factory=list)
    """What the smallest violating example gave; empty if none was found."""
    failure: WorkerFailed | None = None
    """Why the smallest example has no result, if the path raised, died or hung on one."""
    example: Example | None = None
    """The smallest that is not right."""


class _Wrong(Exception):
    """The example violates the relation, or the path raised on it."""


class _Gone(BaseException):
    """The worker is gone, or the path takes no such example at all: nothing smaller needs to be tried. hypothesis
    passes on what is no Exception."""


def search(
    relation: Relation, ask: Callable[[Example], list[LimitCheck]], *, edges: tuple[int, ...], budget: SearchBudget
) -> Searched:
    """Try examples until one is wrong, and smaller ones from there."""
    result = Searched()

    def wrong(example: Example, found: list[LimitCheck], failure: WorkerFailed | None) -> None:
        result.example, result.violating, result.failure = example, found, failure

    @seed(budget.seed)
    @settings(
        max_examples=budget.examples,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink) if budget.shrinks else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(relation.examples(edges))
    def holds(example: Example) -> None:
        result.tried += 1
        try:
            found = ask(example)
        except WorkerFailed as failure:
            wrong(example, [], failure)
            smaller = isinstance(failure, WorkerRaised) and not failure.incompatible
            raise (_Wrong if smaller else _Gone) from failure
        for finding in found:
            if finding.key not in result.worst or finding.excess > result.worst[finding.key].excess:
                result.worst[finding.key] = finding
        if any(finding.violated for finding in found):
            wrong(example, found, None)
            raise _Wrong

    with suppress(_Wrong, _Gone, Flaky):  # what was wrong stands in the result, and the last one is the smallest
        holds()
    return result
