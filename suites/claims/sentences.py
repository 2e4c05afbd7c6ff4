"""The overview's sentences about speed and memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from harness.errors import WorkerRaised
from harness.execution.lazy import LazyModule
from harness.execution.setup import CaseRun
from harness.judging.claims import HEAVIER, ClaimNumber, exactly, memory_ratio
from harness.judging.timings import DROPPED, MORE_TIME, QUIETER, speedup
from harness.paths.base import Optimization, engagement
from harness.paths.caching import DynamicCache, NoCache, StaticCache
from harness.paths.compilation import CompiledStaticCache, allowed_for_lengths
from harness.paths.eager import Eager
from harness.paths.registry import PATHS
from harness.paths.tensor_parallel import stays_whole
from harness.records.enums import Property, Technique
from harness.records.measurements import Sample
from harness.records.run import Verdict
from harness.records.workload import ModelSpec
from harness.statistics import ALPHA, LEAST, Interval, ratio_interval
from suites.claims.asking import ClaimTrial
from suites.claims.places import LENGTHS, UNEVEN, path_named, runnable, steps, weighty

experiments = LazyModule("suites.claims.experiments")
weighing = LazyModule("harness.execution.memory.weighing")

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


def compiles_by_itself(asked: ClaimTrial) -> Verdict:
    asked.equivalent()
    seen = asked.ask(experiments.observe, asked.run(OnlyStatic()))
    share = seen.compiled_calls / seen.decode_steps
    return asked.verdict(
        [ClaimNumber("compiled_share", "share of decode steps that ran compiled", exactly(share), 1.0)]
    )


def first_run_warms_up(asked: ClaimTrial) -> Verdict:
    """The first run takes longer than later ones, as any does; and these are faster than eager's."""
    _, measured = asked.judged(Property.SPEED)
    logs = []
    for _ in range(LOADS):
        first, later = asked.ask(experiments.first_and_later, asked.run(), 5)
        logs.append(math.log(first / median(later)))
    first = ratio_interval(logs, alpha=ALPHA, independent=True)
    later = speedup(measured.speed)
    parts = [
        ClaimNumber("first_over_later", "time of the first run over later ones", first, 1.0),
        ClaimNumber(
            "speedup", "speed of later ones over eager's", later, 1.0, todo=_more(measured.speed.stopped == "seconds")
        ),
    ]
    return asked.verdict(parts, told=f"{LOADS} fresh workers")


def outside_recompiles(asked: ClaimTrial) -> Verdict:
    """One prompt, in one shape: whatever is compiled anew there is compiled for the cache that grows."""
    asked.equivalent()
    outside = asked.ask(experiments.observe, asked.run())
    inside = asked.engaged(asked.run(CompiledStaticCache()))
    again, by_generate = len(outside.recompiles), len(inside.recompiles)
    share, allowed = again / outside.decode_steps, allowed_for_lengths(inside)
    parts = [
        ClaimNumber("recompiled", "recompilations of a function compiled outside", exactly(again), 1),
        ClaimNumber("recompiled_per_step", "those per decode step", exactly(share), 1),
        ClaimNumber(
            "recompiled_inside", "those of all steps by generate", exactly(by_generate), allowed, at_least=False
        ),
    ]
    return asked.verdict(parts, told=f"{outside.decode_steps} decode steps")


def attention_grows_linearly(asked: ClaimTrial) -> Verdict:
    """Peak beyond what must be held, over the prompt's length: the exponents between neighbouring lengths. What is told
    of them is their range, and no interval with confidence."""
    asked.equivalent()
    case = asked.case
    parts = []
    others, told = runnable(map(path_named, ("attention.sdpa", "kernels.flash_attn2_local")), case.device)
    told += [
        f"without {path.name}: not in {case.dtype}" for path in others if case.dtype not in path.dtypes(case.device)
    ]
    for path in (Eager(), *(path for path in others if case.dtype in path.dtypes(case.device))):
        runs = [asked.run(path, workload) for workload in LENGTHS]
        asked.engaged(runs[0])
        held = [asked.ask(weighing.weigh, run) for run in runs]
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
        parts.append(ClaimNumber(f"{path.name}.exponent", what, got, 1 + HALF_POWER, at_least=eager, todo=HEAVIER))
        if not eager:
            parts.append(ClaimNumber(f"{path.name}.grows", f"that of {path.name}", got, HALF_POWER, todo=HEAVIER))
    lengths = ", ".join(str(load.longest) for load in LENGTHS)
    return asked.verdict(parts, told="; ".join([f"each the range between neighbours of {lengths} tokens", *told]))


