"""Plain data on what was seen while a path ran: no tensors, no modules."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

NO_CACHE = "none"
"""Name that stands for the class of a cache where there is none."""
SDPA = "aten::_scaled_dot_product_"
"""Prefix of torch's fused attention, over tensors of (rows, heads, positions, size)."""
FLASH_OPERATORS, FLASH_FUNCTIONS = ("flash_attn", "_flash_attn"), ("FlashAttn",)
"""Prefixes of operators and functions of flash-attention's packages, and of its kernels from the hub."""
FLASH = FLASH_OPERATORS + FLASH_FUNCTIONS
SERVED, SPREAD = "continuous batching", "tensor parallelism"
"""Parts of observation that concern only paths that serve requests, and only those that run on several ranks."""
EXPERTS = "functions of experts"
"""Part of observation that concerns only paths that change how experts compute."""
INDUCTOR = "inductor's graphs"
"""Part of observation that concerns only paths that compile."""
STATIC_CACHE = ("StaticCache", "StaticLayer", "StaticSlidingWindowLayer")
QUANTIZED_LAYERS = {"quanto": "QuantoQuantizedLayer", "hqq": "HQQQuantizedLayer"}
"""Classes of a quantized cache's layers, by their backend."""
QUANTIZED_CACHE = "QuantizedCache"
CACHE_CLASSES = (*STATIC_CACHE, QUANTIZED_CACHE, *QUANTIZED_LAYERS.values())
"""Classes of transformers.cache_utils by whose names a path tells that it got another cache than the default."""
EAGER_ATTENTION = "aten::_softmax"
"""The operator that shows attention computed by transformers' own eager code: a softmax over a matrix of scores."""


EAGER_EXPERTS = "eager"
"""Name that stands for the function of experts that is their class's own: a loop over experts."""


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
    """Whether a mask, or lengths of unpadded sequences, came with the call. Eager adds its
    mask before the softmax, where it cannot be seen."""
    queries: int = 0
    """Positions of its query; 0 if a kernel does not tell. A release may lay heads among them, and count each."""


@dataclass(frozen=True)
class ExpertsCall:
    """One call of a module of experts."""

    phase: Phase
    function: str
    """Name of the function that transformers looked up and ran; EAGER_EXPERTS for the class's own."""
    products: tuple[str, ...] = ()
    """Operators in it that multiplied with several experts at once, in order."""


@dataclass(frozen=True)
class CacheLayer:
    """One attention layer of the cache that a run returned."""

    kind: str
    """Name of the layer's class."""
    dtype: str
    """Dtype of the keys and values that are stored as they are."""
    device: str
    """Device type on which keys and values lie after the run."""
    kept: int
    """Positions that are stored, in any form."""
    packed: int = 0
    """Positions among these that are stored quantized."""
    bits: float = 0.0
    """Bits of one quantized value, without scales and zero points."""


@dataclass(frozen=True)
class LayerKind:
    """The modules of one kind that the `kernels` package may exchange, over the whole model."""

    name: str
    """Name under which the model registered them: `RMSNorm`, ..."""
    modules: int
    kernelized: int
    """Modules whose forward is no longer their class's."""
    calls: int = 0
    """Calls of these modules; counted only for a path that changes layers."""
    kernel_calls: int = 0
    """Calls that the local kernel itself counted."""


@dataclass(frozen=True)
class LinearKind:
    """The linear layers of one kind, over the whole model."""

    kind: str
    """Name of the layers' class."""
    weight: str
    """Name of the class of their weights."""
    bits: float
    """Bits of each packed weight, without scales and zero points; 0 if weights are not packed."""
    names: tuple[str, ...]
    """Names of the layers in the model."""


SHOWN = 0.01
"""Share of a model's values from which a dense matrix is named."""


