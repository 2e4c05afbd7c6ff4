"""Something else computes a mixture of experts, or a function of experts computes something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from suites.meta.faults import patched, registered

BATCHED, GROUPED = "batched_mm", "grouped_mm"
ROWS = 4
"""Rows of the workload: the tokens of all of them come to the experts one row after another."""


@contextmanager
def experts(implementation: str, function: Any) -> Iterator[Any]:
    """transformers' function of experts of that name is `function` meanwhile; yields what it was."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    with registered(ALL_EXPERTS_FUNCTIONS, implementation, function) as original:
        yield original


def function_of(implementation: str) -> Any:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    return ALL_EXPERTS_FUNCTIONS[implementation]


@contextmanager
def batched_is_grouped() -> Iterator[None]:
    """The name `batched_mm` leads to the grouped product."""
    with experts(BATCHED, function_of(GROUPED)):
        yield


@contextmanager
def batched_in_name_alone() -> Iterator[None]:
    """The function that is named as requested leaves the work to the grouped product."""
    grouped = function_of(GROUPED)

    @wraps(function_of(BATCHED))
    def forward(*arguments):
        return grouped(*arguments)

    with experts(BATCHED, forward):
        yield


@contextmanager
def request_is_ignored() -> Iterator[None]:
    """Whatever is requested, experts are computed one by one, by the loop of their class."""
    from transformers import PreTrainedModel

    with patched(PreTrainedModel, "get_correct_experts_implementation", lambda *_: "eager"):
        yield


@contextmanager
def loop_is_grouped() -> Iterator[None]:
    """Where the loop is requested, the default runs."""
    from transformers import PreTrainedModel

    with patched(PreTrainedModel, "get_correct_experts_implementation", lambda *_: GROUPED):
        yield


@contextmanager
def last_choice_is_dropped() -> Iterator[None]:
    """What the last of the chosen experts gives is left out."""
    batched = function_of(BATCHED)

    @wraps(batched)
    def forward(module, hidden, chosen, weights):
        weights = weights.clone()
        weights[..., -1] = 0
        return batched(module, hidden, chosen, weights)

    with experts(BATCHED, forward):
        yield


@contextmanager
def experts_are_mixed_up() -> Iterator[None]:
    """Tokens of the last row go to their experts with each other's weights."""
    batched = function_of(BATCHED)

    @wraps(batched)
    def forward(module, hidden, chosen, weights):
        chosen, last = chosen.clone(), slice(-max(1, len(chosen) // ROWS), None)
        chosen[last] = chosen[last].flip(-1)
        return batched(module, hidden, chosen, weights)

    with experts(BATCHED, forward):
        yield


@contextmanager
def last_token_of_a_group_is_lost() -> Iterator[None]:
    """The grouped product leaves out the last token of its last group."""
    from transformers.integrations import moe

    def product(*arguments, **options):
        result = original(*arguments, **options)
        result[-1] = 0
        return result

    with patched(moe, "_grouped_mm", product) as original:
        yield