def kernel_needs_no_package(asked: ClaimTrial) -> Verdict:
    """A local kernel counts its calls, the hub's shows as an attention operator; that none but it ran is what the path
    claims."""
    equivalence = asked.equivalent()
    seen, imported = asked.ask(experiments.observe_without, asked.run(), "flash_attn")
    unengaged = sum(not claim.holds for claim in engagement(asked.optimization, seen).claims)
    parts = [
        ClaimNumber("kernel_calls", "calls of attention", exactly(len(seen.kernel_calls or seen.attention)), 1),
        ClaimNumber("imported", "modules imported of flash-attn", exactly(len(imported)), 0, at_least=False),
        ClaimNumber("unengaged", "claims of the path that are not engaged", exactly(unengaged), 0, at_least=False),
    ]
    return asked.verdict(parts, told=equivalence.message)


def kernels_fuse(asked: ClaimTrial) -> Verdict:
    asked.equivalent()
    ours, eagers = (asked.ask(experiments.traffic, run) for run in (asked.run(), asked.run(Eager())))
    launches = exactly(ours.launches / eagers.launches)
    parts = [ClaimNumber("launches_ratio", "launches over eager's", launches, below(1), at_least=False)]
    if eagers.bytes:
        moved = exactly(ours.bytes / eagers.bytes)
        parts.append(
            ClaimNumber("bytes_ratio", "bytes that operators touch over eager's", moved, below(1), at_least=False)
        )
    told = f"{ours.launches} and {eagers.launches} {'kernels' if asked.case.device == 'cuda' else 'operators'}"
    return asked.verdict(parts, told=told if eagers.bytes else f"{told}; bytes were not counted")


def every_parameter_shrinks(asked: ClaimTrial) -> Verdict:
    """Of each scheme, the linear layer that keeps most bits per weight. What cannot be loaded here is told."""
    asked.equivalent()
    model = weighty(asked.case.device, named=asked.named) or asked.case.recipe
    schemes, told = runnable((path for path in PATHS if path.technique is Technique.QUANTIZATION), asked.case.device)
    parts = []
    for path in schemes:
        found, why = _shrinks(asked, path, model)
        parts += found
        told += [why] if why else []
    return asked.verdict(parts, told="; ".join([f"{model.name}, the most of all linears", *told]))


def _shrinks(asked: ClaimTrial, path: Optimization, model: ModelSpec) -> tuple[list[ClaimNumber], str]:
    """(what one scheme shows, in the case's dtype if it has that; what must be told of it)."""
    own, known = asked.case.dtype, path.dtypes(asked.case.device)
    dtype, name = own if own in known else known[0], path.name.partition(".")[2]
    try:
        bits, dense = asked.ask(experiments.bits_per_weight, replace(asked.run(path, model=model), dtype=dtype))
    except WorkerRaised as error:
        if not error.incompatible:
            raise
        return [], f"without {path.name}: {error}"
    most = max(bits.values(), default=math.inf)  # of none that is rounded, none has shrunk
    parts = [
        ClaimNumber(
            f"{name}.bits", f"bits per weight of {name}", exactly(most), path.scheme_bits + MORE_BITS, at_least=False
        )
    ]
    if dense or not bits:
        left = f"linears but the head that {name} left dense"
        parts.append(ClaimNumber(f"{name}.dense", left, exactly(dense), 0, at_least=False))
    return parts, "" if dtype is own else f"{name} in {dtype}"


def cost_per_token_is_flat(asked: ClaimTrial) -> Verdict:
    """Time of a step behind a long text over that behind a short one, with a cache and without, as an exponent."""
    asked.equivalent()
    case = asked.case
    loads = steps(case.device)
    arms = tuple(asked.run(path, load) for path in (DynamicCache(), NoCache()) for load in loads)
    rounds = _timed(asked, arms)
    short, long = (load.longest for load in loads)
    parts = []
    for place, what, growing in ((0, "with a cache", False), (2, "without one", True)):
        pairs = zip(rounds.arms[place], rounds.arms[place + 1], strict=True)
        logs = [math.log(_step(more, loads[1].new_tokens) / _step(less, loads[0].new_tokens)) for less, more in pairs]
        got = _scaled(ratio_interval(logs, alpha=ALPHA), 1 / math.log(long / short))
        key = "growing" if growing else "flat"
        exponent, todo = f"exponent of a step's time over the length {what}", _more(len(logs) < ROUNDS)
        parts.append(ClaimNumber(key, exponent, got, HALF_POWER, at_least=growing, todo=todo))
    return asked.verdict(parts, told=f"{short} and {long} tokens, {case.recipe.name}")


def offloading_keeps_one_layer(asked: ClaimTrial) -> Verdict:
    """Looked at after the run, when nothing is fetched ahead any more: while it runs, transformers has the next layer
    on its way to the device, beside the current one."""
    _, measured = asked.judged(Property.MEMORY)
    held = measured.memory.candidate
    elsewhere = exactly(held.kv_elsewhere / held.kv)
    seen = asked.ask(experiments.observe, asked.run())
    layers = len(seen.eager.cache_layers) // len(seen.caches)
    part = ClaimNumber("elsewhere", "share of the cache that left the device", elsewhere, (layers - 1) / layers)
    return asked.verdict([part], told="after the run; during it the next layer is on its way too")


