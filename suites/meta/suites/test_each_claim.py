"""Each claim holds by some numbers, and each number that it rests on can contradict it."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from harness.errors import WorkerRaised
from harness.judging.claims import error_ratios, figures_of, mbu_of
from harness.judging.memory import MIB
from harness.judging.timings import MORE_TIME
from harness.paths.registry import PATHS
from harness.profiles.exceptions import Disclaimer
from harness.profiles.expectations import Expectations
from harness.profiles.profile import BASELINES, read_profiles
from harness.profiles.thresholds import TICKS
from harness.records.enums import Dtype, Outcome, Technique
from harness.records.measurements import MemoryComparison, Pair, Peaks, Sample
from harness.statistics import ALPHA, ratio_interval
from suites.claims import examples, sentences
from suites.claims.examples import EXAMPLES, NEEDS
from suites.claims.experiments import Traffic
from suites.claims.places import MINI
from suites.claims.registry import CLAIMS
from suites.conftest import REPOSITORY
from suites.meta.builders.made_up_answers import Answers, peaks, rounds
from suites.meta.builders.measurements import held, measured, timed
from suites.meta.builders.observations import AUTO, COMPILED, EAGER, ENGAGED, OUTSIDE, STATIC, STEPS, rank

SHRINKS = "sentence.every_parameter_shrinks"
LOCAL = ENGAGED["kernels.flash_attn2_local"]
SCHEMES = [path for path in PATHS if path.technique is Technique.QUANTIZATION]
INSIDE = replace(COMPILED, recompiles=())
AGAIN = replace(OUTSIDE, recompiles=("size mismatch",) * STEPS)
SQUARE, LINE, FLAT = (10, 40, 160), (10, 20, 40), (10, 10, 10)
OFFLOADED = ENGAGED["caching.offloaded"]
PART = replace(rank(*AUTO), bytes_whole=100, bytes_kept=60)
UNSPLIT = replace(PART, shards=(replace(PART.shards[0], kept=PART.shards[0].whole),))


def weighed(*, elsewhere):
    """Of an offloaded cache of 2 MiB."""
    sides = replace(held(100 * MIB), kv_elsewhere=elsewhere), held(100 * MIB)
    return replace(measured(), memory=MemoryComparison(*sides, kv_exact=True, own_weights=True))


def bits(more=0.5, *, dense=0):
    """Of two linears by each scheme, the second of which keeps so many bits more than it is named for."""
    return [({"a": path.scheme_bits + 0.2, "b": path.scheme_bits + more}, dense) for path in SCHEMES]


GOOD = {
    **{f"overview.{technique}.speed": ((), {}) for technique in TICKS},
    "overview.caching.speed": ((), {"speed": timed(0.5)}),
    "overview.attention.memory": ((), {"found": measured(peak=100 * MIB)}),
    "overview.kernels.memory": ((), {"found": measured(peak=100 * MIB)}),
    "overview.quantization.memory": (peaks(100, 400), {}),
    "overview.caching.memory": (peaks(100, 400), {}),
    "sentence.compiles_by_itself": ([INSIDE], {}),
    "sentence.first_run_warms_up": ([(5.0, [0.1] * 5)] * 7, {}),
    "sentence.outside_recompiles": ([AGAIN], {"inside": INSIDE}),
    "sentence.attention_grows_linearly": (peaks(*SQUARE, *LINE, *LINE), {}),
    "sentence.kernel_needs_no_package": ([(LOCAL, [])], {}),
    "sentence.kernels_fuse": ([Traffic(50, 500), Traffic(100, 600)], {}),
    SHRINKS: (bits(), {}),
    "sentence.cost_per_token_is_flat": ([rounds(1.0, 1.1, 1.0, 8.0)], {}),
    "sentence.offloading_keeps_one_layer": (
        [OFFLOADED],
        {"device": "cuda", "found": weighed(elsewhere=3 * MIB // 2)},
    ),
    "sentence.ranks_shard_and_cost_memory": ((), {"ranks": [PART] * 2}),
    "sentence.requests_beat_padding": ([rounds(1.0, 1.5)], {}),
    "sentence.speed_may_cost_memory": ([300 * MIB, 100 * MIB], {}),
    "sentence.stack_beats_its_best_part": ([rounds(1.0, 1.5, 1.2)], {}),
}
"""By claim: what workers answer, and what else is found."""

BAD = [
    *(
        (f"overview.{technique}.speed", "speedup", (), {"speed": timed(0.5)}, "speed over eager's is 0.5")
        for technique in TICKS
        if technique is not Technique.CACHING
    ),
    ("overview.caching.speed", "speedup", (), {"speed": timed(2.0)}, "speed over that without a cache is 0.5"),
    ("overview.attention.memory", "memory_ratio", (), {"found": measured(peak=900 * MIB)}, "without it is 2.14"),
    ("overview.kernels.memory", "memory_ratio", (), {"found": measured(peak=900 * MIB)}, "without it is 2.14"),
    ("overview.quantization.memory", "memory_ratio", peaks(400, 100), {}, "peak over that without it is 3."),
    ("overview.caching.memory", "memory_ratio", peaks(400, 100), {}, "peak over that without it is 3."),
    ("sentence.compiles_by_itself", "compiled_share", [STATIC], {}, "share of decode steps that ran compiled is 0, "),
    (
        "sentence.first_run_warms_up",
        "first_over_later",
        [(0.09, [0.1] * 5)] * 7,
        {},
        "time of the first run over later ones is 0.9",
    ),
    (
        "sentence.first_run_warms_up",
        "speedup",
        [(5.0, [0.1] * 5)] * 7,
        {"speed": timed(0.5)},
        "speed of later ones over eager's is 0.5",
    ),
    (
        "sentence.outside_recompiles",
        "recompiled",
        [replace(OUTSIDE, recompiles=())],
        {"inside": INSIDE},
        "recompilations of a function compiled outside is 0, but should be at least 1",
    ),
    (
        "sentence.outside_recompiles",
        "recompiled_per_step",
        [OUTSIDE],
        {"inside": INSIDE},
        "those per decode step is 0.1429, but should be at least 1",
    ),
    (
        "sentence.outside_recompiles",
        "recompiled_inside",
        [AGAIN],
        {"inside": replace(COMPILED, recompiles=("size mismatch",))},
        "those of all steps by generate is 1, but should be at most 0",
    ),
    (
        "sentence.attention_grows_linearly",
        "eager.exponent",
        peaks(*LINE, *LINE, *LINE),
        {},
        "exponent of the peak over the prompt's length of eager is 1, but should be at least 1.5",
    ),
    (
        "sentence.attention_grows_linearly",
        "exponent",
        peaks(*SQUARE, *SQUARE, *LINE),
        {},
        "exponent of the peak over the prompt's length of attention.sdpa is 2, but should be at most 1.5",
    ),
    (
        "sentence.attention_grows_linearly",
        "grows",
        peaks(*SQUARE, *FLAT, *LINE),
        {},
        "that of attention.sdpa is 0, but should be at least 0.5",
    ),
    (
        "sentence.kernel_needs_no_package",
        "kernel_calls",
        [(replace(LOCAL, kernel_calls=()), [])],
        {},
        "calls of attention is 0, but should be at least 1",
    ),
    (
        "sentence.kernel_needs_no_package",
        "imported",
        [(LOCAL, ["flash_attn"])],
        {},
        "modules imported of flash-attn is 1, but should be at most 0",
    ),
    (
        "sentence.kernel_needs_no_package",
        "unengaged",
        [(EAGER, [])],
        {},
        "claims of the path that are not engaged is 4, but should be at most 0",
    ),
    (
        "sentence.kernels_fuse",
        "launches_ratio",
        [Traffic(100, 500), Traffic(100, 600)],
        {},
        "launches over eager's is 1, but should be at most 1",
    ),
    (
        "sentence.kernels_fuse",
        "bytes_ratio",
        [Traffic(50, 700), Traffic(100, 600)],
        {},
        "bytes that operators touch over eager's is 1.167, but should be at most 1",
    ),
    (SHRINKS, "bits", bits(12.0), {}, "bits per weight of bnb_nf4 is 16, but should be at most 5"),
    (SHRINKS, "bits", [({}, 2), *bits()[1:]], {}, "bits per weight of bnb_nf4 is inf, but should be at most 5"),
    (SHRINKS, "dense", bits(dense=1), {}, "linears but the head that bnb_nf4 left dense is 1, but should be at most 0"),
    (
        "sentence.cost_per_token_is_flat",
        "flat",
        [rounds(1.0, 8.0, 1.0, 8.0)],
        {},
        "exponent of a step's time over the length with a cache is 1, but should be at most 0.5",
    ),
    (
        "sentence.cost_per_token_is_flat",
        "growing",
        [rounds(1.0, 1.1, 1.0, 1.1)],
        {},
        "exponent of a step's time over the length without one is 0.04583, but should be at least 0.5",
    ),
    (
        "sentence.offloading_keeps_one_layer",
        "elsewhere",
        [OFFLOADED],
        {"device": "cuda", "found": weighed(elsewhere=MIB)},
        "share of the cache that left the device is 0.5, but should be at least 0.75",
    ),
    (
        "sentence.ranks_shard_and_cost_memory",
        "split",
        (),
        {"ranks": [replace(PART, shards=())] * 2},
        "shards that the plan splits is 0, but should be at least 2",
    ),
    (
        "sentence.ranks_shard_and_cost_memory",
        "unsplit",
        (),
        {"ranks": [UNSPLIT] * 2},
        "of 2 shards that the plan splits, those kept whole is 2, but should be at most 0",
    ),
    (
        "sentence.ranks_shard_and_cost_memory",
        "total",
        (),
        {"ranks": [replace(PART, bytes_kept=50)] * 2},
        "bytes of parameters on all ranks over those of one model is 1, but should be at least 1",
    ),
    (
        "sentence.requests_beat_padding",
        "speedup",
        [rounds(2.0, 1.0)],
        {},
        "speed over a padded batch's is 0.5, but should be at least 1",
    ),
    (
        "sentence.speed_may_cost_memory",
        "speedup",
        [300 * MIB, 100 * MIB],
        {"speed": timed(0.5)},
        "speed over eager's is 0.5",
    ),
    (
        "sentence.stack_beats_its_best_part",
        "over_attention.sdpa",
        [rounds(1.0, 0.9, 1.2)],
        {},
        "speed over that of attention.sdpa is 0.9, but should be at least 1",
    ),
    (
        "sentence.stack_beats_its_best_part",
        "over_compilation.static_cache",
        [rounds(1.0, 1.5, 0.8)],
        {},
        "speed over that of compilation.static_cache is 0.8, but should be at least 1",
    ),
]
"""Claim, the part of it that is contradicted, what is found, and what is then said."""

ENGAGING = {
    "overview.quantization.memory": ["quantization.quanto_int4 short_b1"],
    "overview.caching.memory": ["stacks.sdpa+quantized_quanto4 cached_b8"],
    "sentence.outside_recompiles": ["compilation.static_cache decode_b1"],
    "sentence.attention_grows_linearly": [
        "eager length_1024",
        "attention.sdpa length_1024",
        "kernels.flash_attn2_local length_1024",
    ],
    "sentence.cost_per_token_is_flat": [
        f"{path} behind_{length}" for path in ("caching.dynamic", "caching.none") for length in (128, 1024)
    ],
    "sentence.requests_beat_padding": ["continuous_batching.sdpa uneven_b16", "attention.sdpa uneven_b16"],
    "sentence.stack_beats_its_best_part": [
        f"{path} whole_b1" for path in ("stacks.sdpa+static_cache", "attention.sdpa", "compilation.static_cache")
    ],
}
"""What else than its own case each claim must have seen engaged, and on which workload."""


@pytest.fixture(autouse=True)
def everything_installed(monkeypatch):
    monkeypatch.setattr(sentences, "runnable", lambda paths, _: (list(paths), []))


def asked(name, answers, changes):
    return Answers(name, *answers, **changes)


def kind(key):
    """What a part says, of whichever path."""
    return key if key.startswith(("eager.", "over_")) else key.rpartition(".")[2]


def parts_of(verdict):
    return {kind(key.rpartition(".")[0]) for key in verdict.numbers if key.endswith((".limit", ".least"))}


@pytest.mark.parametrize("name", GOOD)
def test_claim_holds_by_some_numbers(name):
    verdict = asked(name, *GOOD[name]).tried
    assert verdict.outcome is Outcome.PASS, verdict.message


@pytest.mark.parametrize(("name", "part", "answers", "changes", "told"), BAD)
def test_claim_does_not_hold_by_others(name, part, answers, changes, told):
    verdict = asked(name, answers, changes).tried
    assert verdict.outcome is Outcome.DOES_NOT_HOLD, verdict.message
    assert verdict.message.startswith(f"{name}: {told}") or told in verdict.message.partition(", but should be ")[0]
    assert part in parts_of(verdict)


MAY = {("sentence.speed_may_cost_memory", "whole_ratio")}
"""What only may be, and so is not contradicted."""


def test_every_part_of_every_claim_is_tried():
    """Those of examples, which rest on no number, below."""
    assert GOOD.keys() | {claim.name for claim in EXAMPLES} == {claim.name for claim in CLAIMS}
    known = {(name, part) for name in GOOD for part in parts_of(asked(name, *GOOD[name]).tried)}
    broken = {(name, part) for name, part, *_ in BAD}
    assert known - broken == MAY
    assert broken - known == {(SHRINKS, "dense")}  # told only where there is one


@pytest.mark.parametrize("name", GOOD)
def test_claim_measures_nothing_beside_its_case_that_is_not_engaged(name):
    tried = asked(name, *GOOD[name])
    assert tried.tried.outcome is Outcome.PASS
    assert tried.engaging == ENGAGING.get(name, [])


def test_what_only_may_be_is_not_refuted():
    verdict = asked("sentence.speed_may_cost_memory", [50 * MIB, 100 * MIB], {}).tried
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "over eager's is 0.5 (0.31 to 0.69), but should be at least 1 (what may be need not" in verdict.message


def test_kernel_of_the_hub_shows_as_attention():
    """Our local kernels count their calls, and it does not."""
    name, hub = "sentence.kernel_needs_no_package", ENGAGED["kernels.flash_attn2_hub"]
    assert not hub.kernel_calls
    assert asked(name, [(hub, [])], {"device": "cuda"}).tried.outcome is Outcome.PASS
    bare = asked(name, [(EAGER, [])], {"device": "cuda"}).tried
    assert bare.outcome is Outcome.DOES_NOT_HOLD
    assert "claims of the path that are not engaged is 3, but should be at most 0" in bare.message


def test_scheme_that_refuses_hides_no_other(monkeypatch):
    """It is told, as one is whose needs are not met, or that has another dtype than the case."""
    refusing = WorkerRaised("Incompatible: cannot load", incompatible=True)
    monkeypatch.setattr(sentences, "runnable", lambda paths, _: (list(paths)[1:], ["without bnb_nf4: needs it"]))
    verdict = asked(SHRINKS, [refusing, *bits()[2:]], {}).tried
    assert verdict.outcome is Outcome.PASS
    assert "without bnb_nf4: needs it; without quantization.bnb_nf4_double: Incompatible: cannot" in verdict.message
    assert verdict.message.endswith("fine_grained_fp8 in fp16")
    wrong = asked(SHRINKS, [refusing, *bits(12.0)[2:]], {}).tried
    assert wrong.outcome is Outcome.DOES_NOT_HOLD
    assert asked(SHRINKS, [WorkerRaised("KeyError: a")], {}).tried.outcome is Outcome.ERROR


def test_disclaimer_of_a_scheme_hides_no_other():
    only = Disclaimer(SHRINKS, "kept one to a byte", ("torchao_int4.bits",))
    [place] = [i for i, path in enumerate(SCHEMES) if path.name == "quantization.torchao_int4"]
    answers = bits()
    answers[place] = ({"a": 9.25}, 0)
    changes = {"expectations": Expectations(disclaimers={SHRINKS: only})}
    verdict = asked(SHRINKS, answers, changes).tried
    assert verdict.outcome is Outcome.DISCLAIMED
    assert "bits per weight of torchao_int4 is 9.25, but should be at most 5 (its profile says" in verdict.message
    answers[-1] = ({"a": 16.0}, 0)
    verdict = asked(SHRINKS, answers, changes).tried
    assert verdict.outcome is Outcome.DOES_NOT_HOLD
    assert verdict.message.startswith(f"{SHRINKS}: bits per weight of fine_grained_fp8 is 16, but should be at most 9")


def test_disclaimers_of_all_profiles_name_parts():
    """One of a part that there is none of would never be told."""
    known = [each for profile in read_profiles(REPOSITORY / BASELINES) for each in profile.disclaimers if each.parts]
    assert known
    for each in known:
        assert {f"{part}.limit" for part in each.parts} <= asked(each.claim, *GOOD[each.claim]).tried.numbers.keys()


@pytest.mark.parametrize("name", ["overview.quantization.memory", SHRINKS])
def test_weights_are_those_of_a_model_that_was_named(name):
    """Else of one that has more of them than the tiny ones."""
    for named, recipe in ((False, MINI.name), (True, "tiny_llama3")):
        tried = asked(name, *GOOD[name])
        tried.named = named
        assert tried.tried.recipe == ("tiny_llama3" if name == SHRINKS else recipe)
        assert {run.setup.recipe.name for run in tried.runs} == {recipe}


def test_bytes_that_are_not_counted_are_missed():
    """On CUDA, where kernels are no operators of torch."""
    verdict = asked("sentence.kernels_fuse", [Traffic(50, 0), Traffic(100, 0)], {"device": "cuda"}).tried
    assert verdict.outcome is Outcome.PASS
    assert verdict.message.endswith("50 and 100 kernels; bytes were not counted")


def test_memory_that_was_not_measured_right_is_no_figure():
    """Less than what must be held cannot be."""
    verdict = asked("overview.attention.speed", (), {"found": measured(peak=MIB)}).tried
    assert verdict.outcome is Outcome.PASS
    assert "memory_ratio" not in verdict.numbers
    assert "claimed at least 1; memory: ERROR, " in verdict.message


def test_open_claim_tells_what_would_tell_more():
    """More time only where time was up."""
    noisy = timed(1.0, noise=0.2)
    for stopped, todo in (("pairs", "ask on a quieter machine"), ("seconds", MORE_TIME)):
        verdict = asked("overview.attention.speed", (), {"speed": replace(noisy, stopped=stopped)}).tried
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert f"({todo})" in verdict.message
    verdict = asked("overview.attention.memory", (), {"found": measured(peak=420 * MIB)}).tried
    assert "should be at most 1 (ask of a model that holds more" in verdict.message


def test_rounds_tell_whether_time_was_up_and_have_it_beyond_the_deadline():
    """Every other run takes more than a padded batch."""
    for count, todo in ((14, MORE_TIME), (40, "ask on a quieter machine")):
        rows = [1.0, 2.0] * (count // 2)
        uneven = replace(rounds(1.0, 1.5, count=count), arms=(as_samples(rows), as_samples([1.5] * count)))
        tried = asked("sentence.requests_beat_padding", [uneven], {})
        assert f"({todo})" in tried.tried.message
        assert tried.more == [7.0]


def as_samples(seconds):
    return tuple(Sample(each, each / 2) for each in seconds)


def test_cached_runs_have_an_error_ratio_and_an_mbu():
    """The error ratio is the control's, the MBU that of the side which has a cache."""
    found = mbu_case()
    assert mbu_of(found)["mbu"] == pytest.approx(0.5)
    assert mbu_of(found, of_eager=True)["mbu"] == pytest.approx(0.25)
    verdict = asked("overview.caching.speed", (), {"found": found}).tried
    assert verdict.numbers["mbu"] == pytest.approx(0.25)
    assert error_ratios(verdict) == {"fp32.rho": 1.01}
    assert figures_of(found, verdict)["mbu"] == pytest.approx(0.5)
    assert mbu_of(replace(found, peaks=None)) == {}


