"""The overview's sentences about speed and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from harness.claims import Part, exactly, memory_ratio
from harness.errors import WorkerFailed
from harness.execution.weighing import weigh
from harness.measured import Sample
from harness.measurement.speed_rules import DROPPED, speedup
from harness.measurement.statistics import ALPHA, LEAST, Interval, ratio_interval
from harness.paths.base import Optimization, engagement
from harness.paths.caching import DynamicCache, NoCache, StaticCache
from harness.paths.compilation import CompiledStaticCache, allowed_for_lengths
from harness.paths.eager import Eager
from harness.paths.quantization import QuantizedWeights
from harness.records import Case, Verdict
from harness.vocabulary import Property
from suites.claims.asking import Asked
from suites.claims.experiments import (
    Arm,
    Rounds,
    Until,
    bits_per_weight,
    first_and_later,
    observe,
    observe_without,
    peak_of_all,
    time_rounds,
    traffic,
)
from suites.claims.places import (
    LENGTHS,
    MINI,
    SCHEMES,
    UNEVEN,
    path_named,
    steps,
    unmet,
)

LOADS = 7
"""Fresh workers whose first runs are looked at: the fewest that all lie above the median with a chance below 1 %."""
ROUNDS = 40
"""Of arms, one more look than claims need to be told with confidence."""
HALF_POWER = 0.5
"""Exponent between growing with the length and not growing, and between squares and lines if 1 is added."""
MORE_BITS = 1.0
"""Bits per weight that scales and zero points may add to those of a scheme: 32 per 64 weights in bitsandbytes' blocks
are half of it (docs of bitsandbytes, functional.quantize_4bit, blocksize)."""


@dataclass(frozen=True)
class OnlyStatic(StaticCache):
    """`generate` is told of a static cache, and of nothing else: our path of that cache tells it not to compile."""

    def generate_options(self) -> dict[str, str]:
        return {"cache_implementation": "static"}


def compiles_by_itself(asked: Asked) -> Verdict:
    asked.equivalent()
    seen = asked.ask(observe, asked.setup(), asked.case.dtype, OnlyStatic())
    share = seen.compiled_calls / seen.decode_steps
    return asked.verdict([Part("compiled_share", "share of decode steps that ran compiled", exactly(share), 1.0)])


def first_run_warms_up(asked: Asked) -> Verdict:
    """The first run takes longer than later ones, as any does; and these are faster than eager's."""
    _, measured = asked.judged(Property.SPEED)
    case, setup = asked.case, asked.setup()
    logs = []
    for _ in range(LOADS):
        first, later = asked.ask(first_and_later, setup, case.dtype, asked.optimization, 5)
        logs.append(math.log(first / median(later)))
    first = ratio_interval(logs, alpha=ALPHA, independent=True)
    parts = [
        Part("first_over_later", "time of the first run over later ones", first, 1.0),
        Part("speedup", "speed of later ones over eager's", speedup(measured.speed), 1.0),
    ]
    return asked.verdict(parts, told=f"{LOADS} fresh workers")


def outside_recompiles(asked: Asked) -> Verdict:
    """One prompt, in one shape: whatever is compiled anew there is compiled for the cache that grows. The overview says
    that each step does; what is compiled inside `generate` is compiled once."""
    asked.equivalent()
    case, setup, path = asked.case, asked.setup(), CompiledStaticCache()
    asked.engaged(path, setup)  # or nothing would be compiled, and nothing anew
    outside, inside = (asked.ask(observe, setup, case.dtype, each) for each in (asked.optimization, path))
    share = len(outside.recompiles) / outside.decode_steps
    again = len(inside.recompiles)
    parts = [
        Part("recompiled", "recompilations of a function compiled outside", exactly(len(outside.recompiles)), 1),
        Part("recompiled_per_step", "the same per decode step", exactly(share), 1.0),
        Part("recompiled_inside", "those by generate", exactly(again), allowed_for_lengths(inside), at_least=False),
    ]
    return asked.verdict(parts, told="for the second length dynamo compiles for any" if share < 1 else "")


