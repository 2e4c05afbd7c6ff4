"""Calls of experts in torch's profiler: which function of transformers computed them, and by which products.

A module of experts looks up its function at each call, in transformers' `ExpertsInterface`. What comes back is marked
for as long as it runs, under its own name: what a configuration says, or a registry calls it, is not believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.profiler import record_function

from harness.observation.passes import Event, Passes
from harness.observation.wrapping import wrapped
from harness.records.observation import EAGER_EXPERTS, ExpertsCall

MARK = "## harness: experts "
"""Name of a mark, before the name of the function that runs while it is open."""
GROUPED = ("aten::_grouped_mm", "transformers::grouped_mm_fallback")
"""Operators that multiply groups of tokens with one expert each. transformers takes the first that it can."""
AT_ONCE = (*GROUPED, "aten::bmm")
"""Operators that multiply with several experts at once. A loop over experts needs none of them."""


@contextmanager
def experts_marked() -> Iterator[None]:
    """Mark each call of a function that computes experts in the profiler. Dynamo would see the marks."""
    from transformers.integrations.moe import ExpertsInterface

    def marked_lookup(lookup: Any, interface: Any, implementation: Any, default: Any) -> Any:
        function = lookup(interface, implementation, default)
        # What is no function itself, as a partial, goes by the name of its class.
        name = EAGER_EXPERTS if function is default else getattr(function, "__name__", type(function).__name__)

        def marked(*arguments: Any, **options: Any) -> Any:
            with record_function(f"{MARK}{name}"):
                return function(*arguments, **options)

        return marked

    with wrapped(ExpertsInterface, "get_interface", marked_lookup):
        yield


def is_of_experts(module: Any) -> bool:
    """Return whether a module is one of experts whose function transformers looks up."""
    # They are set by its decorator `use_experts_implementation`, which also keeps the class's own forward.
    return all(hasattr(module, name) for name in ("is_concatenated", "is_transposed", "has_gate"))


def own_forward(module: Any) -> Any:
    """Return the forward of the class of a module of experts: the loop over them that eager runs."""
    return type(module).forward.__wrapped__


def experts_calls(events: Iterable[Event], passes: Passes) -> Iterator[ExpertsCall]:
    """Yield the calls of experts among events, which are ordered by start."""
    phase, function, until, inside_until = passes.phase(0), "", -1, -1
    products: list[str] = []
    for name, event in events:
        start = event.start_ns()
        if start > until and function:
            yield ExpertsCall(phase, function, tuple(products))
            function = ""
        if name.startswith(MARK):
            phase, function, products = passes.phase(start), name.removeprefix(MARK), []
            until, inside_until = start + event.duration_ns(), -1
        elif function and name in AT_ONCE and start > inside_until:
            products.append(name)
            inside_until = start + event.duration_ns()
    if function:
        yield ExpertsCall(phase, function, tuple(products))
