"""Every relation is violated by a fault of its kind, and the example that shows it runs by itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from fixtures.features import DYNAMIC_ROPE
from harness.paths.registry import PATHS
from harness.records.enums import Dtype, Outcome
from suites.conftest import REPOSITORY
from suites.invariants.asking import Asking
from suites.invariants.relations import RELATIONS, applies
from suites.invariants.search import SearchBudget
from suites.meta.suites.test_requests import FAULTS as OF_REQUESTS

pytestmark = pytest.mark.workers

FAULTS = "suites.meta.faults"
HERE = f"{FAULTS}.relations"
PATH_OF = {
    "arrival_order": "continuous_batching.sdpa",
    "resets": "caching.static",
    "quantized_turns": "caching.quantized_quanto4_repacked",
    "compiled_turns": "compilation.static_cache",
    "compiled_calls": "compilation.static_cache",
}
"""Path by which a relation is tried, where that is not attention.sdpa."""
EXACT = {
    "repetition": "noise",
    "future_tokens": "next_token_leaks",
    "other_rows": "other_row_leaks",
    "permuted_rows": "place_in_batch_counts",
    "masked_ids": "first_column_is_seen",
    "unused_slots": "last_slot_is_seen",
    "quantized_turns": "suites.meta.faults.of_caches:newest_entries_are_lost_in_packing",
}
CLOSE = {
    "padding": ("padded_is_scaled", "left|right"),
    "batch_size": ("batch_is_scaled", "together"),
    "chunked_prefill": ("chunks_forget_first", "in chunks"),
    "cache_or_none": ("decode_is_scaled", "cached"),
    "static_or_dynamic": ("static_write_is_lost", "static"),
    "prefix": ("whole_blocks_are_scaled", "alone|within"),
    "calls": (f"{FAULTS}.of_calls:mask_of_the_first_prompt", r"call \d"),
    "compiled_turns": (f"{FAULTS}.of_turns:reset_leaves_one", r"turn \d"),
    "compiled_calls": (f"{FAULTS}.of_calls:stale_inputs_of_a_graph", r"call \d"),
    "turns": (f"{FAULTS}.of_turns:chunks_begin_anew", r"turn \d"),
    "crops": (f"{FAULTS}.of_turns:crop_leaves_one", r"turn \d"),
    "resets": (f"{FAULTS}.of_turns:reset_leaves_one", r"turn \d"),
}
"""Fault, and the side on which it shows."""
DECODING = ("sampling", "processors", "ends", "stop_strings", "beams", "prompt_lookup", "assisted")
"""Those of decoding have their faults in `test_decoding.py`."""
ENOUGH = SearchBudget(16)
FEW = SearchBudget(5)
"""Of relations whose examples are several calls of `generate`."""
OF_CALLS = {relation.name for relation in RELATIONS if relation.of_turns}


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    made = Asking(tmp_path_factory.mktemp("scratch"), seconds=180.0)  # a step may be compiled twice
    yield made
    made.close()


@pytest.fixture
def asked(asking, planned_case, runner, tmp_path):
    """The verdict on a relation of a path, in float32."""

    def ask(relation, *, path="", fault="", budget=None):
        case, optimization = planned_case(path or PATH_OF.get(relation, "attention.sdpa"), dtype=Dtype.FP32)
        budget = budget or (FEW if relation in OF_CALLS else ENOUGH)
        case = replace(case, workload=next(each.workload for each in RELATIONS if each.name == relation))
        where = fault and (fault if ":" in fault else f"{HERE}:{fault}")
        return asking.verdict(case, optimization, runner, budget=budget, folder=tmp_path, fault=where)

    return ask


def test_every_relation_has_a_fault():
    assert {*EXACT, *CLOSE, "arrival_order", *OF_REQUESTS, *DECODING} == {relation.name for relation in RELATIONS}


@pytest.mark.parametrize("relation", [*EXACT, *CLOSE, "arrival_order"])
def test_correct_path_holds(asked, relation):
    """The same examples that show the faults show nothing without them."""
    verdict = asked(relation, budget=SearchBudget(2) if relation == "arrival_order" else None)
    assert verdict.outcome is Outcome.PASS, verdict.message
    assert re.match(r"\d+ examples; closest to its limit: fp32 ", verdict.message)
    assert verdict.numbers["examples"] >= 2


@pytest.mark.parametrize("relation", EXACT)
def test_leak_changes_bits(asked, tmp_path, relation):
    verdict = asked(relation, fault=EXACT[relation])
    what = next(each.what for each in RELATIONS if each.name == relation)
    told = rf"{verdict.case}: fp32 positions with other {what} is \d+, but should be at most 0 \[E\] "
    assert verdict.outcome is Outcome.MISMATCH, verdict.message
    assert re.match(told + rf"\(python {tmp_path}/reproducers/{verdict.case}.py reproduces it\)$", verdict.message)


@pytest.mark.parametrize("relation", CLOSE)
def test_shape_that_changes_more_than_rounding_is_caught(asked, relation):
    fault, side = CLOSE[relation]
    verdict = asked(relation, fault=fault)
    told = (
        rf"{verdict.case}: fp32 (largest )?error over eager's \((?:{side})\) is \S+, but should be at most [35] \[R0\]"
    )
    assert verdict.outcome is Outcome.MISMATCH, verdict.message
    assert re.match(told, verdict.message)


def test_page_of_another_request_is_caught(asked):
    verdict = asked(
        "arrival_order",
        path="continuous_batching.sdpa",
        fault="suites.meta.faults.of_batches:swapped_page_table_row",
        budget=SearchBudget(8, shrinks=False),
    )
    assert verdict.outcome is Outcome.MISMATCH, verdict.message
    assert re.search(r"fp32 (largest )?error over eager's \((first|other) order\) is ", verdict.message)


def test_smallest_example_is_found(asked, tmp_path):
    """Of all lengths that show it, the shortest; and of the rest nothing that is not needed."""
    verdict = asked("future_tokens", fault="next_token_leaks")
    script = (tmp_path / "reproducers" / f"{verdict.case}.py").read_text()
    example = script.partition("EXAMPLE = ")[2].partition('"""')[0]
    assert re.sub(r"\s+", " ", example).strip() == "{'rows': [[0, 3]], 'kept': 1, 'by': 0}"


