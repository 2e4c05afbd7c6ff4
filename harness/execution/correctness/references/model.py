"""Models that references and yardsticks run in: what `Reference` names, and eager. Runs in workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from harness.errors import Incompatible, NotExact, first_line
from harness.execution.correctness.by_layer import computing_by_layer, widen_constants
from harness.execution.correctness.nudging import nudged
from harness.execution.correctness.runs import in_float64
from harness.execution.generation import Batch
from harness.execution.loading import load_run
from harness.execution.setup import CaseRun, CaseSetup
from harness.machine.requirements import size_of_source
from harness.observation.linears import experts_of
from harness.paths.eager import EagerOneByOne
from harness.records.enums import Dtype, Reference

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


@contextmanager
def reference_model(
    setup: CaseSetup, dtype: Dtype, weights: Mapping[str, Tensor] = NOTHING
) -> Iterator[tuple[Any, list[Batch]]]:
    """Yield the model that the reference runs in, for a case in `dtype`, and the workload's batches.

    Its linears and experts get `weights` where these name them. In the block it computes in the reference's format.
    Raises NotExact or ReferenceInvalid, at the end of the block, if an operator computed below float64 nevertheless.
    """
    reference = setup.reference
    if reference is Reference.FLOAT64:
        model, batches = load_run(setup.eager(Dtype.FP64))
        put_weights(weights, model)
        with in_float64(setup):
            yield model, batches
    elif reference is Reference.BY_LAYER:
        run = CaseRun(replace(setup, fault=""), _stored(setup), EagerOneByOne())
        model, batches = load_run(run)
        widen_constants(model)
        put_weights(weights, model, as_they_are=True)
        try:
            with computing_by_layer(model), in_float64(setup):
                yield model, batches
        except (RuntimeError, TypeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            # Where a part reads a weight of another, or its format, as Mamba that of its head, widening breaks it. The
            # same error of the model itself comes up again in its own dtype.
            raise NotExact(f"{setup.recipe.name}: does not compute by layer: {first_line(error)}") from error
    else:
        model, batches = load_run(setup.eager(dtype if reference is Reference.OWN else Dtype.FP32))
        put_weights(weights, model)
        yield model, batches


def yardstick(setup: CaseSetup, model: Any, dtype: Dtype) -> AbstractContextManager[None]:
    """Return the block in which eager, in `dtype`, errs as a correct path may: as it does, or nudged beside itself."""
    return nudged(model, dtype) if setup.reference is Reference.OWN else nullcontext()


@torch.no_grad()
def put_weights(weights: Mapping[str, Tensor], model: Any, *, as_they_are: bool = False) -> None:
    """Give a model weights by the names of its linears and experts: in its own format, or in theirs."""
    experts = dict(experts_of(model))
    for name, weight in weights.items():
        parameter = experts[name] if name in experts else model.get_submodule(name).weight
        if as_they_are:
            parameter.data = weight.to(parameter.device)
        else:
            parameter.copy_(weight)


def _stored(setup: CaseSetup) -> Dtype:
    """Return the narrowest format that holds a model's weights exactly.

    Raises Incompatible if its files do not tell.
    """
    size = size_of_source(setup.recipe.source)
    if size is None:
        raise Incompatible(
            f"{setup.recipe.name}: computes by layer only from files of safetensors (give --reference float64, or "
            "save the model with save_pretrained)"
        )
    return size.stored
