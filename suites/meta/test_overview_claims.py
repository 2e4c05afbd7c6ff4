"""What the overview says, held against numbers: each claim holds by some of them, and does not by others."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from harness.claims import Part, Statement, claim_verdict, exactly, judge_claim, memory_ratio
from harness.errors import WorkerRaised, WorkerTimedOut
from harness.judge import verdict_on
from harness.machine.allowances import Disclaimer
from harness.machine.profile import BASELINES, read_profiles
from harness.machine.standard import Standard
from harness.measured import Sample
from harness.measurement.memory_rules import MIB
from harness.measurement.statistics import Interval
from harness.measurement.thresholds import TICKS
from harness.paths import PATHS
from harness.plan import plan
from harness.records import Case, Run
from harness.report.overview import tick_name
from harness.vocabulary import Dtype, Outcome, Property, Technique
from suites.claims import examples, overview_examples, sentences, ticks
from suites.claims.__main__ import tables
from suites.claims.asking import Asked, Settled, try_claim
from suites.claims.conftest import planned_for
from suites.claims.experiments import Rounds, Traffic
from suites.claims.places import PREFILL, SCHEMES, TINY, path_named
from suites.claims.registry import CLAIMS
from suites.conftest import CATALOGUE, REPOSITORY
from suites.meta.observations import AUTO, COMPILED, EAGER, ENGAGED, OUTSIDE, STATIC, rank
from suites.meta.test_planning import CPU, GPU
from suites.meta.test_regression import held, measured, timed

CASE = Case("attention.sdpa", Technique.ATTENTION, TINY, PREFILL, "cpu", Dtype.FP32)
STATED = Statement("sentence.some", CASE)
FASTER = Part("speedup", "speed over eager's", Interval(1.1, 1.2, 1.3), 1.0)
MAYBE = replace(FASTER, got=Interval(0.9, 1.2, 1.3))
SLOWER = replace(FASTER, got=Interval(0.7, 0.8, 0.9))
SMALLER = Part("ratio", "peak over eager's", exactly(0.5), 1.0, at_least=False)


def replan(workloads, *, recipes=(), path="", inventory=CPU, device="cpu"):
    known = replace(CATALOGUE, workloads=workloads, paths=(path_named(path),))
    return plan(known, inventory, models=recipes or CATALOGUE.models, device=device)


@pytest.mark.parametrize(
    ("parts", "outcome", "message"),
    [
        ([FASTER], Outcome.PASS, "speed over eager's is 1.2 (1.1 to 1.3), claimed at least 1"),
        (
            [FASTER, SMALLER],
            Outcome.PASS,
            "speed over eager's is 1.2 (1.1 to 1.3), claimed at least 1; peak over eager's is 0.5, claimed at most 1",
        ),
        (
            [SMALLER, SLOWER, MAYBE],
            Outcome.DOES_NOT_HOLD,
            (
                "sentence.some: speed over eager's is 0.8 (0.7 to 0.9), but should be at least 1 (if this is what "
                "such hardware does, say so in [[disclaimers]] of its profile); peak over eager's is 0.5, claimed at "
                "most 1; speed over eager's is 1.2 (0.9 to 1.3), claimed at least 1"
            ),
        ),
        (
            [MAYBE],
            Outcome.INCONCLUSIVE,
            (
                "sentence.some: speed over eager's is 1.2 (0.9 to 1.3), but should be at least 1 (ask on a quieter "
                "machine, and of speeds allow more with --timing-seconds)"
            ),
        ),
        (
            [replace(SMALLER, got=exactly(1.5))],
            Outcome.DOES_NOT_HOLD,
            (
                "sentence.some: peak over eager's is 1.5, but should be at most 1 (if this is what such hardware does, "
                "say so in [[disclaimers]] of its profile)"
            ),
        ),
    ],
)
def test_claim_holds_if_all_parts_do_and_fails_with_the_first_that_does_not(parts, outcome, message):
    verdict = judge_claim(STATED, parts)
    assert (verdict.outcome, verdict.message) == (outcome, message)
    assert (verdict.case, verdict.property, verdict.path) == ("sentence.some", Property.CLAIM, CASE.path)


def test_claim_without_a_number_is_none():
    with pytest.raises(ValueError, match=r"sentence\.some: rests on no number"):
        judge_claim(STATED, [])


def test_disclaimed_claim_is_told_with_its_numbers_and_reason_and_fails_nothing():
    """Only what does not hold is disclaimed: what holds, or is unknown, stays what it is."""
    stated = replace(STATED, disclaimer=Disclaimer("sentence.some", "no bandwidth to save here"))
    verdict = judge_claim(stated, [SLOWER])
    assert verdict.outcome is Outcome.DISCLAIMED
    assert not verdict.outcome.fails
    assert not verdict.outcome.skips
    assert "is 0.8 (0.7 to 0.9), but should be at least 1 (its profile says so: no bandwidth" in verdict.message
    assert verdict.numbers == {"speedup": 0.8, "speedup.low": 0.7, "speedup.high": 0.9, "speedup.limit": 1.0}
    holds = judge_claim(stated, [FASTER])
    assert holds.outcome is Outcome.PASS
    assert holds.message.endswith("; disclaimed, and holds: its profile may say so no longer")
    assert judge_claim(stated, [MAYBE]).outcome is Outcome.INCONCLUSIVE


def test_disclaimer_of_one_number_covers_no_other():
    """What nobody has disclaimed fails, and stands first."""
    stated = replace(STATED, disclaimer=Disclaimer("sentence.some", "slow here", part="speed*"))
    larger = replace(SMALLER, got=exactly(1.5))
    assert judge_claim(stated, [SLOWER, SMALLER]).outcome is Outcome.DISCLAIMED
    verdict = judge_claim(stated, [SLOWER, larger])
    assert verdict.outcome is Outcome.DOES_NOT_HOLD
    assert verdict.message.startswith(
        "sentence.some: peak over eager's is 1.5, but should be at most 1 (if this is what"
    )


def test_peaks_are_told_apart_only_beyond_what_weighing_adds():
    """16 MiB and 3 % of a process; on CUDA the allocator is exact to 2 MiB and 1 %."""
    assert memory_ratio(90 * MIB, 100 * MIB, device="cpu") == Interval(0.71, 0.9, 1.09)
    assert memory_ratio(90 * MIB, 100 * MIB, device="cuda") == Interval(0.87, 0.9, 0.93)
    assert memory_ratio(1 * MIB, 100 * MIB, device="cpu").low == 0


def test_every_tick_is_a_claim_and_every_claim_has_a_case():
    """On the CPU and on an accelerator; with models that were named, on the first of them."""
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)
    assert [name for name in names if name.startswith("overview.")] == [
        tick_name(technique, about) for technique, ticked in TICKS.items() for about in ticked
    ]
    assert sum(len(ticked) for ticked in TICKS.values()) == 11
    assert sum(name.startswith("example.") for name in names) == 7
    for claim in CLAIMS:
        own = planned_for(claim, replan, named=False)
        assert (own.case.recipe, own.case.path, own.id, own.slow) == (TINY, claim.place("cpu").path, claim.name, False)
        assert planned_for(claim, replan, named=True).case.recipe == CATALOGUE.models[0]

    on_gpu = partial(replan, inventory=GPU, device="cuda")
    entries = [planned_for(claim, on_gpu, named=False) for claim in CLAIMS]
    assert {entry.case.recipe.name for entry in entries} == {"shape_qwen3_0_6b"}
    assert all("cuda" in entry.markers for entry in entries)


def test_disclaimers_of_all_profiles_name_claims():
    """One of a claim that there is none of would never be told."""
    names = {claim.name for claim in CLAIMS}
    disclaimed = {each.claim for profile in read_profiles(REPOSITORY / BASELINES) for each in profile.disclaimers}
    assert disclaimed
    assert disclaimed <= names


class Answers(Asked):
    """A claim that is asked with made-up answers of workers."""

    def __init__(self, name, *answers, found=None, speed=None, plans=replan):
        claim = next(claim for claim in CLAIMS if claim.name == name)
        planned = planned_for(claim, plans, named=False)
        found = found or measured(planned.case.id, speed=speed)
        passed = verdict_on(planned.case, Property.EQUIVALENCE, Outcome.PASS, "engaged", {"fp32.rho": 1.01})
        runner = SimpleNamespace(setup=lambda case: SimpleNamespace(recipe=case.recipe), seconds=1.0)
        super().__init__(planned, lambda *_: (passed, found), None, runner, Standard(), 1.0)
        self.claim, self.answers, self.shown = claim, iter(answers), []

    def ask(self, function, *arguments, more_seconds=0.0):
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def engaged(self, path, setup):
        """Of made-up answers nothing is engaged; whatever should have been is noted."""
        self.shown.append(path.name)

    @property
    def tried(self):
        return try_claim(self.claim, self)


def rounds(*seconds, **others):
    """Forty equal rounds of arms that take so long, the first token half of it."""
    return replace(Rounds(tuple(tuple(Sample(each, each / 2) for _ in range(40)) for each in seconds), 0), **others)


def peaks(*mebibytes):
    """Of workers that hold so much beyond what they must."""
    return [replace(held(), peak=held().least + each * MIB) for each in mebibytes]


COMPILED_INSIDE = replace(COMPILED, recompiles=())
KERNEL, HUB_KERNEL = (ENGAGED[f"kernels.flash_attn2_{where}"] for where in ("local", "hub"))
EVERY_STEP = replace(OUTSIDE, recompiles=("another length",) * OUTSIDE.decode_steps)
KERNELS = [path_named(name) for name in ("attention.sdpa", "kernels.flash_attn2_local")]
LOADABLE = [path for path in SCHEMES if path.name not in {"quantization.hqq4", "quantization.fine_grained_fp8"}]
BITS = [path.nominal_bits + 0.5 for path in LOADABLE]
WARM, COLD = [(5.0, [0.1] * 5)] * 7, [(0.09, [0.1] * 5)] * 7
SQUARE, LINE = (10, 40, 160), (10, 20, 40)


@pytest.mark.parametrize(
    ("name", "good", "bad", "told"),
    [
        ("sentence.compiles_by_itself", [COMPILED_INSIDE], [STATIC], "share of decode steps that ran compiled is 0, "),
        ("sentence.first_run_warms_up", WARM, COLD, "first run over later ones is 0.9"),
        (
            "sentence.outside_recompiles",
            [EVERY_STEP, COMPILED_INSIDE],
            [replace(OUTSIDE, recompiles=()), COMPILED_INSIDE],
            "recompilations of a function compiled outside is 0, but should be at least 1",
        ),
        (
            "sentence.attention_grows_linearly",
            peaks(*SQUARE, *LINE, *LINE),
            peaks(*SQUARE, *SQUARE, *LINE),
            "exponent of the peak over the prompt's length of attention.sdpa is 2, but should be at most 1.5",
        ),
        (
            "sentence.kernels_fuse",
            [Traffic(50, 500), Traffic(100, 600)],
            [Traffic(100, 500), Traffic(100, 600)],
            "launches over eager's is 1, but should be at most 1",
        ),
        (
            "sentence.every_parameter_shrinks",
            [({"a": bits}, 0) for bits in BITS],
            [({"a": bits, "b": 16.0}, 0) for bits in BITS],
            "bits per weight of bnb_nf4 is 16, but should be at most 5",
        ),
        (
            "sentence.cost_per_token_is_flat",
            [rounds(1.0, 1.1, 1.0, 8.0)],
            [rounds(1.0, 8.0, 1.0, 8.0)],
            "exponent of a step's time over the length with a cache is 1, but should be at most 0.5",
        ),
        (
            "sentence.cost_per_token_is_flat",
            [rounds(1.0, 1.1, 1.0, 8.0)],
            [rounds(1.0, 1.1, 1.0, 1.1)],
            "exponent of a step's time over the length without one is 0.04583, but should be at least 0.5",
        ),
        (
            "sentence.every_parameter_shrinks",
            [({"a": bits}, 0) for bits in BITS],
            [({"a": bits}, 1) for bits in BITS],
            "linears but the head that quantization.bnb_nf4 left dense is 1, but should be at most 0",
        ),
        (
            "sentence.outside_recompiles",
            [EVERY_STEP, COMPILED_INSIDE],
            [EVERY_STEP, replace(COMPILED_INSIDE, recompiles=("other size",))],
            "those by generate is 1, but should be at most 0",
        ),
        (
            "sentence.outside_recompiles",
            [EVERY_STEP, COMPILED_INSIDE],
            [OUTSIDE, COMPILED_INSIDE],
            "the same per decode step is 0.",
        ),
        (
            "sentence.kernels_fuse",
            [Traffic(50, 500), Traffic(100, 600)],
            [Traffic(50, 700), Traffic(100, 600)],
            "bytes that operators touch over eager's is 1.167, but should be at most 1",
        ),
        (
            "sentence.attention_grows_linearly",
            peaks(*SQUARE, *LINE, *LINE),
            peaks(*LINE, *LINE, *LINE),
            "exponent of the peak over the prompt's length of eager is 1, but should be at least 1.5",
        ),
        (
            "sentence.kernel_needs_no_package",
            [(KERNEL, [])],
            [(KERNEL, ["flash_attn"])],
            "modules imported of flash-attn is 1, but should be at most 0",
        ),
        (
            "sentence.kernel_needs_no_package",
            [(KERNEL, [])],
            [(replace(KERNEL, kernel_calls=()), [])],
            "calls of the repository's kernel is 0, but should be at least 1",
        ),
        (
            "sentence.requests_beat_padding",
            [rounds(1.0, 1.5)],
            [rounds(2.0, 1.0)],
            "speed over a padded batch's is 0.5, but should be at least 1",
        ),
        (
            "sentence.stack_beats_its_best_part",
            [rounds(1.0, 1.5, 1.2)],
            [rounds(1.0, 1.5, 0.8)],
            "speed over that of compilation.static_cache is 0.8, but should be at least 1",
        ),
        (
            "sentence.speed_may_cost_memory",
            [300 * MIB, 100 * MIB],
            [50 * MIB, 100 * MIB],
            "from loading to the second run, over eager's is 0.5",
        ),
        (
            "overview.caching.memory",
            peaks(100, 400),
            peaks(400, 100),
            "peak over that without it is 3.",
        ),
    ],
)
def test_each_sentence_holds_by_some_numbers_and_not_by_others(monkeypatch, name, good, bad, told):
    """Where several paths are looked at, whatever is installed."""
    monkeypatch.setattr(sentences, "unmet", lambda path, _: "" if path in {*LOADABLE, *KERNELS} else "away")
    holds = Answers(name, *good).tried
    assert holds.outcome is Outcome.PASS, holds.message
    broken = Answers(name, *bad).tried
    assert broken.outcome is Outcome.DOES_NOT_HOLD, broken.message
    assert told in broken.message


@pytest.mark.parametrize(
    ("name", "good", "bad", "told"),
    [
        ("overview.attention.speed", {"speed": timed(2.0)}, {"speed": timed(0.5)}, "speed over eager's is 0.5"),
        ("overview.caching.speed", {"speed": timed(0.5)}, {"speed": timed(2.0)}, "that without a cache is 0.5"),
        ("overview.attention.memory", {"peak": 100 * MIB}, {"peak": 900 * MIB}, "peak over that without it is 2.14"),
    ],
)
def test_each_tick_holds_by_some_measurements_and_not_by_others(name, good, bad, told):
    for changes, outcome in ((good, Outcome.PASS), (bad, Outcome.DOES_NOT_HOLD)):
        asked = Answers(name)
        asked.measure = lambda *_, a=asked, c=changes: (a_passed(a), measured(a.case.id, **c))
        verdict = asked.tried
        assert verdict.outcome is outcome, verdict.message
    assert told in verdict.message


def a_passed(asked):
    return verdict_on(asked.case, Property.EQUIVALENCE, Outcome.PASS, "engaged", {"fp32.rho": 1.01})


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (rounds(1.0, 1.5, foreign=1), "1 foreign processes computed on the device"),
        (rounds(1.0, 1.5, dropped=20), "20 of 60 rounds were dropped"),
    ],
)
def test_rounds_of_a_noisy_or_shared_machine_tell_nothing(found, why):
    verdict = Answers("sentence.requests_beat_padding", found).tried
    assert (verdict.outcome, verdict.message) == (Outcome.INCONCLUSIVE, f"sentence.requests_beat_padding: {why}")


def test_kernel_of_the_hub_shows_itself_as_an_operator_of_its_own():
    """On a GPU, where no local folder counts its calls."""
    on_gpu = partial(replan, inventory=GPU, device="cuda")
    name = "sentence.kernel_needs_no_package"
    holds = Answers(name, (HUB_KERNEL, []), plans=on_gpu)
    assert holds.case.path == "kernels.flash_attn2_hub"
    assert holds.tried.outcome is Outcome.PASS
    broken = Answers(name, (replace(HUB_KERNEL, attention=()), []), plans=on_gpu).tried
    assert "calls of the repository's kernel is 0, but should be at least 1" in broken.message


def test_scheme_that_cannot_be_loaded_hides_no_other(monkeypatch):
    """It is told, with its reason; and one that keeps more bits than its name says is not left out."""
    monkeypatch.setattr(
        sentences, "unmet", lambda path, _: "" if path.name.startswith("quantization.torch") else "away"
    )
    answers = ({"a": 8.5}, 0), WorkerRaised("out of luck"), ({"a": 8.25}, 0)
    verdict = Answers("sentence.every_parameter_shrinks", *answers).tried
    assert verdict.outcome is Outcome.PASS, verdict.message
    assert "quantization.bnb_nf4: away" in verdict.message
    assert "quantization.torchao_int4: out of luck" in verdict.message
    packed = ({"a": 8.5}, 0), ({"a": 9.25}, 0), ({"a": 8.25}, 0)
    verdict = Answers("sentence.every_parameter_shrinks", *packed).tried
    assert "bits per weight of torchao_int4 is 9.25, but should be at most 5" in verdict.message


@pytest.mark.parametrize(
    ("name", "answers", "shown"),
    [
        ("sentence.stack_beats_its_best_part", [rounds(1.0, 1.5, 1.2)], 3),
        ("sentence.requests_beat_padding", [rounds(1.0, 1.5)], 2),
        ("sentence.cost_per_token_is_flat", [rounds(1.0, 1.1, 1.0, 8.0)], 4),
        ("sentence.outside_recompiles", [EVERY_STEP, COMPILED_INSIDE], 1),
        ("overview.caching.memory", peaks(100, 400), 1),
        ("overview.quantization.memory", peaks(100, 400), 1),
    ],
)
def test_arms_beside_the_case_must_be_engaged(name, answers, shown):
    asked = Answers(name, *answers)
    asked.measure = lambda *_: (a_passed(asked), measured(asked.case.id, peak=100 * MIB))
    verdict = asked.tried
    assert verdict.outcome is Outcome.PASS, verdict.message
    assert len(asked.shown) == shown


def test_models_that_were_named_are_kept():
    """What a user asks of a model is not answered of another."""
    asked = Answers("overview.quantization.memory")
    assert asked.larger(CATALOGUE.more_models[0]) is CATALOGUE.more_models[0]
    asked.named = True
    assert asked.larger(CATALOGUE.more_models[0]) is None


def warning(text, category, filename):
    return SimpleNamespace(message=text, category=category, filename=filename)


def test_whatever_will_go_is_told_of_examples():
    """By its words in logs; by its kind, and where it points, in warnings."""
    library, own = overview_examples.OURS
    lines = ["`torch_dtype` is deprecated! Use `dtype` instead!", "The prefix is no longer needed.", "Loading weights"]
    warned = [
        warning("it will be gone in v9\nread on", FutureWarning, f"{library}/modeling_utils.py"),
        warning("this keyword is old", FutureWarning, own),
        warning("of another library", DeprecationWarning, "/elsewhere/torch.py"),
        warning("mind the memory", UserWarning, f"{library}/modeling_utils.py"),
    ]
    assert overview_examples.deprecations(lines, warned) == [*lines[:2], "it will be gone in v9", "this keyword is old"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Traceback:\nValueError: shape [2]: is bad\n", "ValueError: shape [2]: is bad"),
        ("[rank0]:[rank0]: RuntimeError: it broke\n", "RuntimeError: it broke"),
        ("RuntimeError: it broke\ntorch.x.ChildFailedError: \n", "RuntimeError: it broke"),
        ("all is well", ""),
    ],
)
def test_last_error_of_an_example(text, error):
    assert examples.last_error(text) == error


@pytest.mark.parametrize(
    ("ran", "disclaimer", "outcome", "told"),
    [
        (("", []), None, Outcome.PASS, "runs, and warns of no deprecation"),
        (("", ["it is old"]), None, Outcome.PASS, "runs, and says: it is old"),
        (
            ("ValueError: no", []),
            None,
            Outcome.DOES_NOT_HOLD,
            "ends with ValueError: no, but should run (the example's",
        ),
        (("ValueError: no", []), Disclaimer("example.compilation", "no luck"), Outcome.DISCLAIMED, "says so: no luck)"),
    ],
)
def test_examples_run_or_not(monkeypatch, ran, disclaimer, outcome, told):
    monkeypatch.setattr(examples, "run_example", lambda *_: ran)
    asked = Answers("example.compilation")
    asked.standard = Standard(disclaimers={disclaimer.claim: disclaimer} if disclaimer else {})
    verdict = asked.tried
    assert verdict.outcome is outcome
    assert told in verdict.message


def test_example_without_what_it_needs_is_unsupported_if_it_fails(monkeypatch):
    monkeypatch.setattr(examples, "run_example", lambda *_: ("ValueError: no", []))
    verdict = Answers("example.attention").tried
    assert verdict.outcome is Outcome.UNSUPPORTED
    assert verdict.message.endswith("(without it: ValueError: no)")


def test_arm_that_is_not_engaged_is_not_timed():
    """A stack beats a part by itself that silently does nothing; eager's kernels are no path's."""
    asked = Answers("sentence.stack_beats_its_best_part", EAGER)
    with pytest.raises(Settled, match=r"attention implementation of attention\.sdpa is eager, but should be sdpa"):
        Asked.engaged(asked, path_named("attention.sdpa"), None)


def test_claim_of_compilation_is_tried_with_nothing_but_the_cache():
    """Told not to compile, generate would not, whatever it does by itself."""
    assert sentences.OnlyStatic().generate_options() == {"cache_implementation": "static"}


def test_ranks_must_split_what_the_plan_names_and_hold_more_in_all():
    def tried(*ranks):
        asked = Answers("sentence.ranks_shard_and_cost_memory")
        asked.runner.observe_ranks = lambda *_, **__: list(ranks)
        return asked.tried

    one = replace(rank(*AUTO), bytes_whole=100)
    assert tried(*[replace(one, bytes_kept=60)] * 2).outcome is Outcome.PASS
    assert "on all ranks over those of one model is 1, but" in tried(*[replace(one, bytes_kept=50)] * 2).message
    unsplit = replace(one.shards[0], kept=one.shards[0].whole)
    broken = tried(*[replace(one, bytes_kept=60, shards=(unsplit,))] * 2)
    assert broken.outcome is Outcome.DOES_NOT_HOLD
    assert "of 2 shards that the plan splits, those kept whole is 2, but should be at most 0" in broken.message


def test_whatever_befalls_a_claim_is_its_verdict():
    """A path that is not engaged, a worker that hangs: the claim did not hold, and nothing was measured."""
    hung = Answers("sentence.compiles_by_itself", WorkerTimedOut("no answer within 1 s", log="x.log")).tried
    assert (hung.case, hung.outcome) == ("sentence.compiles_by_itself", Outcome.TIMED_OUT)
    assert hung.message == "sentence.compiles_by_itself: asking: no answer within 1 s (read x.log)"
    strange = Answers("sentence.kernels_fuse", Traffic(1, 1), Traffic(0, 0)).tried
    assert (strange.outcome, strange.case) == (Outcome.ERROR, "sentence.kernels_fuse")
    assert strange.message == "sentence.kernels_fuse: ZeroDivisionError: division by zero (set it right and run again)"
    asked = Answers("overview.attention.speed")
    unengaged = verdict_on(
        asked.case, Property.EQUIVALENCE, Outcome.NOT_ENGAGED, f"{asked.case.id}: attention is eager"
    )
    asked.measure = lambda *_: (unengaged, None)
    with pytest.raises(Settled):
        asked.equivalent()
    verdict = asked.tried
    assert (verdict.outcome, verdict.message) == (
        Outcome.NOT_ENGAGED,
        "overview.attention.speed: attention is eager",
    )


def test_every_path_of_a_place_is_in_the_registry():
    names = {path.name for path in PATHS}
    assert {place.path for claim in CLAIMS for place in claim.places.values()} <= names
    assert ticks.PLACES.keys() == {(technique, about) for technique, ticked in TICKS.items() for about in ticked}


def test_tables_of_readme_are_printed_from_a_run():
    """A row for every claim, whatever came of it; a run that lacks one has no such table."""
    said = {name: Answers(name) for name in (claim.name for claim in CLAIMS)}
    verdicts = [claim_verdict(name, asked.case, Outcome.PASS, f"{name}: well") for name, asked in said.items()]
    verdicts[-1] = replace(verdicts[-1], outcome=Outcome.UNSUPPORTED)
    run = Run(3, None, {}, "then", "later", 0, tuple(verdicts))
    overview, claims = tables(run)
    assert [row.split(" | ")[0] for row in overview[2:]] == [f"| {name.replace('_', ' ')}" for name in TICKS]
    assert claims[2] == "| `overview.compilation.speed` | compilation: it makes inference faster | holds: well |"
    assert claims[-1].endswith("| not here: well |")
    with pytest.raises(KeyError, match=CLAIMS[0].name):
        tables(replace(run, verdicts=tuple(verdicts[1:])))
