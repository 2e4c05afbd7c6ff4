"""Calibration: from correct runs to limits, and the faults that hold these where they are. No torch."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from harness.commands.calibrate.spread import calibrated, measured_spread
from harness.errors import CorruptRecord, HarnessError
from harness.judging.correctness import judge
from harness.judging.correctness_rules import findings
from harness.profiles.fault_results import RecordedFault, read_faults, refuse_survivors, survivors
from harness.profiles.limits import LIMITS, Calibrated, Limits, limit_of, limits_of
from harness.records.enums import Dtype, Outcome, Property, Tolerance
from harness.records.evidence import (
    CacheComparison,
    Divergence,
    Evidence,
    ExactTrial,
    GreedyAgreement,
    Operators,
    StratumError,
)
from harness.records.finding import LimitCheck, numbers_of
from suites.meta.builders.evidence import CASE, CLOSE, FLOOR, GOOD, NATIVE, TRUST, evidence, lossy, rung
from suites.meta.builders.spreads import STRONG, WEAK, fault


def calibration(**q95):
    """A calibration of numbers named `fp32_rho` for fp32.rho."""
    return calibrated({key.replace("_", ".", 1): value for key, value in q95.items()})


def test_spread_is_the_95th_percentile_of_what_runs_needed():
    """Of ratios 0.01 to 1.01 in steps of 0.01, 0.96."""
    spread = measured_spread([rung(Dtype.FP32, ratio=0.01 * i) for i in range(1, 102)])
    assert spread.judgements == 101
    assert spread.over_table == {}
    assert spread.q95["fp32.rho"] == spread.q95["fp32.rho_max"] == pytest.approx(0.96)
    assert spread.q95["fp32.slack"] == 0.0


def test_divergence_counts_beyond_its_floor_and_over_eagers():
    """As the factor that R3's limit would need."""
    nats = Divergence(2e-5 + 1e-7, 1e-5, 1e-6, 1e-5, 1e-6, 20, 0)
    spread = measured_spread([rung(divergence=nats)])
    assert spread.q95["bf16.kl"] == pytest.approx(20.0)
    assert spread.q95["bf16.kl_p99"] == pytest.approx(0.9)
    assert spread.over_table == {"bf16.kl": 1}


def test_runs_over_the_table_are_counted_by_number():
    """Also by those that no calibration moves."""
    flips = GreedyAgreement(100, 9, 1, 0.0, 1.0)
    off = (StratumError("prefill", 4.1, 4.1, 1.0, 1.0, 1.0, 0.0),)
    spread = measured_spread([rung(strata=off), rung(strata=off, greedy=flips), rung()])
    assert spread.over_table == {"bf16.rho": 2, "bf16.flips": 1}


def test_limit_is_the_tables_or_a_quarter_more_than_correct_runs_need():
    found = calibration(fp32_rho=2.0, fp32_cache_rho=2.6, fp16_cache_rho=1.0, bf16_cache_rho=1.2, bf16_slack=0.0)
    assert found["fp32_rho"] == Calibrated(table=3.0, q95=2.6, value=3.25)
    assert found["half_part_rho"] == Calibrated(table=1.5, q95=1.2, value=1.5)
    assert limits_of(found) == Limits(fp32_rho=3.25)
    assert limits_of(found).moved == {"fp32_rho": 3.25}


def test_limit_that_was_not_measured_is_the_tables():
    assert limits_of(calibration(fp32_rho=1.0)) == LIMITS


@pytest.mark.parametrize(("q95", "shown"), [(4.9, "4.9"), (math.inf, "inf"), (math.nan, "inf")])
def test_limit_beyond_twice_the_tables_is_refused(q95, shown):
    told = f"limit fp32_rho: correct runs need 1.25 × {shown} (fp32.rho), but should need at most 6, 2 times the"
    with pytest.raises(HarnessError) as refused:
        calibration(fp32_rho=q95)
    assert told in str(refused.value)


@pytest.mark.parametrize(("name", "value"), [("fp32_rho", 2.9), ("half_part_rho_max", 8.1), ("slack", math.nan)])
def test_limits_outside_their_range_cannot_be_built(name, value):
    with pytest.raises(ValueError, match=f"limit {name} is .*, but should be from .*, the table's, to "):
        Limits(**{name: value})