def attention_grows_linearly(asked: Asked) -> Verdict:
    """Peak beyond what must be held, over the prompt's length: the exponents between neighbouring lengths."""
    asked.equivalent()
    case = asked.case
    parts = []
    others = {path: _why_not(path, case) for path in map(path_named, ("attention.sdpa", "kernels.flash_attn2_local"))}
    for path in (Eager(), *(path for path, why in others.items() if not why)):
        asked.engaged(path, asked.setup(LENGTHS[0]))
        held = [asked.ask(weigh, asked.setup(workload), case.dtype, path) for workload in LENGTHS]
        beyond = [each.peak - each.least for each in held]
        if min(beyond) <= 0:
            raise asked.unknown(f"{path.name} holds no more than it must at {LENGTHS[0].longest} tokens")
        exponents = [
            math.log(more / less) / math.log(long.longest / short.longest)
            for (less, more), (short, long) in zip(pairwise(beyond), pairwise(LENGTHS), strict=True)
        ]
        got = Interval(min(exponents), median(exponents), max(exponents))
        eager = isinstance(path, Eager)
        what = f"exponent of the peak over the prompt's length of {path.name}"
        parts.append(Part(f"{path.name}.exponent", what, got, 1 + HALF_POWER, at_least=eager))
        if not eager:
            parts.append(Part(f"{path.name}.grows", f"that of {path.name}", got, HALF_POWER))
    lengths = ", ".join(str(load.longest) for load in LENGTHS)
    left_out = [f"{path.name}: {why}" for path, why in others.items() if why]
    return asked.verdict(parts, told="; ".join([f"least and most between neighbours of {lengths} tokens", *left_out]))


def kernel_needs_no_package(asked: Asked) -> Verdict:
    equivalence = asked.equivalent()
    seen, imported = asked.ask(observe_without, asked.setup(), asked.case.dtype, asked.optimization, "flash_attn")
    calls = len(seen.kernel_calls) or len(seen.attention)  # a kernel of the hub shows itself as an operator of its own
    unengaged = sum(not claim.holds for claim in engagement(asked.optimization, seen).claims)
    parts = [
        Part("kernel_calls", "calls of the repository's kernel", exactly(calls), 1),
        Part("imported", "modules imported of flash-attn", exactly(len(imported)), 0, at_least=False),
        Part("unengaged", "claims of the path that are not engaged", exactly(unengaged), 0, at_least=False),
    ]
    return asked.verdict(parts, told=equivalence.message)


def kernels_fuse(asked: Asked) -> Verdict:
    asked.equivalent()
    case, setup = asked.case, asked.setup()
    ours, eagers = (asked.ask(traffic, setup, case.dtype, path) for path in (asked.optimization, Eager()))
    launches = exactly(ours.launches / eagers.launches)
    parts = [Part("launches_ratio", "launches over eager's", launches, below(1), at_least=False)]
    if eagers.bytes:
        moved = exactly(ours.bytes / eagers.bytes)
        parts.append(Part("bytes_ratio", "bytes that operators touch over eager's", moved, below(1), at_least=False))
    on_cuda = "kernels; bytes are not counted, since kernels that are no operators of torch would be missing"
    told = f"{ours.launches} and {eagers.launches} {on_cuda if case.device == 'cuda' else 'operators'}"
    return asked.verdict(parts, told=told)


def every_parameter_shrinks(asked: Asked) -> Verdict:
    """Of each scheme that can be loaded here, the linear layer that keeps most bits per weight. What cannot be loaded
    is told."""
    asked.equivalent()
    case, setup = asked.case, asked.setup(model=asked.larger(MINI))
    found, left_out = {}, []
    for path in SCHEMES:
        why = unmet(path, case.device)  # in any precision: nothing is computed
        try:
            if not why:
                found[path] = asked.ask(bits_per_weight, setup, case.dtype, path)
        except WorkerFailed as error:
            why = str(error)
        left_out += [f"{path.name}: {why}"] if why else []
    if not all(bits for bits, _ in found.values()):
        raise asked.unknown("a scheme rounded no linear layer")
    told = "; ".join([f"the most of any linear of {setup.recipe.name}", *left_out])
    return asked.verdict([*map(_bits, found, found.values()), *_left_dense(found)], told=told)