def mbu_case():
    """32 steps of a byte each in 0.5 s and 1 s, on a machine that moves 128 bytes a second."""
    pairs = [Pair(Sample(1.0, 0.5), Sample(2.0, 1.0))] * 20
    found = measured(speed=replace(timed(), pairs=tuple(pairs)))
    return replace(found, peaks=Peaks(128.0, 100.0, {Dtype.FP32: 100.0}, 1.0))


def test_values_of_processes_of_their_own_count_in_full():
    """Seven of a series are too few for bounds, seven that are independent are not."""
    values = [0.1, 0.1, 0.1, 0.2, 0.3, 0.3, 0.3]
    assert ratio_interval(values, alpha=ALPHA).low == 0
    assert ratio_interval(values, alpha=ALPHA, independent=True).low == pytest.approx(1.105, abs=1e-3)


@pytest.mark.parametrize("technique", NEEDS)
def test_example_that_runs_holds_and_tells_what_will_go(monkeypatch, technique):
    monkeypatch.setattr(examples, "run_example", lambda *_: ("", ["`x` is deprecated"]))
    verdict = Answers(f"example.{technique}").tried
    assert (verdict.outcome, verdict.numbers) == (Outcome.PASS, {"deprecated": 1})
    assert verdict.message.startswith("runs, and says: `x` is deprecated")
    monkeypatch.setattr(examples, "run_example", lambda *_: ("", []))
    assert Answers(f"example.{technique}").tried.message.startswith("runs, and warns of no deprecation")


