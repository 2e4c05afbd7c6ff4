"""Rules of schemes that round: what they may cost (L2), and which weights they must give (E, Q). No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.profiles.limits import Budget
from harness.records.enums import Dtype
from harness.records.evidence import Comparison, Rounding, Scheme
from harness.records.finding import LimitCheck
from harness.statistics import at_least

L2_CHANCE = 0.01
"""Chance that a scheme which just uses up its budget of changed choices is found to exceed it."""


def cost_findings(comparison: Comparison, budget: Budget) -> Iterator[LimitCheck]:
    """Yield the findings of L2: what a scheme costs in the decode steps."""
    dtype, nats = comparison.dtype, comparison.divergence
    if nats is not None and budget.nats is not None:
        yield LimitCheck("L2", f"{dtype}.kl", f"{dtype} divergence of decode in nats", nats.decode_mean, budget.nats)
    if nats is not None and budget.flips is not None:
        most = most_by_chance(nats.decode_steps, budget.flips)
        yield LimitCheck("L2", f"{dtype}.scheme_flips", f"{dtype} first choices that changed", nats.decode_flips, most)


def scheme_findings(scheme: Scheme, dtype: Dtype, budget: Budget) -> Iterator[LimitCheck]:
    """Yield the findings about rounded weights: saved (E), as defined (Q), and what they cost on text (L2)."""
    if scheme.changed_by_saving is not None:
        changed = scheme.changed_by_saving
        yield LimitCheck.none(
            "E", f"{dtype}.saved", changed, f"linears that saving and loading changed: {changed} ({dtype})"
        )
    if scheme.rounding is not None:
        yield from _rounding(scheme.rounding, dtype)
    quality = scheme.quality
    for key, label, values, limit in (
        ("text_kl", "divergence on text in nats", quality.divergence, budget.nats),
        ("text_flips", "share of first choices that changed on text", quality.flips, budget.flips),
        ("text_loss", "rise of the text's negative log likelihood in nats", quality.surprise, budget.nats),
    ):
        if limit is not None:
            yield LimitCheck("L2", f"{dtype}.{key}", f"{dtype} {label}, at least,", at_least(values), limit)


def _rounding(rounding: tuple[Rounding, ...], dtype: Dtype) -> Iterator[LimitCheck]:
    """Yield the findings of Q: weights that their scheme does not make of the originals. Something must be compared."""
    compared = sum(each.compared for each in rounding)
    broken = [each for each in rounding if each.wrong]
    sentence = ""
    if broken:
        most = max(broken, key=lambda each: each.steps)
        sentence = (
            f"weights that are not what the scheme makes of the originals: {sum(each.wrong for each in broken)} of "
            f"{compared}, in {len(broken)} of {len(rounding)} matrices; {most.matrix} is off by {most.steps:.3g} steps "
            f"between levels at row {most.row}, column {most.column} ({dtype})"
        )
    yield LimitCheck.none("Q", f"{dtype}.misrounded", sum(each.wrong for each in broken), sentence)
    none = f"no weight was compared with its original ({dtype})"
    yield LimitCheck.some("Q", f"{dtype}.originals.compared", compared, none)


def most_by_chance(trials: int, share: float) -> int:
    """Return the count that a binomial variable of this share exceeds in at most L2_CHANCE of cases."""
    below, count = 0.0, -1
    while below < 1 - L2_CHANCE and count < trials:
        count += 1
        ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
        below += math.exp(ways + count * math.log(share) + (trials - count) * math.log1p(-share))
    return count