@pytest.mark.parametrize(
    ("key", "limit"),
    [
        ("fp32.rho", "fp32_rho"),
        ("bf16.cache_rho_max", "half_part_rho_max"),
        ("fp16.cache_rho", "half_part_rho"),
        ("fp32.cache_rho_max.beside", "fp32_rho_max"),
        ("fp32.cache", "fp32_rho"),
        ("bf16.operator_max", "half_part_rho_max"),
        ("bf16.eager_attention", "half_part_rho"),
        ("fp32.eager_attention_max", "fp32_rho_max"),
        ("fp32.eager_attention_exact", ""),
        ("fp32.eager_attention_compared", ""),
        ("bf16.rho", "half_rho"),
        ("fp16.rho_max", "half_rho_max"),
        ("fp32.operators", ""),
        ("fp32.kl", "kl"),
        ("fp32.kl_p99", "kl_p99"),
        ("bf16.slack", "slack"),
        ("bf16.kl", ""),
        ("fp32.flips", ""),
        ("fp32.rho.limit", ""),
        ("fp32.recall", ""),
    ],
)
def test_numbers_name_their_limit(key, limit):
    """The divergence of a scheme, which has no percentile beside it, is held to its budget."""
    assert limit_of(key, {"fp32.kl": 0.0, "fp32.kl_p99": 0.0, "bf16.kl": 0.0}) == limit


WIDER = Limits(
    fp32_rho=3.6, fp32_rho_max=9.6, half_part_rho=1.8, half_part_rho_max=4.8, kl=19.2, kl_p99=76.8, slack=1.2
)
ALMOST = (StratumError("prefill", 3.5, 3.5, 1.0, 1.0, 1.0, 0.0),)


@pytest.mark.parametrize(
    "key", ["fp32.rho", "bf16.cache_rho_max", "fp32.cache_rho", "bf16.kl", "bf16.kl_p99", "bf16.slack"]
)
def test_judging_by_other_limits_moves_each(key):
    """By a fifth, as all of WIDER are, beyond the floor of a divergence."""
    dtype = Dtype(key.partition(".")[0])
    made = rung(dtype)
    table = {found.key: found.limit for found in findings(made, Tolerance.REORDERED)}
    wider = {found.key: found.limit for found in findings(made, Tolerance.REORDERED, limits=WIDER)}
    floor = {"bf16.kl": 1e-7, "bf16.kl_p99": 1e-6}.get(key, 0.0)
    assert wider[key] - floor == pytest.approx(1.2 * (table[key] - floor))


def test_verdict_is_by_the_limits_given():
    """A run between the table's limit and the profile's passes by the latter, which its numbers name."""
    good = evidence(rung(Dtype.FP32, strata=ALMOST, divergence=CLOSE), rung())
    assert judge(CASE, Property.EQUIVALENCE, good).outcome is Outcome.MISMATCH
    verdict = judge(CASE, Property.EQUIVALENCE, good, limits=WIDER)
    assert verdict.outcome is Outcome.PASS
    assert verdict.numbers["fp32.rho.limit"] == 3.6


def test_eagers_attention_is_judged_by_the_limits_given():
    good = evidence(*GOOD, trusts=(replace(TRUST, attention=WIDE_ATTENTION), NATIVE))
    assert judge(CASE, Property.EQUIVALENCE, good).outcome is Outcome.BASELINE_UNTRUSTED
    assert judge(CASE, Property.EQUIVALENCE, good, limits=WIDER).outcome is Outcome.PASS
    assert judge(CASE, Property.EQUIVALENCE, good, limits=Limits(fp32_rho=3.4)).outcome is Outcome.BASELINE_UNTRUSTED


def test_lossy_cache_and_run_beside_it_are_judged_by_the_limits_given():
    """What eager's own rounding may add to a scheme's, and the run without the lossy cache."""
    noisy = CacheComparison((StratumError("layer 0 keys head 0", 3.3, 3.3, 1.0, 1.0, 0.0, 0.0),))
    native = replace(CASE, dtype=Dtype.FP32)
    run = replace(rung(Dtype.FP32, identical=True, state=noisy), beside=rung(Dtype.FP32, ratio=3.5).comparison)
    found = Evidence(native.id, Tolerance.LOSSY, (run,), (TRUST,), FLOOR, budget="kv_4bit")
    assert judge(native, Property.EQUIVALENCE, found).outcome is Outcome.MISMATCH
    assert judge(native, Property.EQUIVALENCE, found, limits=WIDER).outcome is Outcome.PASS


def test_fault_survives_limits_that_none_of_its_numbers_exceeds():
    [survivor] = survivors([WEAK, STRONG], WIDER)
    assert str(survivor) == (
        "fault weak would survive: its bf16.cache_rho is 1.6, over 1.5 today, but within 1.8 with limit half_part_rho"
    )


@pytest.mark.parametrize("limits", [LIMITS, Limits(fp32_rho=6.0), Limits(half_part_rho=1.59)])
def test_fault_does_not_survive_limits_that_leave_its_number_alone(limits):
    assert survivors([WEAK, STRONG], limits) == []


