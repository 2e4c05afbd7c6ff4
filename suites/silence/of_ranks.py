"""Requests about tensor parallelism."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from harness.records.enums import Technique
from suites.silence.records import Call, Options, Request

TWO = Call(ranks=2)
Q, HEAD = "model.layers.*.self_attn.q_proj", "lm_head"


def distributed(**entries: Any) -> Options:
    def make() -> Mapping[str, Any]:
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(**entries)}

    return make


def on_ranks(**entries: Any) -> Call:
    return replace(TWO, load=distributed(**entries))


_parallel = partial(Request, technique=Technique.PARALLELISM)
PARTED = "parameters parted"
ALL_PARTED = ", ".join(
    ["lm_head", "model.embed_tokens"]
    + [f"model.layers.[*].mlp.{name}_proj" for name in ("down", "gate", "up")]
    + [f"model.layers.[*].self_attn.{name}_proj" for name in ("k", "o", "q", "v")]
)
"""Matrices that the plan of Qwen3 parts, as its class and its config declare them."""
AUTO = on_ranks(tp_plan="auto")
RANKS = (
    _parallel(
        "tp_one_process",
        'DistributedConfig(tp_plan="auto") in one process',
        PARTED,
        "*q_proj*",
        Call(load=distributed(tp_plan="auto")),
        Call(),
        named=("tp_plan", "tp_size", "tensor parallelism"),
    ),
    _parallel(
        "tp_size_one_process",
        "DistributedConfig(tp_size=2) in one process",
        PARTED,
        "*q_proj*",
        Call(load=distributed(tp_size=2)),
        Call(),
        named=("tp_size", "torchrun", "torch.distributed", "world_size"),
    ),
    _parallel(
        "old_tp_one_process",
        'from_pretrained(tp_plan="auto") in one process',
        PARTED,
        "*q_proj*",
        Call(load=lambda: {"tp_plan": "auto"}),
        Call(),
        named=("tp_size", "world_size", "torchrun"),
    ),
    _parallel(
        "tp", 'DistributedConfig(tp_plan="auto") on two ranks', PARTED, ALL_PARTED, AUTO, TWO, named=("tp_plan",)
    ),
    _parallel(
        "tp_size",
        "DistributedConfig(tp_size=2) on two ranks",
        PARTED,
        "*q_proj*",
        on_ranks(tp_size=2),
        TWO,
        named=("tp_size",),
    ),
    _parallel(
        "old_tp",
        'from_pretrained(tp_plan="auto") on two ranks',
        PARTED,
        "*q_proj*",
        replace(TWO, load=lambda: {"tp_plan": "auto"}),
        TWO,
        named=("tp_plan",),
    ),
    _parallel(
        "old_tp_size",
        "from_pretrained(tp_size=2) on two ranks",
        PARTED,
        "*q_proj*",
        replace(TWO, load=lambda: {"tp_size": 2}),
        TWO,
    ),
    _parallel(
        "tp_too_many",
        "DistributedConfig(tp_size=4) on two ranks",
        PARTED,
        "*q_proj*",
        on_ranks(tp_size=4),
        TWO,
        named=("tp_size", "world_size", "requires 4 processes"),
    ),
    _parallel(
        "tp_rule",
        f'DistributedConfig(tp_plan={{"{HEAD}": "replicate"}}) on two ranks',
        PARTED,
        "[!l]*",
        on_ranks(tp_plan={HEAD: "replicate"}),
        AUTO,
        named=(HEAD,),
    ),
    _parallel(
        "tp_unknown_module",
        'DistributedConfig(tp_plan={"nonsense": "colwise"}) on two ranks',
        PARTED,
        "*nonsense*",
        on_ranks(tp_plan={"nonsense": "colwise"}),
        AUTO,
        named=("nonsense",),
    ),
    _parallel(
        "tp_unknown_layer",
        'DistributedConfig(tp_plan={"model.layers.9.mlp.up_proj": "replicate"}) on two ranks',
        PARTED,
        "*9*",
        on_ranks(tp_plan={"model.layers.9.mlp.up_proj": "replicate"}),
        AUTO,
        named=("layers.9",),
    ),
    _parallel(
        "tp_one_layer",
        'DistributedConfig(tp_plan={"model.layers.0.self_attn.q_proj": "replicate"}) on two ranks',
        PARTED,
        "*",
        on_ranks(tp_plan={"model.layers.0.self_attn.q_proj": "replicate"}),
        AUTO,
        named=("layers.0",),
    ),
    _parallel(
        "tp_unknown_style",
        f'DistributedConfig(tp_plan={{"{Q}": "nonsense"}}) on two ranks',
        PARTED,
        "*nonsense*",
        on_ranks(tp_plan={Q: "nonsense"}),
        AUTO,
        named=("nonsense",),
    ),
    _parallel(
        "tp_no_rules",
        "DistributedConfig(tp_size=2, tp_plan={}) on two ranks",
        PARTED,
        "none",
        on_ranks(tp_size=2, tp_plan={}),
        AUTO,
        named=("tp_plan",),
    ),
    _parallel(
        "tp_without_plan",
        'DistributedConfig(tp_plan="auto") of a model without a plan',
        PARTED,
        "[!n]*",
        replace(AUTO, model="small_gpt2"),
        replace(TWO, model="small_gpt2"),
        named=("tp_plan", "tensor parallel plan"),
    ),
    _parallel(
        "tp_and_device_map",
        'DistributedConfig(tp_plan="auto"), device_map="cpu"',
        PARTED,
        "*q_proj*",
        replace(TWO, load=lambda: {**distributed(tp_plan="auto")(), "device_map": "cpu"}),
        TWO,
        named=("device_map",),
    ),
    _parallel(
        "tp_twice",
        'from_pretrained(distributed_config=..., tp_plan="auto")',
        PARTED,
        "*q_proj*",
        replace(TWO, load=lambda: {**distributed(tp_plan="auto")(), "tp_plan": "auto"}),
        TWO,
        named=("tp_plan",),
    ),
    _parallel(
        "sequence_parallel",
        'DistributedConfig(tp_plan="auto", enable_sequence_parallel=True)',
        "collectives",
        "*reduce_scatter*",
        on_ranks(tp_plan="auto", enable_sequence_parallel=True),
        AUTO,
        named=("enable_sequence_parallel", "sequence parallelism"),
    ),
    _parallel(
        "experts_of_dense_ranks",
        "DistributedConfig(tp_size=2, ep_size=2) of a model without experts",
        PARTED,
        "*expert*",
        on_ranks(tp_size=2, ep_size=2),
        TWO,
        named=("ep_size", "expert parallelism"),
    ),
    _parallel(
        "old_experts",
        "DistributedConfig(tp_size=2, enable_expert_parallel=True) of a model without experts",
        PARTED,
        "*expert*",
        on_ranks(tp_size=2, enable_expert_parallel=True),
        TWO,
        named=("enable_expert_parallel", "expert parallelism"),
    ),
    _parallel(
        "cpu_offload_of_tp",
        'DistributedConfig(tp_plan="auto", fsdp_cpu_offload=True)',
        "collectives",
        "*fsdp*",
        on_ranks(tp_plan="auto", fsdp_cpu_offload=True),
        AUTO,
        named=("fsdp_cpu_offload",),
    ),
    _parallel("tp_misspelled", 'DistributedConfig(tp_plam="auto")', PARTED, "*q_proj*", on_ranks(tp_plam="auto"), TWO),
    _parallel(
        "tp_as_dict",
        'from_pretrained(distributed_config={"tp_plan": "auto"}) on two ranks',
        PARTED,
        "*q_proj*",
        replace(TWO, load=lambda: {"distributed_config": {"tp_plan": "auto"}}),
        TWO,
        named=("distributed_config",),
    ),
    _parallel(
        "tp_as_misspelled_dict",
        'from_pretrained(distributed_config={"tp_plam": "auto"}) on two ranks',
        PARTED,
        "*q_proj*",
        replace(TWO, load=lambda: {"distributed_config": {"tp_plam": "auto"}}),
        TWO,
        named=("tp_plam",),
    ),
)
