"""Continuous batching: requests come and go while the others are served, over a cache of pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil
from typing import Any

from harness.machine.requirements import Compiler, Cuda, FlashAttention, Need
from harness.paths.base import Aspect, Optimization, RunContext, Serving, equal, tally
from harness.records.enums import HALF_PRECISIONS, Dtype, Technique
from harness.records.evidence import Case, EngagementCheck
from harness.records.observation import EAGER_ATTENTION, Observation

OPERATORS = {
    "eager": EAGER_ATTENTION,
    "sdpa": "aten::_scaled_dot_product_*",
    "flash_attention_2": "flash_attn::_flash_attn_*forward",
    "flex_attention": "flex_attention",
}
"""Attention operators by the implementation that the model is loaded with. While requests are served, `paged|` may
stand before its name."""


@dataclass(frozen=True)
class ContinuousBatching(Optimization):
    """All prompts as requests at once, through `generate_batch`.

    With `sharing` they go through the manager, and all of them a second time in reverse order once they are answered.
    Their first pages are then in the cache already.
    """

    name: str
    attention: str
    """Attention implementation, which is pinned: `auto_switch_to_flash` is off."""
    sharing: bool = False
    graphs: bool = False
    """Whether CUDA graphs are recorded. A model that is replayed shows no logits, so only the log probabilities that
    come back with the tokens are judged."""
    page: int = 16
    """Tokens per page."""
    pages: int = 256
    """Number of pages: enough for the longest prompt of the workloads. The default would take most of the memory."""
    tokens: int = 64
    """Most tokens of one forward pass. Some prompts have more, and are prefilled in chunks."""
    impossible: str = ""
    technique = Technique.CONTINUOUS_BATCHING
    changes = frozenset({Aspect.ATTENTION, Aspect.CACHE})

    def needs(self) -> tuple[Need, ...]:
        flash = (FlashAttention("flash-attn"),) if self.attention == "flash_attention_2" else ()
        return ((Cuda(),) if flash or self.graphs else ()) + flash

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        return HALF_PRECISIONS if self.attention == "flash_attention_2" else super().dtypes(device)

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        return {"attn_implementation": self.attention}

    def refuses(self, line: str, case: RunContext) -> str:
        if "Invalid layer type" in line:
            return "it pages no layers of this kind"
        return "it reads no pages" if "is not supported for continuous batching" in line else ""

    def slow_on_cpu(self, case: Case) -> bool:
        return case.workload.batch == 1 or (self.sharing and not case.workload.padded)

    def serving(self) -> Serving | None:
        options = {
            "page_size": self.page,
            "num_blocks": self.pages,
            "max_batch_tokens": self.tokens,
            "max_blocks_per_request": 0,  # no decoding of its own kind: it wants pages of 256, and shows no operator
            "allow_block_sharing": self.sharing,
            "use_cuda_graph": self.graphs,
            "use_async_batching": False,
            "auto_switch_to_flash": False,
            "return_logprobs": True,
        }
        return Serving(options, again=self.sharing, shows_logits=not self.graphs)

    def _right(self, right: int, calls: int, wanted: int) -> bool:
        """Return whether `right` calls of the pinned attention, of all `calls` of attention, are the `wanted` ones.
        Replayed graphs show calls only where they were recorded, so their number is not compared."""
        return right == calls > 0 if self.graphs else right == calls == wanted

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        served = observation.batching
        if served is None:
            return [equal("requests served by continuous batching", "all", "none")]
        wanted = round(observation.eager.decode_attention * served.steps)
        calls = Counter(call.operator for call in observation.attention)
        right = sum(count for name, count in calls.items() if fnmatchcase(name, OPERATORS[self.attention]))
        shareable = sum((length - 1) // self.page * self.page for length in served.prompts[: len(served.prompts) // 2])
        together = len(served.prompts) // (2 if self.sharing else 1)
        return [
            equal("attention while serving", self.attention, served.implementation.removeprefix("paged|")),
            EngagementCheck(
                "attention in all steps",
                f"{wanted} × {OPERATORS[self.attention]}",
                tally(calls),
                wanted > 0 and self._right(right, sum(calls.values()), wanted),
            ),
            equal("requests that failed", "none", "; ".join(served.errors) or "none"),
            equal("tokens prefilled or shared", sum(served.prompts), served.prefilled + served.shared),
            equal("tokens of shared pages", shareable if self.sharing else 0, served.shared),
            equal("pages", f"{self.pages} of {self.page}", f"{served.pages} of {served.page}"),
            EngagementCheck(
                "requests in one step",
                f"at least {min(2, together)}",
                f"{served.largest} (step by step {', '.join(map(str, served.in_flight))})",
                served.largest >= min(2, together),
            ),
            EngagementCheck(
                "steps of the longest prefill",
                f"at least {ceil(max(served.prompts) / self.tokens)}",
                str(served.chunks),
                served.chunks >= ceil(max(served.prompts) / self.tokens),
            ),
            EngagementCheck(
                "tokens of one step", f"at most {self.tokens}", str(served.widest), 0 < served.widest <= self.tokens
            ),
            equal("logits processors dropped", "none", ", ".join(served.dropped) or "none"),
            equal("steps by CUDA graphs", served.steps if self.graphs else 0, served.replays + served.captures),
            EngagementCheck(
                "replays of CUDA graphs",
                "at least 1" if self.graphs else "0",
                str(served.replays),
                (served.replays > 0) is self.graphs,
            ),
        ]


@dataclass(frozen=True)
class CompiledContinuousBatching(ContinuousBatching):
    """Continuous batching with steps compiled by `varlen_compile_config`, for lengths that change. transformers leaves
    the cache's own update out of that. No hook can look at the logits of a compiled step."""

    extra: bool = True
    changes = frozenset({Aspect.ATTENTION, Aspect.CACHE, Aspect.COMPILATION})

    def needs(self) -> tuple[Need, ...]:
        return (Compiler(), *super().needs())

    def slow_on_cpu(self, case: Case) -> bool:
        return self.extra or super().slow_on_cpu(case)

    def serving(self) -> Serving | None:
        from transformers import CompileConfig

        plain = super().serving()
        if plain is None:
            return None
        compiled = CompileConfig(mode="default", dynamic=True, fullgraph=False)
        return Serving({**plain.options, "varlen_compile_config": compiled}, again=plain.again, shows_logits=False)

    def _right(self, right: int, calls: int, wanted: int) -> bool:
        """Return whether all attention calls of compiled steps are of the pinned attention, and at least as many as
        wanted. A graph that runs for the first time may call each operator once more."""
        return right == calls >= wanted

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        pieces = round(observation.eager.decode_attention * (observation.batching.steps if observation.batching else 0))
        return [
            *super().claims(observation),
            EngagementCheck(
                "calls of inductor's graphs",
                f"at least {pieces}, between the cache's updates",
                str(observation.inductor_calls),
                observation.inductor_calls >= pieces > 0,
            ),
            equal("recompile limit", "not hit", observation.recompile_limit or "not hit"),
        ]