@pytest.mark.parametrize(
    "made",
    [
        evidence(rung(Dtype.FP32), rung(divergence=replace(CLOSE, candidate_mean=1.8e-5))),
        evidence(rung(Dtype.FP32), rung(divergence=replace(CLOSE, candidate_p99=7e-4))),
        evidence(rung(Dtype.FP32), rung(greedy=GreedyAgreement(100, 1, 0, 1.1, 1.0, 7))),
        evidence(rung(Dtype.FP32), rung(state=CacheComparison((StratumError("x", 1.6, 1.6, 1.0, 1.0, 1.0, 0.0),)))),
        lossy(state=CacheComparison((StratumError("layer 0 keys head 0", 0.17, 0.3, 1e-3, 1e-3, 1.0, 0.0),))),
    ],
    ids=["kl", "kl_p99", "slack", "cache_rho", "cache"],
)
def test_faults_caught_by_each_movable_limit_alone_would_survive_a_wider_one(made):
    """So would one of a lossy cache, whose share of what it may err shrinks with eager's part of it."""
    known = fault(made)
    assert known.outcome is Outcome.MISMATCH
    assert survivors([known], LIMITS) == []
    assert [found.fault for found in survivors([known], WIDER)] == ["made_up"]


@pytest.mark.parametrize(
    "made",
    [
        evidence(rung(Dtype.FP32), rung(greedy=GreedyAgreement(100, 9, 1, 0.0, 1.0))),
        evidence(rung(Dtype.FP32), rung(finite=False)),
        evidence(rung(Dtype.FP32, ratio=math.nan), rung()),
        lossy(identical=False),
        lossy(divergence=replace(CLOSE, decode_mean=0.055)),
        evidence(rung(Dtype.FP32), rung(), trusts=(replace(TRUST, repeats=False), replace(TRUST, dtype=Dtype.BF16))),
    ],
    ids=["flips", "finite", "nan", "twin", "budget", "trust"],
)
def test_faults_caught_by_what_no_profile_moves_never_survive(made):
    known = fault(made)
    assert known.outcome is not Outcome.PASS
    assert survivors([known], WIDER) == []


@pytest.mark.parametrize("key", ["bf16.counted", "bf16.drafted", "bf16.eager_attention_compared", "bf16.operators"])
def test_number_that_should_be_large_catches_nothing_by_being_so(key):
    """It counted as over its limit, so that no fault survived whatever was loosened."""
    plenty = replace(WEAK, numbers={**WEAK.numbers, key: 10.0, f"{key}.least": 3.0})
    assert [found.key for found in survivors([plenty], WIDER)] == ["bf16.cache_rho"]
    few = replace(WEAK, numbers={**WEAK.numbers, key: 2.0, f"{key}.least": 3.0})
    assert survivors([few], WIDER) == []


def test_recorded_numbers_say_on_which_side_of_their_limits_they_should_be():
    checks = LimitCheck.none("A", "a", 0, "some are there"), LimitCheck.some("B", "b", 2, "none is there")
    assert numbers_of(checks) == {"a": 0.0, "a.limit": 0.0, "b": 2.0, "b.least": 1.0}


WIDE_ATTENTION = Operators(
    (StratumError("attention of layer 0 in decode", 3.5, 1.0, 1.0, 1.0, 1.0, 0.0),), (ExactTrial("values", 9, 0),)
)


def test_fault_of_eagers_attention_alone_would_survive_a_wider_limit():
    """Eager is held to the limits of a profile too; nothing else catches this one."""
    known = fault(evidence(*GOOD, trusts=(replace(TRUST, attention=WIDE_ATTENTION), NATIVE)))
    assert known.outcome is Outcome.BASELINE_UNTRUSTED
    assert survivors([known], LIMITS) == []
    assert [(found.key, found.limit) for found in survivors([known], WIDER)] == [("fp32.eager_attention", "fp32_rho")]


@pytest.mark.parametrize(
    "attention", [Operators(()), replace(WIDE_ATTENTION, exact=(ExactTrial("values", 9, 1),))], ids=["none", "exact"]
)
def test_fault_of_eagers_attention_where_nothing_rounds_never_survives(attention):
    known = fault(evidence(*GOOD, trusts=(replace(TRUST, attention=attention), NATIVE)))
    assert known.outcome is Outcome.BASELINE_UNTRUSTED
    assert survivors([known], WIDER) == []


def test_results_recorded_under_other_limits_are_refused():
    """Otherwise a loosened limit would be measured from itself."""
    moved = judge(CASE, Property.EQUIVALENCE, evidence(rung(Dtype.FP32), rung(ratio=3.0)), limits=WIDER)
    with pytest.raises(
        HarnessError, match=r"fault old: bf16.cache_rho was held to 1.8, but should be to the table's 1.5 \("
    ):
        survivors([RecordedFault("old", moved.outcome, {"bf16.cache_rho": 3.0, "bf16.cache_rho.limit": 1.8})], WIDER)