def _bits(path: QuantizedWeights, found: tuple[dict[str, float], int]) -> Part:
    variant = path.name.partition(".")[2]
    got, limit = exactly(max(found[0].values())), path.nominal_bits + MORE_BITS
    return Part(f"{variant}.bits", f"bits per weight of {variant}", got, limit, at_least=False)


def _left_dense(found: Mapping[QuantizedWeights, tuple[dict[str, float], int]]) -> list[Part]:
    """Of the scheme that left most so."""
    if not found:
        return []
    most = max(found, key=lambda path: found[path][1])
    what = f"linears but the head that {most.name} left dense"
    return [Part("dense", what, exactly(found[most][1]), 0, at_least=False)]


def _why_not(path: Optimization, case: Case) -> str:
    """Why a path cannot be tried beside the case; empty if it can."""
    takes = case.dtype in path.dtypes(case.device)
    return unmet(path, case.device) or ("" if takes else f"its kernels do not take {case.dtype}")


def cost_per_token_is_flat(asked: Asked) -> Verdict:
    """Time of a step behind a long text over that behind a short one, with a cache and without, as an exponent."""
    asked.equivalent()
    case = asked.case
    loads = steps(case.device)
    arms = tuple(Arm(asked.setup(load), path) for path in (DynamicCache(), NoCache()) for load in loads)
    rounds = _timed(asked, arms)
    short, long = (load.longest for load in loads)
    parts = []
    for place, what, growing in ((0, "with a cache", False), (2, "without one", True)):
        pairs = zip(rounds.arms[place], rounds.arms[place + 1], strict=True)
        logs = [math.log(_step(more, loads[1].new_tokens) / _step(less, loads[0].new_tokens)) for less, more in pairs]
        got = _scaled(ratio_interval(logs, alpha=ALPHA), 1 / math.log(long / short))
        key = "growing" if growing else "flat"
        parts.append(Part(key, f"exponent of a step's time over the length {what}", got, HALF_POWER, at_least=growing))
    return asked.verdict(parts, told=f"{short} and {long} tokens, {case.recipe.name}")


def offloading_keeps_one_layer(asked: Asked) -> Verdict:
    _, measured = asked.judged(Property.MEMORY)
    held = measured.memory.candidate
    elsewhere = exactly(held.kv_elsewhere / held.kv)
    layers = len(asked.ask(observe, asked.setup(), asked.case.dtype, asked.optimization).cache_windows)
    part = Part("elsewhere", "share of the cache that left the device", elsewhere, (layers - 1) / layers)
    return asked.verdict([part])


def ranks_shard_and_cost_memory(asked: Asked) -> Verdict:
    asked.equivalent()
    launch = asked.optimization.launch()
    ranks = asked.runner.observe_ranks(asked.case, asked.optimization, count=launch.ranks)
    kept, whole = sum(rank.bytes_kept for rank in ranks), ranks[0].bytes_whole
    shards = [shard for rank in ranks for shard in rank.shards if not shard.style.startswith("replicated")]
    unsplit = sum(math.prod(shard.kept) * len(ranks) != math.prod(shard.whole) for shard in shards)
    parts = [
        Part("split", "shards that the plan splits", exactly(len(shards)), len(ranks)),
        Part(
            "unsplit",
            f"of {len(shards)} shards that the plan splits, those kept whole",
            exactly(unsplit),
            0,
            at_least=False,
        ),
        Part("total", "bytes of parameters on all ranks over those of one model", exactly(kept / whole), above(1)),
    ]
    return asked.verdict(parts, told=f"{ranks[0].bytes_kept / whole:.3f} of them on each rank")


