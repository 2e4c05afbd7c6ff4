"""Planted faults: the right thing runs, computes something slightly else, and is caught.

`pytest suites/meta/faults/test_faults.py` prints by what factor each fault exceeded the closest limit in each
precision.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest

from fixtures.workloads import PROBES
from harness.execution.runner import Runner
from harness.judging.correctness import judge
from harness.judging.correctness_rules import findings, trust_findings
from harness.records.enums import Dtype, Outcome, Property

LADDER = (Dtype.FP32, Dtype.FP16, Dtype.BF16)

FAULTS = {
    "of_attention:attention_scale_half_percent": "attention.sdpa",
    "of_layers:norm_epsilon": "attention.sdpa",
    "of_caches:stale_static_write": "caching.static",
}
"""One that half precision sees at the operator, one that it does not see, and a gross one. All others are planted by
`tox run -e faults`."""


def report(request, lines):
    """Write to the terminal past pytest's capturing."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        reporter.ensure_newline()
        for line in lines:
            reporter.write_line(line)


@pytest.fixture(scope="module")
def table(request):
    """Collects factors by fault and dtype, and prints them when the module is done."""
    rows = defaultdict(dict)
    yield rows
    columns = {
        fault: "".join(f"  {d} ×{factor:<9.3g}" for d, factor in factors.items()) for fault, factors in rows.items()
    }
    report(request, [f"{fault:24}{line}" for fault, line in columns.items()])


def factor(found):
    """By what factor the most exceeded limit is exceeded. Limits of zero (nothing may differ) know no factor."""
    return max([finding.excess for finding in found if finding.limit])


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_a_mismatch(runner, planned_case, table, fault):
    """The candidate engages, and its error exceeds a limit; in float32 by a wide margin."""
    case, optimization = planned_case(FAULTS[fault])
    evidence = runner.evidence(case, optimization, fault=f"suites.meta.faults.{fault}", rungs=LADDER)
    verdict = judge(case, Property.EQUIVALENCE, evidence)
    for rung in evidence.rungs:
        table[fault][rung.dtype] = factor(findings(rung, evidence.tolerance))
    assert judge(case, Property.ENGAGEMENT, evidence).outcome is Outcome.PASS
    assert verdict.outcome is Outcome.MISMATCH, verdict.message
    assert "but should be at most" in verdict.message
    assert table[fault][Dtype.FP32] > 3


def test_lost_cache_position_shows_in_half_precision_in_the_cache_alone(runner, planned_case, request):
    """R6 and nothing else: bfloat16's own error hides in the logits what it cannot hide in keys and values."""
    case, optimization = planned_case("attention.sdpa")
    fault = "suites.meta.faults.of_caches:zeroed_slot"
    evidence = runner.evidence(case, optimization, fault=fault, rungs=(Dtype.BF16,))
    found = findings(evidence.rungs[0], evidence.tolerance)
    report(request, [f"zeroed_slot in bf16: {finding}" for finding in found])
    assert {finding.rule for finding in found if finding.violated} == {"R6"}
    assert {finding.rule for finding in found} == {"finite", "R1", "R3", "R4", "R5", "R6", "O", "S"}
    verdict = judge(case, Property.EQUIVALENCE, evidence)
    assert verdict.outcome is Outcome.MISMATCH
    assert "cache error over eager's (layer 1 " in verdict.message


def test_wrong_scale_of_a_quantized_cache_shows_against_its_twin_alone(runner, planned_case):
    """A thousandth disappears in what 4 bits cost anyway."""
    case, optimization = planned_case("caching.quantized_quanto4", dtype=Dtype.FP32)
    fault = "suites.meta.faults.of_caches:wrong_scale_of_quantizer"
    evidence = runner.evidence(case, optimization, fault=fault)
    found = findings(evidence.rungs[0], evidence.tolerance, budget=evidence.budget)
    assert {finding.rule for finding in found if finding.violated} == {"L1"}
    assert {finding.rule for finding in found} == {"finite", "R5", "L1", "L2", "R6", "S"}
    assert judge(case, Property.ENGAGEMENT, evidence).outcome is Outcome.PASS


