"""Hold numbers against the limits of correctness. No torch.

Fixed limits are defined here, with the reason of each; those that calibration may move are in `profiles/limits.py`.
Rules of their own modules: errors over eager's (`error_ratios`), later calls (`call_rules`), schemes (`scheme_rules`).

The names R0 to R6, O, S, L, E and Q are those of the rules in docs/correctness.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from harness.errors import HarnessError
from harness.judging.call_rules import later_findings
from harness.judging.error_ratios import error_findings, largest_ratio, same_precision
from harness.judging.scheme_rules import cost_findings, scheme_findings
from harness.profiles.limits import BUDGETS, KL_FLOOR, KL_P99_FLOOR, LIMITS, Budget, Limits
from harness.profiles.numerics import L3_SHARE, R2_FACTOR, StoredNumerics
from harness.records.enums import Dtype, Reference, Tolerance
from harness.records.evidence import (
    GROUP,
    Comparison,
    EagerCheck,
    Operators,
    PrecisionRun,
)
from harness.records.finding import LimitCheck, quotient
from harness.statistics import at_least

R4_FLIP_SIGMAS = 3.0
"""Standard deviations of a binomial count by which flips against the reference may exceed eager's own."""
R6_LOSSY = math.sqrt(2 * GROUP / 12)
"""Relative RMS error that quantizing keys and values may add to the dtype's own, times 2**bits - 1. Rounding to levels
errs by their step / sqrt(12), and n values of mean square 1 have a range of at most sqrt(2 n)."""
ULPS_OF_EAGER = 128.0
"""Relative RMS error that eager may have, in unit roundoffs of its dtype: trained small models show 3 to 33."""
ULPS_OF_RANDOM = 512.0
"""The same for weights that were not trained, which amplify rounding: small ones of 91 architectures show up to 167."""
ULPS_PER_POSITION = 0.25
"""Unit roundoffs per position that eager's error may reach in float32 on long prompts. Rotary angles are computed
in float32 whatever the dtype, and err in proportion to the position. Trained small models show up to 0.12 at 2,048
positions."""
FLOOR = 1e-3
"""Share of eager's error that the reference's own, cached against uncached, may reach. About 1e-9 is normal."""
FLOOR_OF_OWN = 4.0
"""The same where eager itself is the reference: cached and uncached are then two orders of the same roundings."""
NUDGED = 3.0
"""Factor of the error of a nudged run over eager's own that is allowed for: two models show 1.3 to 2.6."""
ATTENTION = "attention"
"""Rule of findings of eager's own attention."""
RECALL = 0.99
"""Share of the recall probe's determined tokens that eager must generate."""


def findings(
    run: PrecisionRun, tolerance: Tolerance, *, budget: str = "", limits: Limits = LIMITS, trained: bool = True
) -> list[LimitCheck]:
    """Return the finding of every rule that applies to this run, violated or not.

    `budget` names the budgets of lossy schemes in BUDGETS, joined by `+`. Weights that were not `trained` are asked for
    no such budget. Raises ValueError if weights are rounded, and what that costs or a budget for it is missing.
    """
    comparison, dtype = run.comparison, run.dtype
    budgets = {name.partition("_")[0]: BUDGETS[name] for name in budget.split("+") if name}
    scheme = list(_operators(run.operators, dtype, limits)) if run.operators else []
    if run.scheme or tolerance in {Tolerance.ROUNDED, Tolerance.DYNAMIC}:
        if run.scheme is None or "weights" not in budgets:
            raise ValueError(f"a {tolerance} run needs what its scheme costs, and a budget of weights to hold it to")
        scheme += scheme_findings(run.scheme, dtype, budgets["weights"])
    if run.beside:
        lossless = replace(run, comparison=run.beside, beside=None, scheme=None, operators=None, later=None)
        scheme += [
            replace(
                each,
                key=f"{each.key}.beside",
                what=f"{each.what}, without the lossy cache,",
                sentence=each.sentence and f"{each.sentence}, without the lossy cache",
            )
            for each in findings(lossless, Tolerance.REORDERED, limits=limits)
        ]
    checks = [
        LimitCheck.none(
            "finite", f"{dtype}.not_finite", int(not comparison.finite), f"logits contain NaN or infinity ({dtype})"
        ),
        LimitCheck.none(
            "R5",
            f"{dtype}.unended",
            comparison.free.unended,
            f"rows that do not end where their sequence does: {comparison.free.unended} ({dtype})",
        ),
    ]
    checks += later_findings(run.later, dtype, limits) if run.later else ()
    lengths = LimitCheck.none(
        "R6",
        f"{dtype}.lengths",
        comparison.state.wrong_lengths,
        f"cache layers of a wrong length: {comparison.state.wrong_lengths} ({dtype})",
    )
    if tolerance is Tolerance.DYNAMIC:
        watched = len(run.operators.errors) if run.operators else 0
        some = LimitCheck.some("O", f"{dtype}.operators", watched, f"no operator was compared ({dtype})")
        return [*checks, lengths, some, *cost_findings(comparison, budgets["weights"]), *scheme]
    if tolerance in {Tolerance.REORDERED, Tolerance.ROUNDED}:
        logits = error_findings(comparison.strata, dtype, limits=limits)
        kept = comparison.state.strata
        state = same_precision(kept, dtype, limits.of_parts(dtype), rule="R6", key="cache_rho", label="cache error")
        return [
            *checks,
            *logits,
            *_divergence(comparison, limits),
            *_greedy(comparison, limits),
            lengths,
            *state,
            *scheme,
        ]
    whose = "eager's" if tolerance is Tolerance.EXACT else "its dense twin's"
    rule = "E" if tolerance is Tolerance.EXACT else "L1"
    differs = f"its bits differ from {whose} ({dtype})"
    checks += [LimitCheck.none(rule, f"{dtype}.differs", int(not comparison.identical), differs), lengths]
    return [*checks, *(_within(comparison, budgets["kv"], limits, trained=trained) if "kv" in budgets else ()), *scheme]


