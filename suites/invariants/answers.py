"""Answers to requests as a relation's result: what each must be, given its prompt alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.execution.correctness.errors import Triple, stratum_error
from harness.judging.error_ratios import error_findings
from harness.records.enums import Dtype
from harness.records.evidence import StratumError
from harness.records.finding import LimitCheck
from suites.invariants.close import Alone, Side
from suites.invariants.served import Answer, Session

SMALLEST_TOP_P = 1e-6
"""A top-p of this leaves the first choice alone."""
NAME = "log probabilities"


@dataclass(frozen=True)
class Answers:
    """Requests that were served together, judged one by one."""

    session: Session
    counts: tuple[tuple[str, str, float, bool], ...] = ()
    """Numbers of the relation itself: key, sentence, count, and whether there must be one. Otherwise it must be 0."""

    def __iter__(self) -> Iterator[Side | Answers]:
        """What a relation yields: the logits from which the tokens of all answers were chosen, and this."""
        seen = [answer for answer in self.final if not answer.unseen]
        if seen:
            yield Side("served", [answer.row for answer in seen], [answer.step_logits for answer in seen])
        yield self

    @property
    def final(self) -> list[Answer]:
        """All answers that came to an end. One without any token is found by its length."""
        return [answer for answer in self.session.answers if answer.final and answer.final.generated_tokens]

    def checks(self, dtype: Dtype, alone: Alone) -> Iterator[LimitCheck]:
        answers = self.session.answers
        lost = sum(answer.final is None and not answer.request.leaves for answer in answers)
        yield _none(dtype, "lost", "requests without an answer", lost)
        going_on = sum(answer.final is not None and bool(answer.request.leaves) for answer in answers)
        yield _none(dtype, "going_on", "cancelled requests that were answered all the same", going_on)
        yield _none(dtype, "unended", "answers that end too early or too late", sum(map(_unended, answers)))
        unseen = sum(answer.unseen for answer in self.final)
        yield _none(dtype, "unseen", "answers with a token for whose position the model computed no logits", unseen)
        other = sum(map(_tells_other, answers))
        yield _none(dtype, "streamed", "streamed tokens that differ from the final answer", other)
        kept = "share of the pages that are never given back, or less than 0 if some are given back twice"
        yield _none(dtype, "kept", kept, self.session.kept_pages)
        for key, sentence, count, must_be in self.counts:
            if must_be:
                yield LimitCheck("E", f"{dtype}.{key}", f"{dtype} {sentence}", count, 1.0, at_most=False)
            else:
                yield _none(dtype, key, sentence, count)
        yield from self._numbers(dtype, alone)

    def _numbers(self, dtype: Dtype, alone: Alone) -> Iterator[LimitCheck]:
        """Log probabilities, and what each chosen token costs, given prompt and answer alone."""
        final = self.final
        if not final:
            return
        rows = [
            [alone(precision, tuple(answer.row))[-len(answer.final.generated_tokens) :] for answer in final]
            for precision in (dtype, Dtype.FP64)
        ]
        eager, exact = (
            torch.cat([_scored(answer, row) for answer, row in zip(final, each, strict=True)]) for each in rows
        )
        chosen = torch.tensor([token for answer in final for token in answer.final.generated_tokens])[:, None]
        told = torch.tensor([value for answer in final for value in answer.final.logprobs])
        missing = abs(len(chosen) - len(told))
        yield _none(dtype, "untold", "difference between the number of tokens and of log probabilities", missing)
        error = _log_probability_error(told, chosen, eager, exact, dtype) if not missing else None
        if error:
            for check in error_findings((error,), dtype):
                yield replace(check, key=check.key.replace("rho", "told"))
        lost = torch.cat([_lost(answer, row) for answer, row in zip(final, rows[1], strict=True)])
        allowed = allowance(torch.cat(rows[0]), torch.cat(rows[1]), dtype)
        what = f"{dtype} margin of a chosen token over its rounding allowance"
        yield LimitCheck("R4", f"{dtype}.choice", what, (lost.max() / allowed).item(), 1.0)


def _none(dtype: Dtype, key: str, sentence: str, count: float) -> LimitCheck:
    return LimitCheck.none("E", f"{dtype}.{key}", count, f"{sentence}: {count:g} ({dtype})")


def _unended(answer: Answer) -> bool:
    """Whether an answer does not end at its first token that ends it, or else at its own most tokens."""
    if answer.final is None:
        return False
    tokens = answer.final.generated_tokens
    ends = [place + 1 for place, token in enumerate(tokens) if token in answer.request.ends]
    return len(tokens) != min([*ends, answer.request.new_tokens])


def _tells_other(answer: Answer) -> bool:
    """Whether what came token by token is not the beginning of what came last, one token longer each time."""
    if not answer.request.streams or answer.final is None:
        return False
    tokens, values = answer.final.generated_tokens, answer.final.logprobs
    expected = [(tokens[:length], values[:length]) for length in range(1, len(tokens) + 1)]
    return [(told.generated_tokens, told.logprobs) for told in answer.told] != expected


def _scored(answer: Answer, logits: Tensor) -> Tensor:
    """(N, V) float64: log probabilities before anything is cut off, on the request's own scale. The values that are
    kept sum to 1, so that they change little where two values at the edge change places."""
    own = answer.request.settings
    scaled = logits.double() / own.get("temperature", 1.0)
    kept = _kept(answer, scaled.shape[-1])
    return scaled - scaled.topk(kept, dim=-1).values.logsumexp(-1, keepdim=True)


def _kept(answer: Answer, vocabulary: int) -> int:
    """Number of tokens among which an answer's are chosen."""
    own = answer.request.settings
    greedy = own and own.get("top_p", 1.0) <= SMALLEST_TOP_P
    return 1 if greedy else int(min(own.get("top_k", vocabulary), vocabulary))