def requests_beat_padding(asked: Asked) -> Verdict:
    """The same requests, as they come and as one padded batch, both with sdpa. That prefills are cut into chunks is
    among what the path claims, and the longest prompt takes several."""
    asked.equivalent()
    setup = asked.setup(UNEVEN)
    serving = replace(asked.optimization, tokens=UNEVEN.longest // 2)
    rounds = _timed(asked, (Arm(setup, serving), Arm(setup, path_named("attention.sdpa"))))
    lengths = sorted(prompt.length for prompt in UNEVEN.prompts)
    told = f"{len(lengths)} prompts of {lengths[0]} to {lengths[-1]} tokens; steps of at most {serving.tokens}"
    return asked.verdict([_faster(rounds, 0, 1, key="speedup", what="speed over a padded batch's")], told=told)


def speed_may_cost_memory(asked: Asked) -> Verdict:
    """Compiled decoding, ticked for speed alone: what a fresh process holds in all, the compiler's share included."""
    _, measured = asked.judged(Property.SPEED)
    case, setup = asked.case, asked.setup()
    peaks = [asked.ask(peak_of_all, setup, case.dtype, path) for path in (asked.optimization, Eager())]
    more = memory_ratio(*peaks, device=case.device)
    parts = [
        Part("speedup", "speed over eager's", speedup(measured.speed), 1.0),
        Part("whole_ratio", "peak of a fresh process, from loading to the second run, over eager's", more, above(1)),
    ]
    return asked.verdict(parts)


def stack_beats_its_best_part(asked: Asked) -> Verdict:
    asked.equivalent()
    setup = asked.setup()
    parts = ("attention.sdpa", "compilation.static_cache")
    rounds = _timed(asked, (Arm(setup, asked.optimization), *(Arm(setup, path_named(name)) for name in parts)))
    return asked.verdict(
        [
            _faster(rounds, 0, place, key=f"over_{name}", what=f"speed over that of {name}")
            for place, name in enumerate(parts, start=1)
        ]
    )


def above(limit: float) -> float:
    """The next number: more than the limit, and not the limit itself."""
    return math.nextafter(limit, math.inf)


def below(limit: float) -> float:
    return math.nextafter(limit, -math.inf)


def _timed(asked: Asked, arms: tuple[Arm, ...]) -> Rounds:
    """Rounds of arms that are engaged. Raises Settled if one is not, or if the machine was too noisy, or shared."""
    for arm in arms:
        asked.engaged(arm.optimization, arm.setup)
    until = Until(ROUNDS, asked.timing_seconds)
    rounds = asked.ask(time_rounds, arms, asked.case.dtype, until, more_seconds=asked.timing_seconds)
    if rounds.foreign:
        raise asked.unknown(f"{rounds.foreign} foreign processes computed on the device")
    count = len(rounds.arms[0]) + rounds.dropped
    if len(rounds.arms[0]) < LEAST or rounds.dropped > DROPPED * count:
        raise asked.unknown(f"{rounds.dropped} of {count} rounds were dropped")
    return rounds


def _faster(rounds: Rounds, ours: int, theirs: int, *, key: str, what: str) -> Part:
    pairs = zip(rounds.arms[ours], rounds.arms[theirs], strict=True)
    logs = [math.log(other.seconds / own.seconds) for own, other in pairs]
    return Part(key, what, ratio_interval(logs, alpha=ALPHA), 1.0)


def _step(sample: Sample, new_tokens: int) -> float:
    """Seconds per token after the first."""
    return (sample.seconds - (sample.first or 0.0)) / (new_tokens - 1)


def _scaled(ratio: Interval, factor: float) -> Interval:
    """The logarithm of a ratio, times a positive factor."""
    low, mid, high = (factor * math.log(bound) if 0 < bound < math.inf else bound for bound in vars(ratio).values())
    return Interval(low if ratio.low > 0 else -math.inf, mid, high)
