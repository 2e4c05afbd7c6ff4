"""A made-up run in which much fails, with its folder, for tests of what shows it."""

from __future__ import annotations

import math
from dataclasses import replace

from harness.judging.correctness import judge
from harness.judging.measured import judge_measured
from harness.judging.verdicts import unsupported
from harness.records.codec import write_record
from harness.records.enums import Dtype, Outcome, Property, Technique
from harness.records.evidence import EagerCheck, EngagementCheck
from harness.records.measurements import MemoryComparison
from harness.records.run import EXAMPLES, Run
from suites.meta.builders.evidence import FLOOR, TRUE, TRUST, evidence, rung
from suites.meta.builders.judging import expectation
from suites.meta.builders.recorded_runs import ENVIRONMENT, case, verdict
from suites.meta.builders.timings import HELD, MIB, WORK, measured, speed

HOSTILE = "\x1b[31mred\x1b[0m <script>console.error('run')</script></details></p>\x00 \udcff & \"quoted\" {{ 7 * 7 }}"
"""What a message of a foreign exception may be."""
EAGER, SDPA, STATIC = case("eager"), case("attention.sdpa"), case("caching.static")
TIMED, SLOWER = case("caching.static", workload="decode_b1"), case("attention.sdpa", workload="decode_b16")
AWAY = case("attention.flash_attention_2")
LOST = case("attention.sdpa_math")
RELATION = replace(SDPA, workload=replace(SDPA.workload, name="padding"))
LIE = EngagementCheck("attention in prefill", "8 × aten::_scaled_dot_product_*", "8 × aten::_softmax", holds=False)
STEPS = (1.0, 0.8, 1.3, 1.0, 0.9, 1.1, 1.25, 1.0)
COUNTED = replace(WORK, decode_flops=2e6, prefill_bytes=5e6)
"""Work as the roofline needs it."""
WRONG = (1.0, 1.2, 0.0, 3.5, 180.0, 1e7, math.inf, 2.0)


def _seen(of, *, ratio=1.0, steps=STEPS, claims=(TRUE,)):
    """Evidence of a case in both dtypes."""
    trusts = (TRUST, EagerCheck(Dtype.BF16, repeats=True, relative_error=1e-2))
    rungs = (rung(Dtype.FP32, ratio=ratio, claims=claims, steps=steps), rung(claims=claims, steps=(1.0,) * 8))
    return replace(evidence(*rungs, trusts=trusts, floor=FLOOR), case=of.id)


def _judged(of, seen):
    return [judge(of, asked, seen) for asked in (Property.ENGAGEMENT, Property.EQUIVALENCE)]


def _claims():
    tick = replace(verdict(TIMED, Outcome.DOES_NOT_HOLD, asked=Property.CLAIM), case="overview.caching.speed")
    tick = replace(tick, message=f"{tick.case}: it is slower", technique=Technique.CACHING)
    figures = {"speedup": 0.5, "speedup.low": 0.4, "speedup.high": 0.6}
    good = replace(verdict(SDPA, asked=Property.CLAIM), case="sdpa_needs_no_square", message="it holds")
    return [replace(tick, numbers=figures), good]


def made_up(folder):
    """The run, after its evidence and measurements were written into `folder`."""
    seen = {
        EAGER: _seen(EAGER, steps=(1.0,) * 8),
        SDPA: _seen(SDPA, claims=(TRUE, LIE)),
        STATIC: _seen(STATIC, ratio=180.0, steps=WRONG),
        TIMED: _seen(TIMED),
        SLOWER: _seen(SLOWER),
    }
    verdicts = [each for of, found in seen.items() for each in _judged(of, found)]
    weighed = MemoryComparison(replace(HELD, peak=90 * MIB), HELD, kv_exact=True, own_weights=True)
    timings = {
        TIMED: measured(TIMED.id, speed=speed(2.0, dropped=3, work=COUNTED), memory=weighed),
        SLOWER: measured(SLOWER.id, speed=speed(0.9, count=20)),
    }
    for of, found in timings.items():
        equivalent = next(each for each in verdicts if (each.case, each.property) == (of.id, Property.EQUIVALENCE))
        limits = expectation(speed_min=1.1, memory_max=1.2)
        verdicts += [judge_measured(of, asked, equivalent, found, limits) for asked in Property if asked.measured]
        write_record(folder / "measurements" / f"{of.id}.json", found)
    for of, found in seen.items():
        write_record(folder / "evidence" / f"{of.id}.json", found)
    violated = verdict(RELATION, Outcome.MISMATCH)
    verdicts += [
        replace(violated, message=f"{RELATION.id}: it differs", numbers={EXAMPLES: 17.0, "seed": 0.0}),
        replace(verdict(LOST, Outcome.CRASHED), message=f"{LOST.id}: {HOSTILE}"),
        unsupported(AWAY, Property.ENGAGEMENT, "needs cuda: there is none"),
        *_claims(),
    ]
    run = Run(3, "here", ENVIRONMENT, "2026-01-02T03:04:05+00:00", "2026-01-02T03:10:15+00:00", 1, tuple(verdicts))
    write_record(folder / "run.json", run)
    return run