def _lost(answer: Answer, exact: Tensor) -> Tensor:
    """(N,) float64: how far the logit of each chosen token lies below the least that it may have."""
    tokens = torch.tensor(answer.final.generated_tokens)[:, None].to(exact.device)
    kept = _kept(answer, exact.shape[-1]) if answer.request.settings else 1
    least = exact.topk(kept, dim=-1).values[:, -1]
    return (least - exact.gather(-1, tokens).squeeze(-1)).clamp(min=0)


def allowance(eager: Tensor, exact: Tensor, dtype: Dtype) -> float:
    """How far a choice may lie below the best: rule R4's four independent errors of eager's, as for any near tie."""
    error = stratum_error("answers", Triple(eager, eager, exact), dtype=dtype, without_mean=True)
    least = dtype.unit_roundoff * error.reference_rms
    return max(9 * max(error.eager_rms, least), 8 * error.eager_max, 3 * _ulp(exact, dtype))


def _ulp(exact: Tensor, dtype: Dtype) -> float:
    return 2.0 ** (exact.abs().max().log2().floor().item() - dtype.mantissa_bits)


def _log_probability_error(told: Tensor, chosen: Tensor, eager: Tensor, exact: Tensor, dtype: Dtype) -> StratumError:
    """As those of continuous batching are compared everywhere: eager's error over the whole vocabulary counts, since a
    few choices are too few to measure one; and what the logarithm of a probability near 1 loses in float32."""
    of_choice = exact.gather(-1, chosen.to(exact.device)).squeeze(-1)
    own = stratum_error(NAME, Triple(told.to(exact), told.to(exact), of_choice), dtype=dtype, without_mean=False)
    whole = stratum_error(NAME, Triple(eager, eager, exact), dtype=dtype, without_mean=False)
    lost = 4 * Dtype.FP32.unit_roundoff
    return replace(own, eager_rms=whole.eager_rms + lost, eager_max=whole.eager_max + lost)