def ranks_shard_and_cost_memory(asked: ClaimTrial) -> Verdict:
    asked.equivalent()
    launch = asked.optimization.launch()
    ranks = asked.cases.runner.observe_ranks(asked.case, asked.optimization, count=launch.ranks)
    kept, whole = sum(rank.bytes_kept for rank in ranks), ranks[0].bytes_whole
    shards = [shard for rank in ranks for shard in rank.shards if not stays_whole(shard)]
    unsplit = sum(math.prod(shard.kept) * len(ranks) != math.prod(shard.whole) for shard in shards)
    parts = [
        ClaimNumber("split", "shards that the plan splits", exactly(len(shards)), len(ranks)),
        ClaimNumber(
            "unsplit",
            f"of {len(shards)} shards that the plan splits, those kept whole",
            exactly(unsplit),
            0,
            at_least=False,
        ),
        ClaimNumber(
            "total", "bytes of parameters on all ranks over those of one model", exactly(kept / whole), above(1)
        ),
    ]
    return asked.verdict(parts, told=f"{ranks[0].bytes_kept / whole:.3f} of them on each rank")


def requests_beat_padding(asked: ClaimTrial) -> Verdict:
    """The same requests, as they come and as one padded batch, both with sdpa. That prefills are cut into chunks is
    among what the path claims, and the longest prompt takes several."""
    asked.equivalent()
    serving = replace(asked.optimization, tokens=UNEVEN.longest // 2)
    rounds = _timed(asked, (asked.run(serving, UNEVEN), asked.run(path_named("attention.sdpa"), UNEVEN)))
    lengths = sorted(prompt.length for prompt in UNEVEN.prompts)
    told = f"{len(lengths)} prompts of {lengths[0]} to {lengths[-1]} tokens; steps of at most {serving.tokens}"
    return asked.verdict([_faster(rounds, 0, 1, key="speedup", what="speed over a padded batch's")], told=told)


def speed_may_cost_memory(asked: ClaimTrial) -> Verdict:
    """Compiled decoding, ticked for speed alone: what a fresh process holds in all, the compiler's share included."""
    _, measured = asked.judged(Property.SPEED)
    peaks = [asked.ask(experiments.peak_of_all, run) for run in (asked.run(), asked.run(Eager()))]
    more, faster = memory_ratio(*peaks, device=asked.case.device), speedup(measured.speed)
    what = "peak of a fresh process, from loading to the second run, over eager's"
    parts = [
        ClaimNumber("speedup", "speed over eager's", faster, 1.0, todo=_more(measured.speed.stopped == "seconds")),
        ClaimNumber("whole_ratio", what, more, above(1), todo=HEAVIER, refutable=False),
    ]
    return asked.verdict(parts)


def stack_beats_its_best_part(asked: ClaimTrial) -> Verdict:
    asked.equivalent()
    parts = ("attention.sdpa", "compilation.static_cache")
    rounds = _timed(asked, (asked.run(), *(asked.run(path_named(name)) for name in parts)))
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


def _timed(asked: ClaimTrial, arms: tuple[CaseRun, ...]) -> experiments.Rounds:
    """Rounds of arms that are engaged. Raises Settled if one is not, or if the machine was too noisy, or shared."""
    for arm in arms:
        asked.engaged(arm)
    until, seconds = experiments.Until(ROUNDS, asked.cases.timing_seconds), asked.cases.timing_seconds
    rounds = asked.ask(experiments.time_rounds, arms, until, more=seconds)
    if rounds.foreign:
        raise asked.unknown(f"{rounds.foreign} foreign processes computed on the device")
    count = len(rounds.arms[0]) + rounds.dropped
    if len(rounds.arms[0]) < LEAST or rounds.dropped > DROPPED * count:
        raise asked.unknown(f"{rounds.dropped} of {count} rounds were dropped")
    return rounds


def _faster(rounds: experiments.Rounds, ours: int, theirs: int, *, key: str, what: str) -> ClaimNumber:
    pairs = zip(rounds.arms[ours], rounds.arms[theirs], strict=True)
    logs = [math.log(other.seconds / own.seconds) for own, other in pairs]
    return ClaimNumber(key, what, ratio_interval(logs, alpha=ALPHA), 1.0, todo=_more(len(logs) < ROUNDS))


def _more(out_of_time: bool) -> str:  # noqa: FBT001  one word of what befell the sampling
    """What would tell more of a speed."""
    return MORE_TIME if out_of_time else QUIETER


def _step(sample: Sample, new_tokens: int) -> float:
    """Seconds per token after the first."""
    return (sample.seconds - (sample.first or 0.0)) / (new_tokens - 1)


def _scaled(ratio: Interval, factor: float) -> Interval:
    """The logarithm of a ratio, times a positive factor."""
    low, mid, high = (factor * math.log(bound) if 0 < bound < math.inf else bound for bound in vars(ratio).values())
    return Interval(low if ratio.low > 0 else -math.inf, mid, high)