def test_quantizer_that_keeps_nothing_breaks_the_bound_of_its_scheme(runner, planned_case):
    """Also where no figure says what the scheme may cost in the logits."""
    case, optimization = planned_case("caching.quantized_quanto2", dtype=Dtype.FP32)
    fault = "suites.meta.faults.of_caches:quantizer_keeps_nothing"
    evidence = runner.evidence(case, optimization, fault=fault)
    found = findings(evidence.rungs[0], evidence.tolerance, budget=evidence.budget)
    assert {finding.rule for finding in found if finding.violated} == {"L1", "R6"}
    assert judge(case, Property.EQUIVALENCE, evidence).outcome is Outcome.MISMATCH


@pytest.mark.parametrize("fault", ["swapped_block_scales", "dropped_column"])
def test_wrong_kernel_of_rounded_weights_shows_against_the_dense_model_alone(runner, planned_case, request, fault):
    """A text reads as well as before: what the scheme may cost hides a broken kernel."""
    case, optimization = planned_case("quantization.quanto_int4", dtype=Dtype.FP32)
    evidence = runner.evidence(case, optimization, fault=f"suites.meta.faults.of_weights:{fault}")
    found = findings(evidence.rungs[0], evidence.tolerance, budget=evidence.budget)
    report(request, [f"{fault}: {finding}" for finding in found])
    violated = {finding.rule for finding in found if finding.violated}
    assert {"R0", "R6"} <= violated
    assert not {"L2", "E"} & violated
    assert {finding.rule for finding in found} == {"finite", "R0", "R3", "R4", "R5", "R6", "L2", "O", "Q", "S"}
    assert judge(case, Property.ENGAGEMENT, evidence).outcome is Outcome.PASS
    assert judge(case, Property.EQUIVALENCE, evidence).outcome is Outcome.MISMATCH


def test_wrong_attention_beside_a_lossy_cache_shows_without_it(runner, planned_case):
    """Its twin shares every part of the stack but the cache; so each stack also runs without it."""
    name = "stacks.sdpa+quantized_quanto4+layers_local+torchao_int8"
    case, optimization = planned_case(name, dtype=Dtype.FP32)
    evidence = runner.evidence(case, optimization, fault="suites.meta.faults.of_attention:attention_scale_half_percent")
    found = findings(evidence.rungs[0], evidence.tolerance, budget=evidence.budget)
    beside = {finding.rule for finding in found if finding.violated and finding.key.endswith(".beside")}
    assert {"R0", "R6"} <= beside
    assert judge(case, Property.ENGAGEMENT, evidence).outcome is Outcome.PASS


def test_wrong_linear_of_a_dynamic_scheme_shows_in_that_linear_alone(runner, planned_case):
    case, optimization = planned_case("quantization.bnb_int8", dtype=Dtype.FP32)
    fault = "suites.meta.faults.of_weights:wrong_scale_of_llm_int8"
    evidence = runner.evidence(case, optimization, fault=fault)
    found = findings(evidence.rungs[0], evidence.tolerance, budget=evidence.budget)
    assert {finding.rule for finding in found if finding.violated} == {"O"}
    assert {finding.rule for finding in found} == {"finite", "R5", "R6", "O", "L2", "E", "Q", "S"}
    assert "(model.layers.0.self_attn.q_proj in " in judge(case, Property.EQUIVALENCE, evidence).message


@pytest.mark.workers
@pytest.mark.parametrize(
    ("fault", "path"),
    [
        ("wide_blocks_of_nf4", "quantization.bnb_nf4"),
        ("wide_rows_of_llm_int8", "quantization.bnb_int8"),
        ("zero_point_of_quanto_is_one_off", "quantization.quanto_int4"),
    ],
)
def test_wrong_quantizer_shows_against_the_originals_alone(planned_case, request, tmp_path, fault, path):
    """Every load is rounded alike, so a dense model of the same weights agrees, and a text reads as well as before."""
    case, optimization = planned_case(path)
    dtype = optimization.rungs(case)[0]
    dotted = f"suites.meta.faults.of_quantizers:{fault}"
    runner = Runner(probes=PROBES, logs=tmp_path, threads=1, reference_fault=dotted)
    evidence = runner.evidence(replace(case, dtype=dtype), optimization, fault=dotted, rungs=(dtype,))
    runner.close()
    found = findings(evidence.rungs[0], evidence.tolerance, budget=evidence.budget)
    report(request, [f"{fault}: {finding}" for finding in found if finding.violated])
    assert {finding.rule for finding in found if finding.violated} == {"Q"}
    verdict = judge(replace(case, dtype=dtype), Property.EQUIVALENCE, evidence)
    assert "weights that are not what the scheme makes of the originals: " in verdict.message