def test_reproducer_fails_by_itself_until_the_fault_is_gone(asked, tmp_path):
    verdict = asked("future_tokens", fault="next_token_leaks")
    script = tmp_path / "reproducers" / f"{verdict.case}.py"

    def run():
        return subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)

    told = run()
    assert told.returncode == 1, told.stderr
    assert re.fullmatch(
        r"future_tokens: fp32 positions with other logits before other tokens is \d+, "
        r"but should be at most 0 \[E\]\n", told.stdout
    )  # fmt: skip
    assert "Expected: the same bits on both sides" in script.read_text()
    script.write_text(script.read_text().replace(f"{HERE}:next_token_leaks", ""))
    told = run()
    assert told.returncode == 0, told.stderr
    assert told.stdout == "future_tokens: holds\n"


def test_path_that_raises_is_an_error_with_an_example(asked, tmp_path):
    """The shortest row beyond 40 that is drawn, the last position of which is decoded; and its script."""
    verdict = asked("repetition", fault="raises_on_long_rows")
    assert verdict.outcome is Outcome.ERROR
    assert "{'rows': [[0, 63]]}: RuntimeError: no kernel for 62 positions" in verdict.message
    assert f"(python {tmp_path}/reproducers/{verdict.case}.py reproduces it)" in verdict.message


def test_killed_worker_costs_one_relation(asked):
    """The next one has a worker of its own."""
    verdict = asked("repetition", fault="dies_of_long_rows")
    assert verdict.outcome is Outcome.CRASHED
    assert re.search(r"example \{'rows': .*\}: worker ended by SIGKILL", verdict.message)
    assert asked("repetition").outcome is Outcome.PASS


def test_unengaged_path_is_asked_nothing(asked):
    verdict = asked("future_tokens", fault="suites.meta.faults.lies:sdpa_is_eager")
    assert verdict.outcome is Outcome.NOT_ENGAGED
    assert re.match(rf"{verdict.case}: attention in prefill in fp32 is .*, but should be ", verdict.message)
    assert verdict.message.endswith("(something else served the request: suites/every_path judges the path itself)")