def test_example_that_fails_does_not_hold_unless_a_need_is_unmet(monkeypatch):
    monkeypatch.setattr(examples, "run_example", lambda *_: ("ValueError: x", []))
    name = "example.compilation"
    verdict = Answers(name).tried
    assert verdict.outcome is Outcome.DOES_NOT_HOLD
    assert verdict.message == (
        f"{name}: ends with ValueError: x, but should run (the example's needs are met here: ask transformers)"
    )
    known = Expectations(disclaimers={name: Disclaimer(name, "no such thing here")})
    disclaimed = Answers(name, expectations=known).tried
    assert disclaimed.outcome is Outcome.DISCLAIMED
    assert disclaimed.message.endswith("should run (its profile says so: no such thing here)")
    unmet = Answers("example.attention").tried
    assert unmet.outcome is Outcome.UNSUPPORTED
    assert unmet.message.endswith("(without it: ValueError: x)")


def test_example_that_hangs_is_timed_out(monkeypatch):
    def hangs(*_):
        raise subprocess.TimeoutExpired("python", 1.0)

    monkeypatch.setattr(examples, "run_example", hangs)
    verdict = Answers("example.compilation").tried
    assert verdict.outcome is Outcome.TIMED_OUT
    assert verdict.message == "example.compilation: no result after 1 s (read logs/example.compilation.log)"
