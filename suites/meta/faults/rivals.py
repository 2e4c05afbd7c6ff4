"""What other projects would say of the same runs: their rules for correctness, to stand beside ours on every fault.

Each rule is given what it is meant for: the reference that its project compares with, in the dtypes in which it does,
once for each forward pass, as these projects compare the output of one call. torch's two rules are called; the others
are written anew from what their projects publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.execution.generation import Generation
from harness.records.enums import HALF_PRECISIONS, Dtype


@dataclass(frozen=True)
class Runs:
    """Three runs of one workload, with the reference's tokens forced on all of them and each once free."""

    candidate: Generation
    eager: Generation
    """In the candidate's dtype."""
    reference: Generation
    """Eager in float64."""


@dataclass(frozen=True)
class Rival:
    """Another project's rule."""

    name: str
    source: str
    """Where its project publishes it."""
    dtypes: tuple[Dtype, ...]
    """Those in which its project asks it; elsewhere it has nothing to say."""
    accepts: Callable[[Runs, Dtype], bool]
    """Whether it takes the candidate, which ran in that dtype, for correct."""


def outputs(run: Generation, dtype: Dtype | None) -> list[Tensor]:
    """The logits of each forward pass, (positions, V), without those of padding: of the prefill, then of every step.

    `generate` hands out float32 copies of a step's logits; they return to `dtype`, in which they were computed, so that
    a rule takes its limits for that dtype. Without one they stay as they are.
    """
    # The last prompt position comes twice, as the model gave it and as `generate` chose from it.
    prompt = run.prompt_logits[run.valid].to(run.step_logits.dtype)
    passes = [torch.cat([prompt, run.step_logits[:, 0]]), *run.step_logits[:, 1:].unbind(1)]
    return passes if dtype is None else [logits.to(getattr(torch, dtype.torch_name)) for logits in passes]


def default_tolerances(runs: Runs, dtype: Dtype) -> bool:
    """Every logit as near to same-dtype eager's as torch asks of that dtype where no tolerance is given."""
    try:
        torch.testing.assert_close(outputs(runs.candidate, dtype), outputs(runs.eager, dtype))
    except AssertionError:
        return False
    return True


def twice_eagers_error(runs: Runs, dtype: Dtype) -> bool:
    """The largest error at most twice eager's, plus twice what adding and taking away 0.3 changes in the reference.

    As published, the reference is computed more precisely, then rounded to the dtype. There it holds for the output of
    one attention; here for the logits of one forward pass.
    """
    exact = [logits.to(getattr(torch, dtype.torch_name)) for logits in outputs(runs.reference, None)]
    return all(
        _largest(ours - kept) <= 2 * _largest(theirs - kept) + 2 * _largest(kept + 0.3 - 0.3 - kept)
        for ours, theirs, kept in zip(outputs(runs.candidate, dtype), outputs(runs.eager, dtype), exact, strict=True)
    )


def _largest(values: Tensor) -> float:
    """NaN, which no limit admits, where there is one."""
    return values.abs().max().item()


DYNAMO_TOLERANCE = 1e-3
"""Of dynamo's harness for inference with Hugging Face models, but for those that it names."""


def dynamos_same(runs: Runs, dtype: Dtype) -> bool:
    """Near same-dtype eager, or in RMS about as near to float64 as eager is; judged for every forward pass."""
    from torch._dynamo.utils import same

    return same(
        outputs(runs.eager, dtype),
        outputs(runs.candidate, dtype),
        [logits.double() for logits in outputs(runs.reference, None)],
        tol=DYNAMO_TOLERANCE,
        equal_nan=dtype is not Dtype.FP32,  # as the harness has it
        log_error=lambda *_: None,
    )


TOP = 5
"""Log probabilities per token in most of vLLM's tests of models."""


def among_the_top(runs: Runs, dtype: Dtype) -> bool:
    """Where a row's free tokens first differ from eager's, each must be among the other's top five; no further token
    is looked at.

    The forced logits stand for the free ones, which they equal as long as a run chose the tokens that were forced. A
    row in which both runs had already left them alike is taken as right: nobody saw the logits from which they chose.
    """
    del dtype  # ranks have no tolerance
    for row, step in _first_differences(runs):
        for run, other in ((runs.candidate, runs.eager), (runs.eager, runs.candidate)):
            if run.tokens[row, step] not in other.step_logits[row, step].topk(TOP).indices:
                return False
    return True


def _first_differences(runs: Runs) -> Iterator[tuple[int, int]]:
    """(row, step) where candidate and eager first choose differently with the forced tokens as their past."""
    differs = runs.candidate.tokens != runs.eager.tokens
    for row in differs.any(1).nonzero().flatten().tolist():
        step = int(differs[row].int().argmax())
        if torch.equal(runs.eager.tokens[row, :step], runs.reference.tokens[row, :step]):
            yield row, step


def equal_tokens(runs: Runs, dtype: Dtype) -> bool:
    """The free greedy tokens are same-dtype eager's."""
    del dtype  # tokens have none
    return torch.equal(runs.candidate.tokens, runs.eager.tokens)


ALL = (Dtype.FP32, *HALF_PRECISIONS)
VLLM = "https://github.com/vllm-project/vllm/blob/002b4cf80b730f384dbc7d5f85db8a10b14af56a/tests/models/utils.py"
"""And for both rules that no dtype is set: https://docs.vllm.ai/en/latest/contributing/model/tests/."""

RIVALS = (
    Rival("assert_close", "torch/testing/_comparison.py, assert_close and _DTYPE_PRECISIONS", ALL, default_tolerances),
    Rival(
        "flash-attention 2x",
        "https://github.com/Dao-AILab/flash-attention/blob/01afd16d248c4c7d0f9aed1914084f16c490eaed/"
        "hopper/test_flash_attn.py, test_flash_attn_output; its reference: hopper/test_util.py, attention_ref",
        HALF_PRECISIONS,
        twice_eagers_error,
    ),
    Rival(
        "dynamo same()",
        "torch/_dynamo/utils.py, same; tolerance and NaN: https://github.com/pytorch/benchmark/blob/"
        "4a07b6c59faa05a2196f165691cfbe1788eaca95/userbenchmark/dynamo/dynamobench/huggingface.py, "
        "get_tolerance_and_cosine_flag, and common.py, equal_nan",
        ALL,
        dynamos_same,
    ),
    Rival("vLLM top-5", f"{VLLM}, check_logprobs_close", ALL, among_the_top),
    Rival("exact tokens", f"{VLLM}, check_outputs_equal", ALL, equal_tokens),
)