def _divergence(comparison: Comparison, limits: Limits) -> Iterator[LimitCheck]:
    dtype, nats = comparison.dtype, comparison.divergence
    if nats is None:
        return
    for key, label, got, limit in (
        ("kl", "mean divergence", nats.candidate_mean, limits.kl * nats.eager_mean + KL_FLOOR),
        ("kl_p99", "99th percentile of divergence", nats.candidate_p99, limits.kl_p99 * nats.eager_p99 + KL_P99_FLOOR),
    ):
        yield LimitCheck("R3", f"{dtype}.{key}", f"{dtype} {label} in nats", got, limit)


def _within(comparison: Comparison, budget: Budget, limits: Limits, *, trained: bool) -> Iterator[LimitCheck]:
    """Yield what a cache that keeps less costs, in the decode steps (L2) and in the cache itself (R6).

    Weights that were not trained amplify what the first layer lost, as routers of experts do, so only that is held.
    """
    dtype = comparison.dtype
    yield from cost_findings(comparison, budget)
    scheme = R6_LOSSY / (2**budget.bits - 1)
    own, _ = limits.of_parts(dtype)
    shares = {
        error.stratum: quotient(error.candidate_rms, scheme * error.reference_rms + own * error.eager_rms)
        for error in comparison.state.strata
        if trained or error.stratum.startswith("layer 0 ")
    }
    if shares:
        yield largest_ratio(
            "R6", f"{dtype}.cache", f"{dtype} cache error over what the scheme and {dtype} cost", shares, 1.0
        )


def _operators(operators: Operators, dtype: Dtype, limits: Limits) -> Iterator[LimitCheck]:
    yield from same_precision(
        operators.errors, dtype, limits.of_parts(dtype), rule="O", key="operator", label="error of one operator"
    )
    wrong = sum(trial.wrong for trial in operators.exact)
    first = next((f" ({trial.operator})" for trial in operators.exact if trial.wrong), "")
    yield LimitCheck.none(
        "O", f"{dtype}.exact", wrong, f"outputs that are wrong where nothing rounds: {wrong}{first} ({dtype})"
    )
    if not operators.unwatched:
        compared = len(operators.errors) + sum(trial.tried for trial in operators.exact)
        yield LimitCheck.some("O", f"{dtype}.compared", compared, f"no operator was compared ({dtype})")


def _greedy(comparison: Comparison, limits: Limits) -> Iterator[LimitCheck]:
    dtype, greedy = comparison.dtype, comparison.greedy
    used = greedy.worst_slack / greedy.worst_slack_limit
    place = f"token {greedy.worst_position}" if greedy.worst_position >= 0 else "none flipped"
    yield LimitCheck(
        "R4",
        f"{dtype}.slack",
        f"{dtype} margin of a flipped choice over its rounding allowance ({place})",
        used,
        limits.slack,
    )
    eager_rate = greedy.eager_flips / greedy.positions
    spread = math.sqrt(max(eager_rate, 1 / greedy.positions) / greedy.positions)
    allowed = eager_rate + R4_FLIP_SIGMAS * spread
    flips = greedy.candidate_flips / greedy.positions
    yield LimitCheck("R4", f"{dtype}.flips", f"{dtype} share of flipped choices", flips, allowed)
    diverged = comparison.free.diverged
    label = f"rows whose free run diverges by more than a tie: {diverged} ({dtype})"
    yield LimitCheck.none("R5", f"{dtype}.diverged", diverged, label)


