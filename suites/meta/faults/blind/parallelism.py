"""Ranks, wrong in ways that were thought of blind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from suites.meta.faults import patched


@contextmanager
def tp_reduces_in_bf16() -> Iterator[None]:
    """Partial sums are sent in bfloat16."""
    from transformers.distributed.tensor_parallel import RowwiseParallel

    original = RowwiseParallel.transform_output_post_forward

    def faulty(self: Any, module: Any, output: Tensor, mesh: Any) -> Tensor:
        return original(self, module, output.bfloat16().to(output.dtype), mesh)

    with patched(RowwiseParallel, "transform_output_post_forward", faulty):
        yield


@contextmanager
def tp_rank_one_lags() -> Iterator[None]:
    """While decoding, rank 1 contributes its partial attention output of the step before."""
    from transformers.distributed.tensor_parallel import RowwiseParallel

    original, sent = RowwiseParallel.transform_output_post_forward, {}

    def faulty(self: Any, module: Any, output: Tensor, mesh: Any) -> Tensor:
        if mesh.get_local_rank() == 1 and module.in_features == module.out_features:
            stale, sent[module] = sent.get(module), output.clone()
            output = stale.clone() if stale is not None and output.shape == stale.shape else output
        return original(self, module, output, mesh)

    with patched(RowwiseParallel, "transform_output_post_forward", faulty):
        yield


@contextmanager
def tp_plan_is_empty() -> Iterator[None]:
    """The plan is resolved to nothing, so each rank holds and runs the whole model."""
    from transformers.distributed import mixin

    with patched(mixin, "resolve_parallel_plans", lambda model, config: ({}, {})):
        yield
