"""What was accepted before, under equal conditions: error ratios (R2) and what schemes cost on text (L3). Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.equivalence.bootstrap import at_least
from harness.equivalence.rules import BUDGETS, Finding
from harness.errors import HarnessError
from harness.records import Rung
from harness.vocabulary import Dtype, Technique

R2_FACTOR = 1.10
"""Over the stored error ratio. Deterministic kernels repeat it bit for bit, so that more is another computation."""
L3_SHARE = 0.10
"""Of the stored divergence, by which it may grow."""


@dataclass(frozen=True)
class Stored:
    """What one case showed when its numbers were accepted."""

    path: str
    budget: str
    """As in Evidence."""
    rho: Mapping[str, float]
    """Error ratios by key: `fp32.rho`."""
    divergence: Mapping[Dtype, tuple[float, ...]]
    """Of rounded weights by dtype: `Quality.divergence`, one number per sequence, in nats."""


def changed(numbers: Mapping[str, float], stored: Stored) -> dict[str, float]:
    """R2: the stored value of every error ratio that is now more than R2_FACTOR times it."""
    return {key: was for key, was in stored.rho.items() if key in numbers and numbers[key] > R2_FACTOR * was}


def growth(rung: Rung, stored: Stored) -> list[Finding]:
    """L3: by how much the divergence on text has grown at least, sequence by sequence.

    Raises HarnessError if the stored sequences are not those of the run.
    """
    before = stored.divergence.get(rung.dtype)
    if rung.scheme is None or before is None:
        return []
    now = rung.scheme.quality.divergence
    if len(now) != len(before):
        raise HarnessError(
            f"stored numerics of {stored.path}: hold {len(before)} sequences of text, but should hold {len(now)} as "
            "the run does (store them again: harness numerics RUN)"
        )
    grown = at_least(tuple(ours - theirs for ours, theirs in zip(now, before, strict=True)))
    limit = L3_SHARE * sum(before) / len(before)
    what = f"{rung.dtype} growth of the divergence on text in nats since it was stored, at least,"
    return [Finding("L3", f"{rung.dtype}.text_kl_growth", what, grown, limit)]


def disordered(cases: Mapping[str, Stored]) -> Iterator[str]:
    """Every pair of stored cases of one backend in which more bits cost more, as a line."""
    groups: dict[tuple[str, Dtype], list[tuple[int, float, str]]] = defaultdict(list)
    for case, stored in cases.items():
        if backend := re.match(rf"{Technique.QUANTIZATION}\.[a-z]+", stored.path):
            bits = next(BUDGETS[name].bits for name in stored.budget.split("+") if name.startswith("weights"))
            for dtype, values in stored.divergence.items():
                mean = sum(values) / len(values)
                groups[case.replace(stored.path, backend[0]), dtype].append((bits, mean, case))
    for (_, dtype), members in groups.items():
        for bits, mean, case in members:
            for fewer, less, other in members:
                if fewer < bits and mean > less:
                    yield (
                        f"{case}: {dtype} divergence on text with {bits} bits is {mean:.4g}, but should be at most the "
                        f"{less:.4g} of {fewer} bits in {other}"
                    )
