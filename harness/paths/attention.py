"""Attention: torch's scaled_dot_product_attention, as dispatched and pinned; flex attention; flash-attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from harness.machine.requirements import Compiler, Cuda, FlashAttention, Need
from harness.paths.base import Aspect, Optimization, RunContext, argument_refused, equal, served_by, tally
from harness.paths.sdpa_kernels import version_as_read, why_no_kernel
from harness.records.enums import HALF_PRECISIONS, Bottleneck, Dtype, Technique
from harness.records.evidence import Case, EngagementCheck
from harness.records.observation import Observation, Phase
from harness.records.workload import Workload

DISPATCHED = "aten::_scaled_dot_product_*"
"""Pattern of the operators that scaled_dot_product_attention dispatches to, whichever torch chooses."""
FLEX, MASK = "flex_attention", "create_block_mask"
"""Names of flex attention's two compiled functions as dynamo reports them."""
MASK_BLOCK = 128
"""Queries per block of flex attention's mask. Fewer queries than these go to a kernel of their own, flex decoding."""


@dataclass(frozen=True)
class Sdpa(Optimization):
    """`attn_implementation="sdpa"`, restricted to one backend if that is named."""

    name: str = "attention.sdpa"
    backend: str = ""
    """Name of the torch.nn.attention.SDPBackend that is pinned; empty for torch's own choice."""
    operators: str = DISPATCHED
    """Pattern of the operators that must serve all attention calls."""
    only_cuda: bool = False
    half_on_accelerators: bool = False
    """Whether its kernels for devices other than the CPU take half precisions only."""
    technique = Technique.ATTENTION
    changes = frozenset({Aspect.ATTENTION})

    def expected_gain_in(self) -> frozenset[Bottleneck]:
        return frozenset() if self.backend else frozenset({Bottleneck.PREFILL})

    def suits(self, workload: Workload, device: str) -> bool:
        # Flash kernels of accelerators take no mask.
        return self.backend != "FLASH_ATTENTION" or device == "cpu" or not workload.padded

    def needs(self) -> tuple[Need, ...]:
        return (Cuda(),) if self.only_cuda else ()

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        return HALF_PRECISIONS if self.half_on_accelerators and device != "cpu" else super().dtypes(device)

    def refuses(self, line: str, case: RunContext) -> str:
        pinned = case.device == "cuda" and self.backend not in {"", "MATH"}
        return why_no_kernel(self.backend, case) if pinned and "No available kernel" in line else ""

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        return {"attn_implementation": "sdpa"}

    def applied(self) -> AbstractContextManager[Any]:
        if not self.backend:
            return nullcontext()
        from torch.nn.attention import SDPBackend, sdpa_kernel

        return sdpa_kernel(getattr(SDPBackend, self.backend))

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return served_by(observation, "sdpa", self.operators)


SDPA_MATH = Sdpa("attention.sdpa_math", "MATH", "aten::_scaled_dot_product_attention_math")
SDPA_FLASH = Sdpa(
    "attention.sdpa_flash",
    "FLASH_ATTENTION",
    "aten::_scaled_dot_product_flash_attention*",
    half_on_accelerators=True,
)
SDPA_EFFICIENT = Sdpa(
    "attention.sdpa_efficient", "EFFICIENT_ATTENTION", "aten::_scaled_dot_product_efficient_attention", only_cuda=True
)
SDPA_CUDNN = Sdpa(
    "attention.sdpa_cudnn",
    "CUDNN_ATTENTION",
    "aten::_scaled_dot_product_cudnn_attention",
    only_cuda=True,
    half_on_accelerators=True,
)


@dataclass(frozen=True)
class Flex(Optimization):
    """`attn_implementation="flex_attention"`, whose kernel and mask transformers compiles by itself."""

    name: str = "attention.flex"
    technique = Technique.ATTENTION
    changes = frozenset({Aspect.ATTENTION, Aspect.COMPILATION})

    def needs(self) -> tuple[Need, ...]:
        return (Compiler(),)

    def refuses(self, line: str, case: RunContext) -> str:
        named = any(name in line for name in ("cur_kvSplitSize0", "cur_qSplitSize0"))
        if named and case.device == "cpu" and (case.masks or any(case.windows)):
            return "torch's C++ for flex attention uses names that it does not declare where a mask's length changes"
        release = "NoValidChoicesError" in line and case.device == "cuda" and version_as_read()
        if release and (rows := _too_many_rows(case)):
            block = 1 << (rows - 1).bit_length()  # the next power of two
            return (
                f"torch {release} packs {rows} queries of a group into one block of {block}, larger than the mask's "
                f"block of {MASK_BLOCK}"
            )
        return ""

    def slow_on_cpu(self, case: Case) -> bool:
        # Four graphs for one prompt, more for several, and for padded rows the time to find out that there are none.
        return case.workload.padded or case.workload.separate

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        return {"attn_implementation": "flex_attention"}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        calls = observation.calls(Phase.PREFILL) + observation.calls(Phase.DECODE)
        others = {name: count for name, count in observation.regions.items() if name not in {FLEX, MASK}}
        return [
            equal("attention implementation", "flex_attention", observation.attention_implementation),
            equal("calls of compiled flex attention", calls, observation.regions.get(FLEX, 0)),
            equal("other attention", "none", tally(Counter(call.operator for call in observation.attention))),
            equal("calls of inductor's graphs", observation.compiled_calls, observation.inductor_calls),
            equal("other compiled code", "none", tally(others)),
            equal("recompile limit", "not hit", observation.recompile_limit or "not hit"),
        ]


def _too_many_rows(case: RunContext) -> int:
    """Return how many queries torch packs into one block, if it is larger than the mask's block; else 0.

    `create_flex_decoding_kernel` of torch 2.11 to 2.13 takes a prompt that is shorter than MASK_BLOCK, and packs the
    queries of all heads that share a key into one block, whose rows are the next power of two. It does so where the
    size of a group is a power of two. transformers leaves groups to it where the number of heads is a power of two.
    """
    heads, shared = case.heads or (1, 1)
    group = heads // shared if shared else 1
    if heads & (heads - 1) or group & (group - 1):
        return 0
    packed = [length * group for length in case.lengths if length < MASK_BLOCK]
    return next((rows for rows in packed if rows > MASK_BLOCK), 0)


@dataclass(frozen=True)
class FlashAttentionPackage(Optimization):
    """`attn_implementation="flash_attention_N"`, served by the package that people install for it."""

    name: str
    implementation: str
    package: str
    operators: str
    """Pattern of the names of its calls in torch's profiler."""
    technique = Technique.ATTENTION
    changes = frozenset({Aspect.ATTENTION})

    def needs(self) -> tuple[Need, ...]:
        return (Cuda(), FlashAttention(self.package))

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        return HALF_PRECISIONS

    def refuses(self, line: str, case: RunContext) -> str:
        return "the device is too old for it" if "requires compute capability" in line else argument_refused(line)

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        return {"attn_implementation": self.implementation}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        return served_by(observation, self.implementation, self.operators)


FLASH_ATTENTION_2 = FlashAttentionPackage(
    "attention.flash_attention_2", "flash_attention_2", "flash-attn", "flash_attn::_flash_attn_*forward"
)
FLASH_ATTENTION_3 = FlashAttentionPackage(
    "attention.flash_attention_3", "flash_attention_3", "flash-attn-3", "flash_attn_3::*fwd"
)
FLASH_ATTENTION_4 = FlashAttentionPackage(
    "attention.flash_attention_4", "flash_attention_4", "flash-attn-4", "FlashAttn*Func"
)