def trust_findings(
    eager: EagerCheck, *, floor: float, reference: Reference = Reference.FLOAT64, limits: Limits = LIMITS
) -> list[LimitCheck]:
    """Return what eager, and the reference with its `floor`, must satisfy in one dtype before anything is compared.

    Of the `limits` of a profile, those of a part hold for eager's attention.
    """
    most_floor = FLOOR_OF_OWN if reference is Reference.OWN else FLOOR
    most = ULPS_OF_EAGER if eager.trained else ULPS_OF_RANDOM
    most *= NUDGED if reference is Reference.OWN else 1.0
    share = floor / eager.relative_error if eager.relative_error else math.inf  # no error: it is the reference itself
    checks = [
        LimitCheck(
            "floor", f"{eager.dtype}.floor", f"the reference's own error over {eager.dtype} eager's", share, most_floor
        ),
        LimitCheck.none(
            "repeat",
            f"{eager.dtype}.unrepeatable",
            int(not eager.repeats),
            f"eager differs from its own repetition ({eager.dtype})",
        ),
        LimitCheck(
            "error",
            f"{eager.dtype}.eager_ulps",
            f"{eager.dtype} eager's relative error in unit roundoffs",
            eager.relative_error / eager.dtype.unit_roundoff,
            max(
                most,
                ULPS_PER_POSITION * eager.positions if eager.dtype is Dtype.FP32 else 0.0,
            ),
        ),
    ]
    if eager.attention:
        checks += _attention(eager.attention, eager.dtype, limits)
    if eager.asked:
        checks.append(
            LimitCheck(
                "recall", f"{eager.dtype}.recall", f"{eager.dtype} eager's recall", eager.recall, RECALL, at_most=False
            )
        )
    return checks


def _attention(attention: Operators, dtype: Dtype, limits: Limits) -> Iterator[LimitCheck]:
    """Yield what eager's attention must satisfy against its definition: the limits of rule O."""
    yield from same_precision(
        attention.errors,
        dtype,
        limits.of_parts(dtype),
        rule=ATTENTION,
        key="eager_attention",
        label="error of eager's attention",
        over="its definition's",
    )
    wrong = sum(trial.wrong for trial in attention.exact)
    first = next((f" ({trial.operator})" for trial in attention.exact if trial.wrong), "")
    yield LimitCheck.none(
        ATTENTION,
        f"{dtype}.eager_attention_exact",
        wrong,
        f"eager's attention sees other keys than windows and padding let it see, or other heads: {wrong} wrong values "
        f"where nothing rounds{first} ({dtype})",
    )
    if not attention.unwatched:
        compared = len(attention.errors) + sum(trial.tried for trial in attention.exact)
        sentence = f"no attention of eager was compared with the definition ({dtype})"
        yield LimitCheck.some(ATTENTION, f"{dtype}.eager_attention_compared", compared, sentence)


def changed(numbers: Mapping[str, float], stored: StoredNumerics) -> dict[str, float]:
    """Return the stored value of every error ratio that has grown to more than R2_FACTOR times it (rule R2)."""
    return {key: was for key, was in stored.rho.items() if key in numbers and numbers[key] > R2_FACTOR * was}


def growth(run: PrecisionRun, stored: StoredNumerics) -> list[LimitCheck]:
    """Return the finding of L3: a lower bound of the growth of the divergence on text since it was stored.

    Sequences are compared one by one. Raises HarnessError if another number of them was stored.
    """
    before = stored.divergence.get(run.dtype)
    if run.scheme is None or before is None:
        return []
    now = run.scheme.quality.divergence
    if len(now) != len(before):
        raise HarnessError(
            f"stored numerics of {stored.path}: hold {len(before)} sequences of text, but should hold {len(now)} as "
            "the run does (store them again: harness numerics RUN)"
        )
    grown = at_least(tuple(ours - theirs for ours, theirs in zip(now, before, strict=True)))
    limit = L3_SHARE * sum(before) / len(before)
    label = f"{run.dtype} growth of the divergence on text in nats since it was stored, at least,"
    return [LimitCheck("L3", f"{run.dtype}.text_kl_growth", label, grown, limit)]
