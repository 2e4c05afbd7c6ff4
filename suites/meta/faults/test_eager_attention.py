"""Faults of eager's attention blame eager, and not the path that is right."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from fixtures.features import FEATURES
from fixtures.models import MODELS
from fixtures.workloads import PROBES
from harness.execution.runner import Runner
from harness.judging.correctness import judge
from harness.records.enums import Dtype, Outcome, Property

pytestmark = pytest.mark.workers

OTHER_KEYS = "eager's attention sees other keys than windows and padding let it see, or other heads: "
OTHER_SCORES = "fp32 error of eager's attention over its definition's (attention of layer 0 in "


def before(evidence):
    """The same evidence as it was recorded before eager's attention was compared."""
    return replace(evidence, trusts=tuple(replace(trust, attention=None) for trust in evidence.trusts))


@pytest.mark.parametrize(
    ("fault", "path", "model", "told", "once"),
    [
        ("eager_window_one_longer", "attention.sdpa", "tiny_olmo3", OTHER_KEYS, "the reference's own error over"),
        ("eager_attends_padding", "attention.sdpa", "small_own_scale", OTHER_KEYS, ""),
        ("eager_without_soft_cap", "caching.static", "small_soft_cap", OTHER_SCORES, ""),
        ("eager_with_the_usual_scale", "attention.sdpa", "small_own_scale", OTHER_SCORES, ""),
    ],
)
def test_fault_of_eagers_attention_blames_eager(planned_case, tmp_path, fault, path, model, told, once):
    """Before, it was a mismatch of the path; or of a cached and an uncached eager, without a word of attention."""
    case, optimization = planned_case(path, dtype=Dtype.FP32)
    case = replace(case, recipe=next(recipe for recipe in (*MODELS, *FEATURES) if recipe.name == model))
    dotted = f"suites.meta.faults.of_eager:{fault}"
    with closing(Runner(probes=PROBES, logs=tmp_path, threads=1, reference_fault=dotted)) as runner:
        evidence = runner.evidence(case, optimization)
    verdict = judge(case, Property.EQUIVALENCE, evidence)
    assert verdict.outcome is Outcome.BASELINE_UNTRUSTED, verdict.message
    assert told in verdict.message
    earlier = judge(case, Property.EQUIVALENCE, before(evidence))
    assert earlier.outcome is (Outcome.BASELINE_UNTRUSTED if once else Outcome.MISMATCH)
    assert once in earlier.message
