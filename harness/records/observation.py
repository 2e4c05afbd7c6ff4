"""What was seen while a path ran, as plain data: no tensors, no modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

NO_CACHE = "none"
"""What stands for the class of a cache where there is none."""


class Phase(StrEnum):
    PREFILL = "prefill"
    DECODE = "decode"


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
class CacheLayer:
    """One attention layer of the cache that a run returned."""

    kind: str
    """Name of its class."""
    dtype: str
    """Of the keys and values that it stores as they are."""
    device: str
    """Where they lie after the run."""
    kept: int
    """Positions that it stores, in whatever form."""
    packed: int = 0
    """Positions of these that it stores quantized."""
    bits: float = 0.0
    """Bits that one value of those takes, without scales and zero points."""


@dataclass(frozen=True)
class LayerKind:
    """The modules of one kind that the `kernels` package may exchange, over the whole model."""

    name: str
    """As the model registered them: `RMSNorm`, ..."""
    modules: int
    kernelized: int
    """Modules whose forward is not their class's any more."""
    calls: int = 0
    """Calls of these modules; counted only for a path that changes layers."""
    kernel_calls: int = 0
    """Calls that a local kernel itself counted."""


@dataclass(frozen=True)
class LinearKind:
    """The linear layers of one kind, over the whole model."""

    kind: str
    """Name of their class."""
    weight: str
    """Name of the class of their weight."""
    bits: float
    """Bits of each packed weight, without scales and zero points; 0 if weights are not packed."""
    names: tuple[str, ...]
    """Where they stand in the model."""


@dataclass(frozen=True)
class Shard:
    """A parameter that the plan of a parallel model names."""

    name: str
    style: str
    """What the plan says of its module: `colwise`, `rowwise`, ..."""
    whole: tuple[int, ...]
    """Shape of the parameter."""
    kept: tuple[int, ...]
    """Shape of what this rank keeps of it."""


@dataclass(frozen=True)
class Rank:
    """One process of a parallel model."""

    shards: tuple[Shard, ...]
    bytes_kept: int
    """Of all parameters, on this rank."""
    bytes_whole: int
    """Of all parameters, on all ranks together and each once."""
    elements: int
    """Values of all parameters, likewise."""
    collectives: Mapping[str, int]
    """Operators in which ranks wait for each other, by name."""
    agrees: bool = True
    """Whether it gave the logits and tokens of the first rank, bit for bit."""


@dataclass(frozen=True)
class Batching:
    """How requests were served by continuous batching."""

    implementation: str
    """Attention implementation of the model's config while they were."""
    steps: int
    """Forward passes."""
    prompts: tuple[int, ...]
    """Tokens of each request's prompt, in the order in which they were submitted."""
    prefilled: int
    """Prompt tokens that went through the model."""
    shared: int
    """Prompt tokens found in pages of earlier requests."""
    chunks: int
    """Most steps that the prefill of one request took."""
    in_flight: tuple[int, ...]
    """Requests in each step."""
    widest: int
    """Most tokens in one step."""
    pages: int
    page: int
    """Tokens of a page."""
    replays: int
    """Steps that replayed a CUDA graph."""
    captures: int
    """Steps that captured a CUDA graph: the first of a shape, which runs by itself and then again to be recorded."""
    dropped: tuple[str, ...]
    """Logits processors that continuous batching left out."""
    errors: tuple[str, ...]
    """What failed requests say: nothing is raised."""

    @property
    def largest(self) -> int:
        """Most requests in one step."""
        return max(self.in_flight, default=0)


@dataclass(frozen=True)
class Observation:
    """What was seen while `generate` ran, forced and free, as plain data: no tensors, no modules."""

    device: str
    dtype: str
    """Of the model's weights, as torch names it."""
    attention_implementation: str
    """Of the model's config, after loading."""
    padded: bool
    """Whether rows were padded, so that attention needs a mask."""
    attention: tuple[AttentionCall, ...]
    kernel_calls: tuple[AttentionCall, ...]
    """Calls that a loaded attention kernel itself counted."""
    prefills: int
    """Forward passes over prompts: one per run of `generate`."""
    decode_steps: int
    """Forward passes after the prefills."""
    caches: tuple[str, ...]
    """Class of the cache that each run returned."""
    cache_layers: tuple[CacheLayer, ...]
    """Their attention layers, run by run."""
    lengths: tuple[int, ...]
    """Positions that were fed to the cache of each run."""
    windows: tuple[int, ...]
    """Sliding window of each attention layer; 0 for a layer that attends to everything."""
    shared: int
    """Attention layers, the last ones, that read the keys and values of an earlier layer and have none in the cache."""
    layers: tuple[LayerKind, ...]
    linears: tuple[LinearKind, ...]
    head: str
    """Where the linear that gives the logits stands."""
    collectives: Mapping[str, int]
    """Operators in which processes exchange data, by name."""
    packed_calls: Mapping[str, int]
    """Calls of operators and functions that multiply with packed weights, by name."""
    regions: Mapping[str, int]
    """Times that code compiled by dynamo was entered, by the name of the function that was compiled."""
    inductor_calls: int
    """Times that a graph compiled by inductor ran: dynamo may also hand its graphs to a backend that does nothing."""
    graphs: int
    """Graphs that torch.compile captured."""
    graph_breaks: tuple[str, ...]
    recompiles: tuple[str, ...]
    """Reasons, one per recompilation."""
    compile_modes: tuple[str, ...] = ()
    """The `mode` of each call of torch.compile."""
    cudagraph_inputs: int = 0
    """Inputs that change between replays, over all CUDA graphs that inductor recorded: a decode step has its tokens."""
    cudagraph_skips: int = 0
    """Graphs that inductor did not record as CUDA graphs though asked to; every graph, where there is no CUDA."""
    batching: Batching | None = None
    """Of requests that were served by continuous batching."""
    ranks: tuple[Rank, ...] = ()
    """Of a model that is spread over several processes."""
    recompile_limit: str = ""
    """What torch said when it stopped compiling and fell back to eager; empty if it did not."""

    @property
    def compiled_calls(self) -> int:
        return sum(self.regions.values())

    @property
    def cache_windows(self) -> tuple[int, ...]:
        """The windows of those layers that have a place in the cache."""
        return self.windows[: len(self.windows) - self.shared]

    @property
    def forwards(self) -> int:
        """Forward passes of the model."""
        return self.batching.steps if self.batching else self.prefills + self.decode_steps

    @property
    def cached(self) -> bool:
        return any(cache != NO_CACHE for cache in self.caches)

    def calls(self, phase: Phase) -> int:
        """How many attention calls a phase must make: one per attention layer and forward pass. Without a cache, every
        pass is over the whole sequence, as a prefill is."""
        passes = {Phase.PREFILL: self.prefills, Phase.DECODE: self.decode_steps}
        if not self.cached:
            passes = {Phase.PREFILL: self.prefills + self.decode_steps, Phase.DECODE: 0}
        return len(self.windows) * passes[phase]


EAGER_ATTENTION = "aten::_softmax"
"""The operator that shows attention computed by transformers' own eager code: a softmax over a matrix of scores."""
