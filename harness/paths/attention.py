"""Attention through torch's scaled_dot_product_attention: as dispatched, and pinned to one backend."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from harness.paths.base import Aspect, Observation, Optimization, Phase, attention_claim, equal
from harness.records import Claim
from harness.vocabulary import Technique

BACKENDS = {
    "MATH": "aten::_scaled_dot_product_attention_math",
}
"""Operators by the name of torch.nn.attention.SDPBackend that pins them."""

DISPATCHED = "aten::_scaled_dot_product_*"
"""Pattern of the operators that scaled_dot_product_attention dispatches to, whichever torch chooses."""


@dataclass(frozen=True)
class Sdpa(Optimization):
    """`attn_implementation="sdpa"`; with a backend, restricted to that one."""

    name: str = "attention.sdpa"
    backend: str | None = None
    technique = Technique.ATTENTION
    changes = frozenset({Aspect.ATTENTION})

    def load_options(self) -> Mapping[str, Any]:
        return {"attn_implementation": "sdpa"}

    def applied(self) -> AbstractContextManager[Any]:
        if self.backend is None:
            return nullcontext()
        from torch.nn.attention import SDPBackend, sdpa_kernel

        return sdpa_kernel(getattr(SDPBackend, self.backend))

    def claims(self, seen: Observation) -> list[Claim]:
        operators = BACKENDS[self.backend] if self.backend else DISPATCHED
        return [
            equal("attention implementation", "sdpa", seen.attention_implementation),
            *(attention_claim(seen, phase, operators) for phase in Phase),
        ]
