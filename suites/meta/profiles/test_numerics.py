"""What was accepted before: error ratios (R2), divergence on text (L3), and when they are compared with. No torch."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import CorruptRecord, HarnessError
from harness.judging.correctness import judge
from harness.judging.correctness_rules import growth
from harness.profiles.expectations import expectations_of
from harness.profiles.numerics import (
    FILE,
    Numerics,
    StoredNumerics,
    conditions_of,
    disordered,
    numerics_of,
    read_numerics,
    store_numerics,
)
from harness.profiles.profile import Match, Profile
from harness.records.codec import write_record
from harness.records.enums import CASE_PROPERTIES, Dtype, Outcome, Property, Reference, Tolerance
from harness.records.evidence import Evidence, Quality, Scheme
from harness.records.run import EXAMPLES, Run
from harness.reports.markdown import markdown
from harness.reports.tables import changed_numerics
from suites.meta.builders.evidence import CASE, FLOOR, TRUST, evidence, rung

RATIOS = StoredNumerics(CASE.path, "", {"fp32.rho": 1.0, "bf16.rho": 1.0}, {})
NATIVE = replace(CASE, path="quantization.some_int4", dtype=Dtype.FP32)
COST = tuple(0.02 + 0.001 * math.sin(i) for i in range(32))
"""Nats per passage, of four bits."""


def judged(*rungs, stored):
    return judge(CASE, Property.EQUIVALENCE, evidence(*rungs), stored=stored)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.09])
def test_error_ratio_near_the_stored_one_is_no_news(ratio):
    verdict = judged(rung(Dtype.FP32, ratio=ratio), rung(), stored=RATIOS)
    assert verdict.outcome is Outcome.PASS
    assert verdict.message.startswith("closest to its limit: ")
    assert changed_numerics([verdict]) == []


def test_error_ratio_over_the_stored_one_passes_and_says_so():
    """In the message, in the numbers, and in the report."""
    verdict = judged(rung(Dtype.FP32, ratio=1.2), rung(), stored=RATIOS)
    assert verdict.outcome is Outcome.PASS
    assert verdict.message.startswith("numerics changed: fp32.rho is 1.2, was 1; closest to its limit: ")
    assert verdict.numbers["fp32.rho.stored"] == 1.0
    assert "bf16.rho.stored" not in verdict.numbers
    [line] = changed_numerics([verdict])
    assert line.startswith(f"{CASE.id}: numerics changed: fp32.rho is 1.2, was 1; ")
    report = markdown(Run(3, "here", {}, "then", "later", 0, (verdict,)))
    assert report.index("## Numerics changed") < report.index(line) < report.index("## Cases")


@pytest.mark.parametrize("reference", [Reference.FLOAT32, Reference.OWN])
def test_ratio_by_another_yardstick_is_not_compared_and_not_stored(finished, tmp_path, reference):
    ratios = replace(evidence(rung(Dtype.FP32, ratio=1.2), rung()), reference=reference)
    assert "numerics changed" not in judge(CASE, Property.EQUIVALENCE, ratios, stored=RATIOS).message
    folder = finished()
    write_record(folder / "evidence" / f"{CASE.id}.json", ratios)
    fresh, _ = numerics_of(folder)
    assert set(fresh.cases) == {NATIVE.id}


def test_changed_numerics_hide_no_failure():
    verdict = judged(rung(Dtype.FP32, ratio=4.0), rung(), stored=RATIOS)
    assert verdict.outcome is Outcome.MISMATCH


def rounded(cost, *, stored=COST, dtype=Dtype.FP32):
    """The verdict on rounded weights that cost so much on text."""
    flat = tuple(0.0 for _ in cost)
    run = replace(rung(Dtype.FP32), scheme=Scheme(Quality(cost, flat, flat)))
    known = StoredNumerics(NATIVE.path, "weights_4bit", {}, {dtype: stored})
    found = Evidence(NATIVE.id, Tolerance.ROUNDED, (run,), (TRUST,), FLOOR, budget="weights_4bit")
    return judge(NATIVE, Property.EQUIVALENCE, found, stored=known)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.05, 1.1])
def test_divergence_may_grow_by_a_tenth(factor):
    assert rounded(tuple(factor * nats for nats in COST)).outcome is Outcome.PASS


def test_divergence_that_grew_by_more_is_a_mismatch():
    """Paired by passage: a growth of a fifth shows, though passages differ by more, and the budget holds five times."""
    verdict = rounded(tuple(1.2 * nats for nats in COST))
    assert verdict.outcome is Outcome.MISMATCH
    assert "fp32 growth of the divergence on text in nats since it was stored, at least, is 0.0039" in verdict.message
    assert "[L3]" in verdict.message
    assert verdict.numbers["fp32.text_kl_growth.limit"] == pytest.approx(0.1 * sum(COST) / len(COST))


def test_divergence_that_grew_in_one_passage_alone_is_no_growth():
    """A sample that may have missed that passage shows none."""
    assert rounded((*COST[:-1], COST[-1] + 0.3)).outcome is Outcome.PASS


def test_divergence_that_is_no_number_is_a_mismatch():
    assert rounded((math.nan, *COST[1:])).outcome is Outcome.MISMATCH


def test_divergence_of_another_dtype_is_not_compared():
    assert rounded(tuple(2 * nats for nats in COST), dtype=Dtype.BF16).outcome is Outcome.PASS
    assert growth(rung(), RATIOS) == []


def test_stored_text_of_another_length_is_refused():
    with pytest.raises(HarnessError) as refused:
        rounded(COST, stored=COST[1:])
    assert str(refused.value) == (
        "stored numerics of quantization.some_int4: hold 31 sequences of text, but should hold 32 as the run does "
        "(store them again: harness numerics RUN)"
    )


def scheme(path, bits, nats, dtype=Dtype.FP32):
    return {f"cpu-fp32-tiny-{path}-single": StoredNumerics(path, f"weights_{bits}", {}, {dtype: (nats, nats)})}


def test_more_bits_that_cost_more_are_named():
    """Of one backend, in one dtype; float8 is eight bits."""
    cases = {
        **scheme("quantization.quanto_int8", "8bit", 0.03),
        **scheme("quantization.quanto_int4", "4bit", 0.02),
        **scheme("quantization.torchao_float8", "float8", 0.03),
        **scheme("quantization.torchao_int4", "4bit", 0.03),
        **scheme("quantization.bnb_int8", "8bit", 0.03),
        **scheme("quantization.bnb_nf4", "4bit", 0.02, Dtype.BF16),
        **scheme("quantization.hqq4", "4bit", 0.001),
    }
    [line] = disordered(cases)
    assert line == (
        "cpu-fp32-tiny-quantization.quanto_int8-single: fp32 divergence on text with 8 bits is 0.03, but should be at "
        "most the 0.02 of 4 bits in cpu-fp32-tiny-quantization.quanto_int4-single"
    )


ENVIRONMENT = {"torch": "2.13.0", "transformers": "5.22.2", "processor": "a", "cpu_capability": "AVX512", "cores": "2"}


@pytest.fixture
def finished(tmp_path):
    """The folder of a finished run: one case of ratios, one of rounded weights, one that failed, and a relation, which
    leaves no evidence."""
    flat = tuple(0.0 for _ in COST)
    ratios = evidence(rung(Dtype.FP32, ratio=1.2), rung())
    run = replace(rung(Dtype.FP32), scheme=Scheme(Quality(COST, flat, flat)))
    weights = Evidence(NATIVE.id, Tolerance.ROUNDED, (run,), (TRUST,), FLOOR, budget="weights_4bit")
    verdicts = [judge(CASE, asked, ratios) for asked in CASE_PROPERTIES]
    verdicts += [judge(NATIVE, Property.EQUIVALENCE, weights)]
    verdicts += [replace(verdicts[1], case="failed", outcome=Outcome.MISMATCH)]
    verdicts += [replace(verdicts[1], case="relation", numbers={EXAMPLES: 6})]
    for each in (ratios, weights):
        write_record(tmp_path / "run" / "evidence" / f"{each.case}.json", each)

    def write(**changes):
        record = Run(3, "here", ENVIRONMENT, "2026-01-02T03:04:05", "2026-01-02T04:00:00", 1, tuple(verdicts))
        write_record(tmp_path / "run" / "run.json", replace(record, **changes))
        return tmp_path / "run"

    return write


def test_run_is_stored_and_read_again(finished, tmp_path):
    """What passed, by case, with its conditions; a case that failed is not accepted."""
    fresh, profile = numerics_of(finished())
    assert profile == "here"
    store_numerics(fresh, tmp_path)
    known = read_numerics(tmp_path)
    assert known == fresh
    assert known.conditions == {**ENVIRONMENT, "accelerators": ""}
    assert known.cases == {
        CASE.id: StoredNumerics(CASE.path, "", {"fp32.rho": 1.2, "bf16.rho": 1.0}, {}),
        NATIVE.id: StoredNumerics(NATIVE.path, "weights_4bit", {"fp32.rho": 1.0}, {Dtype.FP32: COST}),
    }


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"finished": None}, "is not finished"), ({"profile": None}, "matched no profile"), ({"verdicts": ()}, "passed")],
)
def test_run_that_proves_nothing_is_not_stored(finished, changes, why):
    with pytest.raises(HarnessError, match=rf"run: the run {why}.*, but its numbers should be worth storing \("):
        numerics_of(finished(**changes))


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CorruptRecord, match=r"run.json: could not be read"):
        numerics_of(tmp_path)


def test_cases_of_equal_conditions_are_kept(finished, tmp_path):
    """Those of other conditions are not: they would be compared with what they are not comparable to."""
    fresh, _ = numerics_of(finished())
    other = Numerics(1, fresh.conditions, {"other": RATIOS})
    store_numerics(other, tmp_path)
    assert set(store_numerics(fresh, tmp_path).cases) == {"other", *fresh.cases}
    store_numerics(replace(other, conditions=conditions_of({**ENVIRONMENT, "torch": "2.12.0"})), tmp_path)
    assert set(store_numerics(fresh, tmp_path).cases) == set(fresh.cases)


def test_disorder_is_not_stored(tmp_path):
    cases = {**scheme("quantization.quanto_int8", "8bit", 0.03), **scheme("quantization.quanto_int4", "4bit", 0.02)}
    with pytest.raises(HarnessError, match=r"8 bits is 0.03, but should be at most the 0.02 of 4 bits in .* \(nothing"):
        store_numerics(Numerics(1, {}, cases), tmp_path)
    assert read_numerics(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "is no JSON"), ('{"schema": 2, "conditions": {}, "cases": {}}', "schema is 2, but should be 1")],
)
def test_broken_store_is_refused(tmp_path, text, told):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(CorruptRecord, match=rf"{told}.* \(store it again: harness numerics RUN\)"):
        read_numerics(tmp_path)


def test_stored_numbers_are_compared_with_under_equal_conditions_alone(finished, tmp_path):
    """Otherwise the session says what differs."""
    fresh, _ = numerics_of(finished())
    store_numerics(fresh, tmp_path)
    here = Profile("here", tmp_path, Match("cpu", "x86_64"), None)
    assert expectations_of((here,), here.match, ENVIRONMENT).stored == fresh.cases
    moved = expectations_of((here,), here.match, {**ENVIRONMENT, "torch": "2.14.0", "cores": "4"})
    assert moved.stored == {}
    [note] = moved.notes
    assert note == (
        "here/numerics.json is not compared with: it was stored with torch 2.13.0 instead of 2.14.0, "
        "cores 2 instead of 4"
    )


def test_store_is_one_readable_file(finished, tmp_path):
    store_numerics(numerics_of(finished())[0], Path(tmp_path))
    assert set(json.loads((tmp_path / FILE).read_text())) == {"schema", "conditions", "cases"}
