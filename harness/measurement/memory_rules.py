"""Bytes to within-limits or not, with the reason of each limit. Pure numbers: no torch, no I/O.

Names M1 to M6 are those of the rules in README. All numbers are in MiB, of 2**20 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.equivalence.rules import Finding
from harness.measured import Held, Memory

MIB = 2**20


@dataclass(frozen=True)
class Slack:
    """What a kind of device adds to equal work."""

    peak: float
    """Share of the peak by which two processes may differ."""
    peak_bytes: int
    """And in any case."""
    growth: float
    """Share of the peak that may be left behind by two more runs."""
    growth_bytes: int
    """If more than that share."""


PROCESS = Slack(peak=0.03, peak_bytes=16 * MIB, growth=0.03, growth_bytes=16 * MIB)
"""Resident memory also holds the interpreter's objects and pages of libraries that a run is the first to touch. Peaks
of one case in fresh processes differ by up to 0.3 % (`mini`) or 0.4 MiB (tiny models), and two runs leave up to 0.06
MiB behind; another kind of attention needs 34 instead of 51 MiB of code, which is left out of the peak as far as it is
loaded by the first run, and 16 MiB are for what is not."""
ALLOCATOR = Slack(peak=0.01, peak_bytes=2 * MIB, growth=0.01, growth_bytes=2 * MIB)
"""CUDA's allocator counts tensors, of every process alike: what remains is rounding to its blocks, of 2 MiB where they
are small (docs.pytorch.org/docs/stable/notes/cuda.html, memory management)."""


def findings(
    memory: Memory, *, device: str, ratio_limit: float | None, weights_limit: float | None = None
) -> list[Finding]:
    """Every rule that applies, violated or not. `ratio_limit` is the most that the candidate's peak may be of eager's,
    `weights_limit` the same of the bytes of its weights; None to leave either open."""
    found = list(_findings(memory, ratio_limit, PROCESS if device == "cpu" else ALLOCATOR))
    if weights_limit is not None and memory.eager.weights:
        share = memory.candidate.weights / memory.eager.weights
        found.append(Finding("M6", "weights_ratio", "bytes of weights over those of eager's", share, weights_limit))
    return found


def _findings(memory: Memory, ratio_limit: float | None, slack: Slack) -> Iterator[Finding]:
    candidate, eager = memory.candidate, memory.eager
    if memory.own_weights:
        # The same tensors under another name: any difference is a copy, or a part that was not loaded.
        yield _equal("M1", "weights_mib", "MiB of weights {} eager's {}", got=candidate.weights, wanted=eager.weights)
    if memory.kv_exact:
        # A cache that keeps what it must, as it is, has no reason for a byte more or less.
        what = "MiB of keys and values {} the formula's {}"
        yield _equal("M2", "kv_mib", what, got=candidate.kv, wanted=candidate.kv_expected)
    elif candidate.kv_expected:
        what = f"MiB by which packed keys and values are less than the formula's {candidate.kv_expected / MIB:.4g}"
        saved = max(0, candidate.kv_expected - candidate.kv) / MIB
        yield Finding("M2", "kv_saved_mib", what, saved, 1 / MIB, at_most=False)  # one byte: less, however little
    for side, held in (("", candidate), ("eager's ", eager)):
        # A run that took less than what it cannot do without was not measured.
        what = f"{side}peak in MiB, which holds weights, keys, values and logits,"
        yield Finding(
            "M3", f"{'eager_' if side else ''}least_mib", what, held.peak / MIB, held.least / MIB, at_most=False
        )
    if ratio_limit is not None:
        limit = ratio_limit * eager.peak * (1 + slack.peak) + slack.peak_bytes
        what = f"peak in MiB, beside {eager.peak / MIB:.4g} of eager,"
        yield Finding("M4", "peak_mib", what, candidate.peak / MIB, limit / MIB)
    yield _growth(candidate, slack)


def _growth(held: Held, slack: Slack) -> Finding:
    """Of the candidate. A leak in proportion to its peak is found as well as one of many bytes."""
    limit = max(slack.growth_bytes, slack.growth * held.peak)
    what = "what equal runs leave behind in MiB"
    return Finding("M5", "growth_mib", what, max(0, held.growth) / MIB, limit / MIB)


def _equal(rule: str, key: str, what: str, *, got: int, wanted: int) -> Finding:
    """Held against 0 as a difference: of large numbers the digits that differ would not be seen. `what` has a place for
    `beyond` or `short of`, and one for what is wanted."""
    told = what.format("beyond" if got >= wanted else "short of", f"{wanted / MIB:.4g}")
    return Finding(rule, key, told, abs(got - wanted) / MIB, 0.0)