def test_paths_that_are_asked():
    """Each relation says something of some path; what is asked of none says so in `applies`."""
    asked = {relation.name: {path.name for path in PATHS if applies(relation, path)} for relation in RELATIONS}
    assert all(asked.values())
    assert {"caching.static", "quantization.bnb_nf4"} <= asked["unused_slots"]
    assert "caching.none" not in asked["unused_slots"] | asked["chunked_prefill"]
    assert {name.partition(".")[0] for name in asked["arrival_order"]} == {"continuous_batching"}
    assert not {name for name in asked["padding"] if name.startswith("quantization.")}
    assert {"stacks.sdpa+static", "caching.static", "eager"} <= asked["turns"]
    assert {name.partition(".")[2].partition("+")[0] for name in asked["quantized_turns"]} >= {"quantized_quanto4"}
    assert not {name for name in asked["turns"] if "tp2" in name or "batching" in name or "static_cache" in name}
    of_steps = {f"compilation.static_cache{mode}" for mode in ("", "_default", "_max_autotune")}
    of_stacks = {"stacks.sdpa+static_cache", "stacks.static_cache+layers_local"}
    assert asked["compiled_turns"] == asked["compiled_calls"] == of_steps | of_stacks
    everything = set().union(*(paths for name, paths in asked.items() if name not in {*OF_CALLS, *DECODING}))
    assert not {name for name in everything if name.startswith(("compilation.", "parallelism.", "stacks."))}
    assert not {"attention.flex", "quantization.bnb_int8", "caching.quantized_quanto4"} & everything


def test_step_that_runs_uncompiled_is_told(asked):
    """It engages where `generate` makes the cache, and not where the cache is the caller's."""
    verdict = asked("compiled_turns", fault="given_caches_compile_nothing")
    assert verdict.outcome is Outcome.UNSUPPORTED, verdict.message
    assert re.search(r"(\d+) of \1 steps ran uncompiled", verdict.message)


@pytest.mark.parametrize("relation", ["turns", "calls"])
def test_angles_that_follow_the_length_are_refused_in_words(asking, planned_case, runner, tmp_path, relation):
    """What lies in a cache keeps the angles of its own call, and no fresh pass has them."""
    case, optimization = planned_case("attention.sdpa", dtype=Dtype.FP32)
    workload = next(each.workload for each in RELATIONS if each.name == relation)
    case = replace(case, recipe=DYNAMIC_ROPE, workload=workload)
    verdict = asking.verdict(case, optimization, runner, budget=FEW, folder=tmp_path)
    assert verdict.outcome is Outcome.UNSUPPORTED
    assert "rope of kind dynamic changes with the length, so that no fresh pass is the same" in verdict.message


def test_number_of_examples_is_positive():
    run = [sys.executable, "-m", "pytest", "--invariant-examples", "0", "--co", "suites/invariants"]
    told = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert told.returncode == 4
    assert "argument --invariant-examples: is 0, but should be a whole number, 1 to " in told.stderr


def test_examples_are_recorded_with_their_seed(tmp_path):
    """A session draws others when asked for a number, and says how to draw them again."""
    only = ["suites/invariants", "--device", "cpu", "--nightly", "-k", "tiny_qwen3-attention.sdpa-prefix"]
    drawn = ["--invariant-examples", "3", "--hypothesis-seed", "7", "--run-dir", tmp_path]
    run = [sys.executable, "-m", "pytest", *only, *drawn]
    told = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
    assert "3 examples of each relation from seed 7 (--hypothesis-seed=7 draws them again)" in told.stdout
    (verdict,) = json.loads((tmp_path / "latest" / "run.json").read_text())["verdicts"]
    assert verdict["case"] == "cpu-bf16-tiny_qwen3-attention.sdpa-prefix"
    assert (verdict["property"], verdict["outcome"]) == ("equivalence", "PASS")
    assert (verdict["numbers"]["examples"], verdict["numbers"]["seed"]) == (3, 7)
    assert {"fp32.rho", "bf16.rho"} <= verdict["numbers"].keys()
