"""Rule S: what earlier calls in a process may change, and what a call may leave behind. Nothing. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from harness.judging.error_ratios import same_precision
from harness.profiles.limits import Limits
from harness.records.enums import Dtype
from harness.records.evidence import LaterCalls
from harness.records.finding import LimitCheck

RULE = "S"
LEAST_CALLS = 3
"""Equal calls after which must have been counted what is left: the first may fill what is kept for all others."""


def later_findings(later: LaterCalls, dtype: Dtype, limits: Limits) -> Iterator[LimitCheck]:
    """Yield the findings of S: what earlier calls in a process may change (nothing), and what a call may leave."""
    differs = f"the first call, repeated after other prompts, gives other logits or another cache ({dtype})"
    yield LimitCheck.none(RULE, f"{dtype}.later_differs", int(not later.identical), differs)
    label = "error of the same rows in reverse order, called later,"
    yield from same_precision(later.strata, dtype, limits.of_logits(dtype), rule=RULE, key="later_rho", label=label)
    counts = later.remains[1:]  # the first call may fill what is kept for all others
    made = len(later.remains)
    few = f"equal calls after which was counted what is left: {made}, and {LEAST_CALLS} are needed ({dtype})"
    yield LimitCheck(RULE, f"{dtype}.counted", few, float(made), LEAST_CALLS, at_most=False, sentence=few)
    for name, label in () if later.uncounted else (("tensors", "tensors"), ("bytes", "bytes of tensors")):
        left = max(0, getattr(counts[-1], name) - getattr(counts[0], name)) if counts else 0
        sentence = f"{label} that {len(counts) - 1} equal calls left behind: {left} ({dtype})"
        yield LimitCheck.none(RULE, f"{dtype}.left_{name}", left, sentence)
    for name, label in (("threads", "threads"), ("files", "open files")):
        # Libraries begin threads and open files when they please, but not in every call.
        steps = [getattr(later, name) - getattr(earlier, name) for earlier, later in pairwise(counts)]
        left = max(0, min(steps, default=0))
        sentence = f"{label} that every one of {len(steps)} equal calls left behind: {left} ({dtype})"
        yield LimitCheck.none(RULE, f"{dtype}.left_{name}", left, sentence)
