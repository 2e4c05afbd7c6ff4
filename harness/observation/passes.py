"""Forward passes of `generate` in torch's profiler: which of them a call belongs to.

Shapes do not tell: a release may lay the heads of a group beside each other as if they were positions. So whatever runs
`generate` marks where a run begins and where each token is chosen. What comes before the first token is the prefill,
in one pass or in several, and what comes after it is decoding.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.profiler import record_function
from transformers import LogitsProcessor

from harness.errors import NotObservable
from harness.machine.local_kernels import kernel_logs
from harness.records.observation import Phase

PROMPT, TOKEN = "## harness: prompt", "## harness: token"
"""Names of the marks, before the counts that they carry."""
PASSES = (PROMPT, TOKEN)
OPENS = {PROMPT: Phase.PREFILL, TOKEN: Phase.DECODE}
"""Phase that begins with each mark."""

Event = tuple[str, Any]
"""Name and record of what the profiler saw."""


def mark(name: str) -> None:
    """Mark this moment in the profiler. It takes some microseconds, so that it may stand in a timed run."""
    with record_function(f"{name} "):
        pass


def mark_counts(name: str) -> None:
    """Mark this moment, with how many calls each local kernel has counted so far. It takes less than a millisecond."""
    counts = " ".join(f"{len(log)}={repository}" for repository, log in kernel_logs())
    with record_function(f"{name} {counts}"):
        pass


class TokenMark(LogitsProcessor):
    """Logits processor that marks each forward pass of `generate` at its end, and changes nothing."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        mark_counts(TOKEN)
        return scores


class Passes:
    """The marks of a profile, in order."""

    def __init__(self, events: Iterable[Event]) -> None:
        marks = sorted((event.start_ns(), name) for name, event in events if name.startswith(PASSES))
        self._starts = [start for start, _ in marks]
        self._phases = [OPENS[PROMPT if name.startswith(PROMPT) else TOKEN] for _, name in marks]
        self._counts = [_counts(name) for _, name in marks]

    @property
    def prompts(self) -> int:
        """Number of runs that began."""
        return self._phases.count(Phase.PREFILL)

    @property
    def tokens(self) -> int:
        """Number of tokens that were chosen, each for all rows: the forward passes of which the next token comes."""
        return self._phases.count(Phase.DECODE)

    def phase(self, at: int) -> Phase:
        """Return the phase at a time of the profiler, in nanoseconds. What comes before any mark is a prefill."""
        index = bisect_right(self._starts, at) - 1
        return self._phases[index] if index >= 0 else Phase.PREFILL

    def kernel_phases(self, repository: str, calls: int) -> Iterator[Phase]:
        """Yield the phase of each of the `calls` that a local kernel counted, in their order. Raises NotObservable if
        its count fell meanwhile."""
        phases = [Phase.PREFILL, *self._phases]
        ends = [*(counts[repository] for counts in self._counts), calls]
        if ends != sorted(ends):
            raise NotObservable("calls of local kernels", f"{repository} counted {max(ends)} of them, and then fewer")
        begun = 0
        for phase, end in zip(phases, ends, strict=True):
            yield from [phase] * (end - begun)
            begun = end


def _counts(name: str) -> Counter[str]:
    pairs = (word.partition("=") for word in name.split() if "=" in word)
    return Counter({repository: int(count) for count, _, repository in pairs})
