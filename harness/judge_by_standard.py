"""What a case is held to by a standard: the same for a session and for a finished run that is judged again."""

from __future__ import annotations

from harness.judge import judge
from harness.judge_measured import Bar
from harness.machine.standard import Standard
from harness.measurement.thresholds import threshold_of
from harness.paths.base import Optimization
from harness.records import Case, Evidence, Verdict
from harness.vocabulary import Property


def judge_evidence(case: Case, asked: Property, evidence: Evidence, *, standard: Standard) -> Verdict:
    """The verdict on a property by evidence; of one that is measured that on equivalence, which stands before it."""
    first = Property.EQUIVALENCE if asked.measured else asked
    return judge(case, first, evidence, limits=standard.limits, stored=standard.stored.get(case.id))


def bar_of(case: Case, path: Optimization, *, standard: Standard) -> Bar:
    """What measurements are held to. On a CPU the overview's claim of speed is one only where the path should gain
    there."""
    claimed = case.device != "cpu" or case.workload.timed in path.pays_in()
    threshold = threshold_of(case, standard.thresholds, control=path.control, claimed=claimed)
    return Bar(threshold, *standard.recorded(case.id, case.technique))