@dataclass(frozen=True)
class Matrices:
    """Values of a model's matrices, those of experts included, but for look-up tables and the head."""

    packed: int = 0
    """Number of values that are packed."""
    dense: Mapping[str, int] = field(default_factory=dict)
    """Number of values of each matrix that is not, by the name of its parameter."""

    @property
    def share(self) -> float:
        """Share of all values that are packed, 0 to 1."""
        return self.packed / max(1, self.packed + sum(self.dense.values()))

    @property
    def left_dense(self) -> str:
        """Names of the larger dense matrices, each once for all layers, with its share of all values."""
        total = self.packed + sum(self.dense.values())
        kinds: Counter[str] = Counter()
        for name, values in self.dense.items():
            kinds[re.sub(r"\.\d+\.", ".*.", name)] += values
        large = [(name, values / total) for name, values in kinds.most_common() if values >= SHOWN * total]
        return ", ".join(f"{name} ({share:.0%})" for name, share in large)


@dataclass(frozen=True)
class Shard:
    """A parameter that the plan of a parallel model names."""

    name: str
    style: str
    """Style that the plan gives to the parameter, or to its module: `colwise`, `rowwise`, ..."""
    whole: tuple[int, ...]
    """Shape of the parameter."""
    kept: tuple[int, ...]
    """Shape of the part that this rank keeps."""
    tied: bool = False
    """Whether it is another name of a parameter that has a shard already."""


@dataclass(frozen=True)
class Deprecation:
    """Something that a path asks for, and that a library announces to end."""

    said: str
    """Words of the library, in one line."""
    ends: str = ""
    """Release in which it ends, by these words; empty if they name none."""

    def __str__(self) -> str:
        return f"{self.said} (ends with {self.ends})" if self.ends else self.said


@dataclass(frozen=True)
class Rank:
    """One process of a parallel model."""

    shards: tuple[Shard, ...]
    bytes_kept: int
    """Bytes of all parameters, as kept on this rank."""
    bytes_whole: int
    """Bytes of all parameters, on all ranks together and each once."""
    elements: int
    """Number of values in all parameters, on all ranks together and each once."""
    collectives: Mapping[str, int]
    """Calls of operators in which ranks wait for each other, by name."""
    agrees: bool = True
    """Whether the rank gave the logits and tokens of the first rank, bit for bit."""
    deprecations: tuple[Deprecation, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)
    """Style that the plan gives to each module that it names."""


@dataclass(frozen=True)
class Batching:
    """Facts about requests served by continuous batching."""

    implementation: str
    """Attention implementation in the model's config while requests were served."""
    steps: int
    """Number of forward passes."""
    prompts: tuple[int, ...]
    """Tokens of each request's prompt, in the order in which they were submitted."""
    prefilled: int
    """Prompt tokens that went through the model."""
    shared: int
    """Prompt tokens found in pages of earlier requests."""
    chunks: int
    """Most steps that the prefill of one request took."""
    in_flight: tuple[int, ...]
    """Number of requests in each step."""
    widest: int
    """Most tokens in one step."""
    pages: int
    page: int
    """Tokens per page."""
    replays: int
    """Steps that replayed a CUDA graph."""
    captures: int
    """Steps that captured a CUDA graph: the first of a shape, which runs by itself and then again to be recorded."""
    dropped: tuple[str, ...]
    """Logits processors that continuous batching left out."""
    errors: tuple[str, ...]
    """Messages of failed requests, for which nothing is raised."""

    @property
    def largest(self) -> int:
        """Most requests in one step."""
        return max(self.in_flight, default=0)


GROWING = ("DynamicCache", "DynamicLayer", "DynamicSlidingWindowLayer")
"""Classes of the cache that grows, and of its layers without and with a sliding window."""


@dataclass(frozen=True)
class EagerFacts:
    """Facts that eager showed of a model on the same inputs. Paths are held to them, not to what a config says."""

    prefill_attention: float
    """Calls of attention of one prefill."""
    decode_attention: float
    """Calls of attention of one later forward pass."""
    cache: str
    """Class of its cache."""
    cache_layers: tuple[CacheLayer, ...]
    """Attention layers of its caches, run by run; none for a model without attention."""
    decode_lengths: int = 1
    """Number of different lengths of the queries of those later calls: attention over groups of positions has more."""
    others: tuple[str, ...] = ()
    """Operators other than eager's own by which it attended, which none should be."""
    linears: Mapping[str, float] = field(default_factory=dict)
    """Calls of each linear layer in one forward pass, by its name. A name that is missing stands for one call."""
    packed_linears: int = 0
    """Linear layers that keep packed weights, as those of a model that was saved so."""
    prefill_experts: float = 0
    """Calls of modules of experts of one prefill."""
    decode_experts: float = 0
    """Calls of modules of experts of one later forward pass."""

    @classmethod
    def of_windows(
        cls, windows: tuple[int, ...], *, shared: int, dtype: str, device: str, lengths: tuple[int, ...]
    ) -> EagerFacts:
        """Return what eager should show, by the sliding window of each attention layer, where it was not run.

        `shared` last layers have no place in the cache. `lengths` are the positions that each run was fed.
        """
        cache, full, sliding = GROWING
        layers = tuple(
            CacheLayer(sliding if window else full, dtype, device, min(length, window - 1) if window else length)
            for length in lengths
            for window in windows[: len(windows) - shared]
        )
        return cls(len(windows), len(windows), cache, layers)

    @property
    def slides(self) -> bool:
        """True if any layer keeps only a window of its positions."""
        return any(layer.kind == GROWING[2] for layer in self.cache_layers)