def test_correct_quantizer_is_right_in_every_weight(runner, planned_case):
    case, optimization = planned_case("quantization.quanto_int4", dtype=Dtype.FP32)
    evidence = runner.evidence(case, optimization)
    found = {each.key: each for each in findings(evidence.rungs[0], evidence.tolerance, budget=evidence.budget)}
    assert found["fp32.misrounded"].got == 0
    assert found["fp32.originals.compared"].got == 983040


def test_lost_entry_of_a_quantized_cache_shows_where_a_short_run_packs(runner, planned_case):
    """With the default residual nothing is packed but the prompt, until 128 positions have come."""
    fault = "suites.meta.faults.of_caches:newest_entries_are_lost_in_packing"
    outcomes = {}
    for path in ("caching.quantized_quanto4", "caching.quantized_quanto4_repacked"):
        case, optimization = planned_case(path, dtype=Dtype.FP32)
        evidence = runner.evidence(case, optimization, fault=fault)
        outcomes[path] = judge(case, Property.EQUIVALENCE, evidence).outcome
        assert judge(case, Property.ENGAGEMENT, evidence).outcome is Outcome.PASS
    assert list(outcomes.values()) == [Outcome.PASS, Outcome.MISMATCH]
    found = findings(evidence.rungs[0], evidence.tolerance, budget=evidence.budget)
    assert "L1" in {finding.rule for finding in found if finding.violated}


@pytest.mark.workers
@pytest.mark.parametrize(("fault", "broken"), [("noisy_eager", "unrepeatable"), ("wrong_eager", "recall")])
def test_broken_eager_is_untrusted(planned_case, table, tmp_path, fault, broken):
    """Nothing is compared with an eager that does not repeat itself, or that cannot recall."""
    case, optimization = planned_case("attention.sdpa")
    runner = Runner(probes=PROBES, logs=tmp_path, reference_fault=f"suites.meta.faults.of_eager:{fault}")
    evidence = runner.evidence(case, optimization, rungs=LADDER)
    runner.close()
    for trust in evidence.trusts:
        table[fault][trust.dtype] = factor(trust_findings(trust, floor=evidence.floor))
    verdict = judge(case, Property.EQUIVALENCE, evidence)
    assert verdict.outcome is Outcome.BASELINE_UNTRUSTED, verdict.message
    found = [finding for trust in evidence.trusts for finding in trust_findings(trust, floor=evidence.floor)]
    assert any(finding.violated for finding in found if broken in finding.key)


@pytest.mark.workers
def test_reference_below_float64_is_refused(planned_case, tmp_path):
    """A cast that the promotion does not reach is found by the audit, and named."""
    case, optimization = planned_case("attention.sdpa", workload="single", dtype=Dtype.FP32)
    runner = Runner(probes=PROBES, logs=tmp_path, reference_fault="suites.meta.faults.of_eager:half_precision_eager")
    verdict = judge(case, Property.EQUIVALENCE, runner.evidence(case, optimization))
    runner.close()
    assert verdict.outcome is Outcome.ERROR
    assert (
        "the float64 reference computed aten._to_copy.default in torch.float16, but should compute" in verdict.message
    )


def test_correct_paths_stay_within(runner, planned_case, table):
    """The same ladder without a fault passes, float16 included."""
    case, optimization = planned_case("attention.sdpa")
    evidence = runner.evidence(case, optimization, rungs=LADDER)
    for rung in evidence.rungs:
        table["none"][rung.dtype] = factor(findings(rung, evidence.tolerance))
    verdict = judge(case, Property.EQUIVALENCE, evidence)
    assert verdict.outcome is Outcome.PASS, verdict.message
