"""Made-up measurements that a claim of the overview rests on."""

from __future__ import annotations

from dataclasses import replace

from harness.judging.claims import ClaimNumber, OverviewClaim
from harness.records.enums import Dtype, Technique
from harness.records.evidence import Case
from harness.statistics import Interval
from suites.claims.places import PREFILL, TINY

CASE = Case("attention.sdpa", Technique.ATTENTION, TINY, PREFILL, "cpu", Dtype.FP32)


STATED = OverviewClaim("sentence.some", CASE)


FASTER = ClaimNumber("speedup", "speed over eager's", Interval(1.1, 1.2, 1.3), 1.0)


SLOWER = replace(FASTER, got=Interval(0.7, 0.8, 0.9))
