"""Hold bytes against limits, with the reason of each limit. Pure numbers: no torch, no I/O.

The names M1 to M6 are those of the rules in docs/performance.md. Records are in bytes, and sizes in findings in MiB of
2**20 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.formatting import MIB, mebibytes
from harness.judging.timings import PerformanceExpectation, nothing_measured
from harness.judging.verdicts import failed, verdict_on
from harness.records.enums import Outcome, Property
from harness.records.evidence import Case
from harness.records.finding import LimitCheck, numbers_of
from harness.records.measurements import Measurements, MemoryComparison
from harness.records.run import Verdict


@dataclass(frozen=True)
class Slack:
    """Memory that a kind of device may add to equal work."""

    peak: float
    """Share of the peak by which two processes may differ."""
    peak_bytes: int
    """Bytes by which two processes may differ in addition to that share."""
    growth: float
    """Share of the peak that two more runs may leave behind."""
    growth_bytes: int
    """Bytes that two more runs may leave behind, if that is more than the share."""


PROCESS = Slack(peak=0.03, peak_bytes=16 * MIB, growth=0.03, growth_bytes=16 * MIB)
"""Slack of a process's resident memory. It also holds the interpreter's objects, and pages of libraries that a run is
the first to touch. Peaks of one case in fresh processes differ by up to 0.3 % (`mini`) or 0.4 MiB (tiny models), and
two runs leave up to 0.06 MiB behind. Another kind of attention needs 34 instead of 51 MiB of code. Code that the first
run loads is left out of the peak; the 16 MiB are for the rest."""
ALLOCATOR = Slack(peak=0.01, peak_bytes=2 * MIB, growth=0.01, growth_bytes=2 * MIB)
"""Slack of CUDA's allocator, which counts tensors alike in every process. What remains is rounding to its blocks, of 2
MiB where they are small (docs.pytorch.org/docs/stable/notes/cuda.html, memory management)."""


def findings(
    memory: MemoryComparison, *, device: str, ratio_limit: float | None, weights_limit: float | None = None
) -> list[LimitCheck]:
    """Return the finding of every rule that applies, violated or not.

    `ratio_limit` bounds the candidate's peak over eager's, and `weights_limit` the bytes of its weights over eager's;
    None leaves either open.
    """
    checks = list(_findings(memory, ratio_limit, PROCESS if device == "cpu" else ALLOCATOR))
    if weights_limit is not None and memory.eager.weights:
        share = memory.candidate.weights / memory.eager.weights
        checks.append(LimitCheck("M6", "weights_ratio", "bytes of weights over those of eager's", share, weights_limit))
    return checks


def _findings(memory: MemoryComparison, ratio_limit: float | None, slack: Slack) -> Iterator[LimitCheck]:
    candidate, eager = memory.candidate, memory.eager
    if memory.own_weights:
        # The same tensors under another name: any difference is a copy, or a part that was not loaded.
        yield _equal("M1", "weights_mib", "MiB of weights {} eager's {}", got=candidate.weights, wanted=eager.weights)
    if memory.kv_exact:
        # A cache that keeps what it must, as it is, has no reason for a byte more or less.
        label = "MiB of keys and values {} the formula's {}"
        yield _equal("M2", "kv_mib", label, got=candidate.kv, wanted=candidate.kv_expected)
    elif candidate.kv_expected:
        label = f"MiB by which packed keys and values are less than the formula's {candidate.kv_expected / MIB:.4g}"
        saved = max(0, candidate.kv_expected - candidate.kv) / MIB
        yield LimitCheck("M2", "kv_saved_mib", label, saved, 1 / MIB, at_most=False)  # one byte: less, however little
    for side, held in (("", candidate), ("eager's ", eager)):
        # A run that took less than what it cannot do without was not measured.
        label = f"{side}peak in MiB, which holds weights, keys, values and logits,"
        yield LimitCheck(
            "M3", f"{'eager_' if side else ''}least_mib", label, held.peak / MIB, held.least / MIB, at_most=False
        )
    if ratio_limit is not None:
        limit = ratio_limit * eager.peak * (1 + slack.peak) + slack.peak_bytes
        label = f"peak in MiB, beside {eager.peak / MIB:.4g} of eager,"
        yield LimitCheck("M4", "peak_mib", label, candidate.peak / MIB, limit / MIB)
    # A leak in proportion to the peak is found as well as one of many bytes.
    limit = max(slack.growth_bytes, slack.growth * candidate.peak)
    label = "what equal runs leave behind in MiB"
    yield LimitCheck("M5", "growth_mib", label, max(0, candidate.growth) / MIB, limit / MIB)


def _equal(rule: str, key: str, template: str, *, got: int, wanted: int) -> LimitCheck:
    """Return the difference of two sizes as a finding with limit 0: of the sizes themselves it would not be seen.
    `template` has a place for `beyond` or `short of`, and one for the wanted size."""
    label = template.format("beyond" if got >= wanted else "short of", f"{wanted / MIB:.4g}")
    return LimitCheck(rule, key, label, abs(got - wanted) / MIB, 0.0)


def judge_memory(case: Case, measured: Measurements, expectation: PerformanceExpectation) -> Verdict:
    property_ = Property.MEMORY
    if measured.memory_failure:
        return failed(case, property_, measured.memory_failure)
    if measured.memory is None:
        return nothing_measured(case, property_)
    memory, threshold = measured.memory, expectation.threshold
    checks = findings(memory, ratio_limit=threshold.memory_max, weights_limit=threshold.weights_max, device=case.device)
    numbers = _bytes(memory) | numbers_of(checks)
    wrong = [finding for finding in checks if finding.violated]
    if wrong:
        # What was not measured right says nothing of the other limits.
        impossible = [finding for finding in wrong if finding.rule == "M3"]
        most = max(impossible or wrong, key=lambda finding: finding.excess)
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        where = f"look into {memory.snapshot}" if memory.snapshot else "its measurements file has every number"
        outcome = Outcome.ERROR if impossible else Outcome.OVER_MEMORY
        return verdict_on(case, property_, outcome, f"{case.id}: {most}{more} ({where})", numbers)
    ours, eagers, least = (
        mebibytes(size) for size in (memory.candidate.peak, memory.eager.peak, memory.candidate.least)
    )
    message = f"peak {ours} beside eager's {eagers}, least {least}; {len(checks)} limits hold"
    return verdict_on(case, property_, Outcome.PASS, message, numbers)


def _bytes(memory: MemoryComparison) -> dict[str, float]:
    """Return what both sides held in bytes, and the candidate's peak over eager's and over the least possible."""
    sizes = {
        f"{side}.{name}": float(value)
        for side, held in (("candidate", memory.candidate), ("eager", memory.eager))
        for name, value in vars(held).items()
        if value is not None
    }
    if memory.eager.peak:
        sizes["memory_ratio"] = memory.candidate.peak / memory.eager.peak
    if memory.candidate.least:
        sizes["memory_overhead"] = memory.candidate.peak / memory.candidate.least - 1
    return sizes
