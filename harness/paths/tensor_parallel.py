"""Tensor parallelism: each rank keeps a part of the weights, and all compute one answer together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from harness.machine.requirements import Devices, Need
from harness.paths.base import Launch, Optimization, RunContext, equal, tally
from harness.records.enums import Technique
from harness.records.evidence import Case, EngagementCheck
from harness.records.observation import Observation, Rank, Shard

COLLECTIVES = {
    "c10d::allreduce*": ("*rowwise*", "all_reduce", "moe_tp_experts"),
    "c10d::*allgather*": ("*gather_output*", "colwise_rep", "embedding_colwise"),
}
"""Operators by which ranks exchange results, with the styles of modules that call each once per call."""
WHOLE_ON_EACH = ("replicate*", "mla_kv_a_proj", "moe_tp_experts", "all_reduce", "sequence_parallel", "moe_identity*")
"""Styles that leave parameters whole on every rank."""
MLP = {
    "model.layers.*.mlp.gate_proj": "colwise_gather_output",
    "model.layers.*.mlp.up_proj": "colwise_gather_output",
    "model.layers.*.mlp.down_proj": "rowwise_split_input",
}
"""Parallel plan given by hand, which no model here has of its own. Ranks exchange what they could keep apart."""


@dataclass(frozen=True)
class TensorParallel(Optimization):
    """`DistributedConfig(tp_plan=...)`: through gloo on the CPU, through NCCL on CUDA."""

    name: str
    ranks: int = 2
    manual: bool = False
    """Whether the plan is given by hand, and not the model's own."""
    torchrun: bool = False
    """Whether torchrun starts the ranks, in ten times as long: a CPU does it daily for a single prompt only."""
    technique = Technique.PARALLELISM

    def needs(self) -> tuple[Need, ...]:
        return (Devices(self.ranks),)

    def launch(self) -> Launch | None:
        return Launch(self.ranks, torchrun=self.torchrun)

    def slow_on_cpu(self, case: Case) -> bool:
        return case.workload.separate or self.torchrun is (case.workload.batch > 1)

    def refuses(self, line: str, case: RunContext) -> str:
        uneven = [heads for heads in case.heads if heads % self.ranks]
        if uneven and "is invalid for input of size" in line:
            return f"{self.ranks} ranks do not divide {uneven[0]} attention heads"
        # From transformers 5.24 on; older releases leave such a model whole without a word.
        return "it declares no plan for tensor parallelism" if "has no `tp_plan`" in line else ""

    def load_options(self, dtype: Any) -> Mapping[str, Any]:
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan=dict(MLP) if self.manual else "auto")}

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        claims = [
            equal("ranks", self.ranks, len(observation.ranks)),
            equal(
                "ranks that gave the same logits and tokens", self.ranks, sum(rank.agrees for rank in observation.ranks)
            ),
        ]
        for index, rank in enumerate(observation.ranks):
            split = [shard for shard in rank.shards if not stays_whole(shard)]
            parted = [shard for shard in split if shard.kept == self._part(shard)]
            claims += [
                EngagementCheck(
                    f"planned parameters that are parted on rank {index}",
                    f"{len(split) or 'at least 1'}",
                    str(len(parted)) if split else "none, since the model's plan names none",
                    len(parted) == len(split) > 0,
                ),
                equal(f"bytes on rank {index}", self._share(rank), rank.bytes_kept),
            ]
            if self.manual:
                styles = {
                    pattern: {s.style for s in rank.shards if fnmatchcase(s.name, f"{pattern}.*")} for pattern in MLP
                }
                claims.append(equal(f"plan on rank {index}", {p: {s} for p, s in MLP.items()}, styles))
            for operator, styles_of in COLLECTIVES.items():
                exchanging = [
                    name
                    for name, style in rank.modules.items()
                    if any(fnmatchcase(style, pattern) for pattern in styles_of)
                ]
                wanted = round(
                    sum(observation.eager.linears.get(name, 1) for name in exchanging) * observation.forwards
                )
                calls = {name: count for name, count in rank.collectives.items() if fnmatchcase(name, operator)}
                claims.append(
                    EngagementCheck(
                        f"exchanges between ranks on rank {index}",
                        f"{wanted} × {operator}",
                        tally(calls),
                        sum(calls.values()) == wanted,
                    )
                )
        return claims

    def _part(self, shard: Shard) -> tuple[int, ...]:
        """Return the shape that a rank should keep of a parameter.

        Rowwise weights split their inputs, the last dimension, and keep their bias. All others split their outputs, the
        dimension before: rows of a matrix, of embeddings too, and those of each expert.
        """
        if stays_whole(shard):
            return shard.whole
        rowwise = fnmatchcase(shard.style, "*rowwise*") and not shard.style.startswith("embedding")
        if len(shard.whole) == 1:
            return shard.whole if rowwise else (shard.whole[0] // self.ranks,)
        place = len(shard.whole) - (1 if rowwise or shard.style == "embedding_colwise" else 2)
        return tuple(size // self.ranks if at == place else size for at, size in enumerate(shard.whole))

    def _share(self, rank: Rank) -> int:
        """Return the bytes that a rank should keep: its part of what is planned, and all the rest."""
        each = rank.bytes_whole / max(1, rank.elements)
        left_out = sum(prod(shard.whole) - prod(self._part(shard)) for shard in rank.shards if not shard.tied)
        return round(rank.bytes_whole - each * left_out)


def stays_whole(shard: Shard) -> bool:
    """Return whether the plan leaves a parameter whole on every rank."""
    return any(fnmatchcase(shard.style, pattern) for pattern in WHOLE_ON_EACH)
