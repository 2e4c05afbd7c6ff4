"""What an answer may be, given its prompt alone: eager in float64, with the answer forced on it. Runs in workers."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from harness.errors import Incompatible
from harness.execution.correctness.runs import in_float64
from harness.execution.loading import load_run
from harness.execution.setup import CaseSetup
from harness.records.enums import Dtype
from suites.invariants.answers import allowance
from suites.invariants.probing import loadable
from suites.server.clients import Answered

PROBE = "One token for each byte, ä and ö too."


def margins(setup: CaseSetup, dtype: Dtype, answers: list[Answered]) -> list[float | None]:
    """Of each answer, by how much its worst token lies below the best, over what eager's rounding allows.

    It is None where the text does not tell its tokens. Raises Incompatible for a tokenizer that merges bytes.
    """
    tokenizer = _tokenizer(setup)
    if len(_ids(tokenizer, PROBE)) != len(PROBE.encode()):
        raise Incompatible("the tokens of an answer are known from its text only where each byte is a token")
    return [_margin(setup, dtype, tokenizer, answer) for answer in answers]


def _margin(setup: CaseSetup, dtype: Dtype, tokenizer: Any, answer: Answered) -> float | None:
    prompt, chosen = _ids(tokenizer, answer.prompt), _ids(tokenizer, answer.text)
    if answer.ended:
        chosen.append(tokenizer.eos_token_id)
    if len(chosen) != answer.tokens or not chosen:
        return None
    row = (*prompt, *chosen[:-1])
    eager, exact = (_alone(setup, precision, row)[-len(chosen) :] for precision in (dtype, Dtype.FP64))
    lost = exact.amax(-1) - exact.gather(-1, torch.tensor(chosen)[:, None].to(exact.device)).squeeze(-1)
    return (lost.max() / allowance(eager, exact, dtype)).item()


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


@cache
def _tokenizer(setup: CaseSetup) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(loadable(setup).recipe.source.path)


@cache
def _model(setup: CaseSetup, dtype: Dtype) -> Any:
    model, _ = load_run(loadable(setup).eager(dtype))
    return model


def _alone(setup: CaseSetup, dtype: Dtype, row: tuple[int, ...]) -> Tensor:
    model = _model(setup, dtype)
    ids = torch.tensor([row], device=model.device)
    with torch.no_grad(), in_float64(setup) if dtype is Dtype.FP64 else nullcontext():
        logits: Tensor = model(ids, use_cache=False).logits[0]
    return logits