def test_caught_fault_without_a_number_that_caught_it_is_refused():
    with pytest.raises(HarnessError, match="fault odd: was caught, but no number with a limit is recorded"):
        survivors([replace(WEAK, name="odd", numbers={"claims_broken": 1.0})], WIDER)


def test_number_that_rounding_put_on_its_limit_still_counts():
    """Results are recorded to a few digits."""
    edge = replace(WEAK, numbers={"bf16.cache_rho": 1.5, "bf16.cache_rho.limit": 1.5})
    assert [found.key for found in survivors([edge], WIDER)] == ["bf16.cache_rho"]


@pytest.fixture
def results(tmp_path):
    """Writes results of a catalogue, and returns their file."""

    def write(*faults):
        path = tmp_path / "results.json"
        cells = [{"outcome": known.outcome, "numbers": known.numbers} for known in faults]
        entries = [
            {"name": known.name, "set": "first", "cells": {"ladder": cell}}
            for known, cell in zip(faults, cells, strict=True)
        ]
        path.write_text(json.dumps({"faults": entries}))
        return path

    return write


def test_loosening_is_refused_if_a_fault_would_survive(results):
    with pytest.raises(HarnessError) as refused:
        refuse_survivors(limits_of(calibration(bf16_cache_rho=1.4)), results(STRONG, WEAK))
    assert str(refused.value) == (
        "fault weak would survive: its bf16.cache_rho is 1.6, over 1.5 today, but within 1.75 with limit half_part_rho"
    )


def test_loosening_passes_if_every_fault_is_still_caught(results):
    refuse_survivors(limits_of(calibration(bf16_cache_rho=1.4)), results(STRONG))


def test_nothing_is_loosened_without_the_catalogues_results(tmp_path):
    """The table's own limits need none."""
    absent = tmp_path / "results.json"
    refuse_survivors(limits_of(calibration(bf16_cache_rho=1.1)), absent)
    with pytest.raises(HarnessError) as refused:
        refuse_survivors(limits_of(calibration(bf16_cache_rho=1.4)), absent)
    assert str(refused.value) == (
        f"{absent}: is missing, so that no limit may be loosened, but half_part_rho 1.75 instead of 1.5 is asked for "
        "(record the fault catalogue's results)"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no JSON: "),
        ("[]", "lacks faults ("),
        ('{"faults": []}', "holds no faults, but should hold the catalogue ("),
        ('{"faults": [{"name": "a", "cells": {"fp32": {}}}]}', "faults[0].cells: lacks ladder ("),
        ('{"faults": [{"cells": {"ladder": {"outcome": "PASS", "numbers": {}}}}]}', "faults[0]: lacks name ("),
        (
            '{"faults": [{"name": "a", "cells": {"ladder": {"outcome": "FINE", "numbers": {}}}}]}',
            "faults[0].cells.ladder.outcome: is 'FINE', but should be one of PASS, ",
        ),
        (
            '{"faults": [{"name": "a", "cells": {"ladder": {"outcome": "PASS", "numbers": {"fp32.rho": "one"}}}}]}',
            "numbers.fp32.rho: is 'one', but should be a number",
        ),
        (
            '{"faults": [{"name": "a", "cells": {"ladder": {"outcome": "PASS", "numbers": []}}}]}',
            "numbers: is [], but should be a dict",
        ),
    ],
)
def test_broken_results_are_refused_by_place(tmp_path, text, told):
    """A file that cannot be read is not the same as none."""
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(CorruptRecord) as refused:
        read_faults(path)
    assert str(refused.value).startswith(str(path))
    assert told in str(refused.value)


def test_infinite_numbers_survive_the_file(results, tmp_path):
    """JSON has no word for them, and they stand as strings."""
    path = results(WEAK)
    for word in ("inf", "Infinity"):
        path.write_text(path.read_text().replace(": 1.6,", f': "{word}",'))
        [known] = read_faults(path)
        assert known.numbers["bf16.cache_rho"] == math.inf
    assert read_faults(tmp_path / "absent.json") is None


def test_fault_that_could_not_run_is_no_fault_that_a_limit_caught(tmp_path):
    """It has no cells; one whose verdict needed no numbers has none."""
    caught = {"outcome": "NOT_ENGAGED"}
    entries = [{"name": "away", "cells": {}}, {"name": "lie", "cells": {"ladder": caught}}]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"faults": entries}))
    assert read_faults(path) == (RecordedFault("lie", Outcome.NOT_ENGAGED, {}),)