@dataclass(frozen=True)
class Observation:
    """Plain data on what was seen while `generate` ran, forced and free: no tensors, no modules."""

    device: str
    dtype: str
    """Dtype of the model's weights, as torch names it."""
    attention_implementation: str
    """Attention implementation in the model's config, after loading."""
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
    """Attention layers of these caches, run by run."""
    lengths: tuple[int, ...]
    """Positions that were fed to the cache of each run."""
    eager: EagerFacts
    """Facts that eager showed on the same inputs."""
    layers: tuple[LayerKind, ...]
    linears: tuple[LinearKind, ...]
    head: str
    """Name of the linear layer that gives the logits."""
    kept: tuple[str, ...]
    """Ends of the names of modules that the model declares to stay in float32 whatever is asked for."""
    matrices: Matrices
    collectives: Mapping[str, int]
    """Calls of operators in which processes exchange data, by name."""
    packed_calls: Mapping[str, int]
    """Calls of operators and functions that multiply with packed weights, by name."""
    regions: Mapping[str, int]
    """Number of entries into code compiled by dynamo, by the name of the function that was compiled."""
    inductor_calls: int
    """Runs of graphs compiled by inductor. Dynamo may also hand its graphs to a backend that does nothing."""
    graphs: int
    """Number of graphs that torch.compile captured."""
    graph_breaks: tuple[str, ...]
    recompiles: tuple[str, ...]
    """Reasons, one per recompilation."""
    compile_modes: tuple[str, ...] = ()
    """The `mode` of each call of torch.compile."""
    cudagraph_inputs: int = 0
    """Inputs that change between replays, over all CUDA graphs that inductor recorded: a decode step has its tokens."""
    cudagraph_skips: int = 0
    """Graphs that inductor did not record as CUDA graphs though it should; every graph, where there is no CUDA."""
    batching: Batching | None = None
    """Facts about served requests; None without continuous batching."""
    ranks: tuple[Rank, ...] = ()
    """Processes of a model that is spread over several; empty for other models."""
    kernel_folders: Mapping[str, str] = field(default_factory=dict)
    """Folder that served each repository of local kernels that was called."""
    experts: tuple[ExpertsCall, ...] = ()
    """Calls of modules of experts; watched only for a path that changes how they compute."""
    recompile_limit: str = ""
    """Message of torch when it stopped compiling and fell back to eager; empty if it did not."""

    @property
    def compiled_calls(self) -> int:
        return sum(self.regions.values())

    @property
    def forwards(self) -> int:
        """Number of forward passes of the model."""
        return self.batching.steps if self.batching else self.prefills + self.decode_steps

    @property
    def cached(self) -> bool:
        return any(cache != NO_CACHE for cache in self.caches)

    def calls(self, phase: Phase) -> int:
        """Return the number of attention calls that a phase must make: as many as eager in each forward pass."""
        if phase is Phase.PREFILL:
            return round(self.eager.prefill_attention * self.prefills)
        return round(self.eager.decode_attention * self.decode_steps)

    def experts_calls(self, phase: Phase) -> int:
        """Return the number of calls of experts that a phase must make: as many as eager in each forward pass."""
        if phase is Phase.PREFILL:
            return round(self.eager.prefill_experts * self.prefills)
        return round(self.eager.decode_experts * self.decode_steps)
