"""What an optimization is: how it is applied, and what must be seen for it to count as engaged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from harness.machine.needs import Need
from harness.records import Claim, Engagement
from harness.vocabulary import Technique, Tolerance

EAGER_ATTENTION = "aten::_softmax"
"""The operator that shows attention computed by transformers' own eager code: a softmax over a matrix of scores."""


class Phase(StrEnum):
    PREFILL = "prefill"
    DECODE = "decode"


class Aspect(StrEnum):
    """A part of the forward pass that an optimization may exchange. What it does not name must stay as in eager."""

    ATTENTION = "attention"
    CACHE = "cache"
    COMPILATION = "compilation"


@dataclass(frozen=True)
class AttentionCall:
    """One call of an attention operator or kernel."""

    phase: Phase
    operator: str
    """The operator's name as torch dispatched it, or `repository:function` of a kernel."""
    masked: bool = False
    """Whether a mask, or lengths of unpadded sequences, came with it. Eager adds its mask before the softmax, where
    it cannot be seen."""


@dataclass(frozen=True)
class Observation:
    """What was seen while `generate` ran, forced and free, as plain data: no tensors, no modules."""

    device: str
    attention_implementation: str
    """Of the model's config, after loading."""
    padded: bool
    """Whether rows were padded, so that attention needs a mask."""
    attention: tuple[AttentionCall, ...]
    kernel_calls: tuple[AttentionCall, ...]
    """Calls that a loaded kernel itself counted."""
    attention_layers: int
    prefills: int
    """Forward passes over prompts: one per run of `generate`."""
    decode_steps: int
    """Forward passes after the prefills."""
    caches: tuple[str, ...]
    """Class of the cache that each run returned."""
    cache_layers: tuple[str, ...]
    """Class of each of their layers."""
    compiled_calls: int
    """Times that a region compiled by dynamo was entered."""
    inductor_calls: int
    """Times that a graph compiled by inductor ran: dynamo may also hand its graphs to a backend that does nothing."""
    graphs: int
    """Graphs that torch.compile captured."""
    graph_breaks: tuple[str, ...]
    recompiles: tuple[str, ...]
    """Reasons, one per recompilation."""
    cudagraph_inputs: int = 0
    """Inputs that change between replays, over all CUDA graphs that inductor recorded: a decode step has its tokens."""
    cudagraph_skips: int = 0
    """Graphs that inductor did not record as CUDA graphs though asked to; every graph, where there is no CUDA."""
    recompile_limit: str = ""
    """What torch said when it stopped compiling and fell back to eager; empty if it did not."""

    def calls(self, phase: Phase) -> int:
        """How many attention calls a phase must make: one per attention layer and forward pass."""
        return self.attention_layers * (self.prefills if phase is Phase.PREFILL else self.decode_steps)


class Optimization(ABC):
    """One way to make inference faster or smaller. Subclasses are frozen dataclasses: workers get them by pickle."""

    name: str
    """`technique.variant`, as in case ids."""
    technique: ClassVar[Technique]
    tolerance: ClassVar[Tolerance] = Tolerance.REORDERED
    changes: ClassVar[frozenset[Aspect]] = frozenset()

    @abstractmethod
    def claims(self, seen: Observation) -> list[Claim]:
        """What must hold for this optimization to count as engaged, compared with what was seen. Pure."""

    def needs(self) -> tuple[Need, ...]:
        return ()

    def load_options(self) -> Mapping[str, Any]:
        """Keyword arguments of `from_pretrained`, beyond those of eager. Runs in the worker."""
        return {}

    def generate_options(self) -> Mapping[str, Any]:
        """Keyword arguments of `generate`. Runs in the worker."""
        return {}

    def applied(self) -> AbstractContextManager[Any]:
        """What must surround `generate`. Runs in the worker."""
        return nullcontext()


def engagement(optimization: Optimization, seen: Observation) -> Engagement:
    """Judge what was seen: the optimization's own claims, and eager's for every aspect that it leaves alone, so that
    a measured gain is not another optimization's."""
    claims = optimization.claims(seen)
    for aspect, unchanged in UNCHANGED.items():
        if aspect not in optimization.changes:
            claims += unchanged(seen)
    kernels = {f"{call.phase} {call.operator}" for call in (*seen.attention, *seen.kernel_calls)}
    return Engagement(tuple(claims), tuple(sorted(kernels)))


def equal(what: str, requested: object, observed: object) -> Claim:
    """The claim that two values are equal."""
    return Claim(what, str(requested), str(observed), requested == observed)


def attention_claim(
    seen: Observation, phase: Phase, operators: str, *, calls: tuple[AttentionCall, ...] | None = None
) -> Claim:
    """The claim that a phase made all its attention calls through operators that match the pattern `operators`.

    In the prefill of padded rows each must come with a mask. Later, padding may have left a sliding window; and eager's
    mask cannot be seen at its operator.
    """
    made = [call for call in (seen.attention if calls is None else calls) if call.phase is phase]
    must_mask = seen.padded and phase is Phase.PREFILL and operators != EAGER_ATTENTION
    masked = sum(call.masked for call in made)
    holds = (
        len(made) == seen.calls(phase) > 0
        and all(fnmatchcase(call.operator, operators) for call in made)
        and (masked == len(made) or not must_mask)
    )
    observed = tally(Counter(call.operator for call in made)) + (f" ({masked} masked)" if masked else "")
    requested = f"{seen.calls(phase)} × {operators}" + (" (all masked)" if must_mask else "")
    return Claim(f"attention in {phase}", requested, observed, holds)


def tally(counts: Mapping[str, int]) -> str:
    """Counted names in words, for requested and observed: `4 × aten::_softmax`."""
    return ", ".join(f"{count} × {name}" for name, count in sorted(counts.items())) or "none"


def eager_attention(seen: Observation) -> list[Claim]:
    """Attention is transformers' eager code. A compiled decode hides its operators; its prefill does not."""
    phases = list(Phase) if seen.compiled_calls == 0 else [Phase.PREFILL]
    return [attention_claim(seen, phase, EAGER_ATTENTION) for phase in phases]


def dynamic_cache(seen: Observation) -> list[Claim]:
    """The cache grows, as `generate` does it when nothing is asked for."""
    return [equal("cache", "DynamicCache", ", ".join(sorted(set(seen.caches))))]


def not_compiled(seen: Observation) -> list[Claim]:
    """Nothing was compiled."""
    return [equal("compiled calls", 0, seen.compiled_calls)]


UNCHANGED = {
    Aspect.ATTENTION: eager_attention,
    Aspect.CACHE: dynamic_cache,
    Aspect.COMPILATION: not_compiled,
}
