"""Look at requests while continuous batching serves them. Runs in workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.execution.serving import BatchingWatch
from harness.observation.graphs import Computed
from harness.observation.passes import Passes
from harness.observation.watch import attention_calls
from harness.observation.wrapping import wrapped


class ServedWatch(BatchingWatch):
    """Watch that also notes what only the table of silence wants to know."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, layers=False, logits=False)
        self._kinds: set[str] = set()
        """Classes of what holds the inputs of a step, and of the scheduler."""
        self._offloads = 0

    @contextmanager
    def _looking(self) -> Iterator[None]:
        from transformers.generation.continuous_batching.offloading_manager import OffloadingManager

        with super()._looking(), wrapped(OffloadingManager, "_offload_to_cpu", self._offload):
            yield

    def _offload(self, original: Any, *arguments: Any, **options: Any) -> Any:
        self._offloads += 1
        return original(*arguments, **options)

    def _step(self, original: Any, processor: Any, model: Any) -> Any:
        self._kinds |= {type(processor.inputs_and_outputs).__name__, type(processor.scheduler).__name__}
        return super()._step(original, processor, model)

    def facts(self, answers: list[Any]) -> dict[str, str]:
        """Return the facts on requests that were answered."""
        seen = self.seen([], lengths=[], padded=False, decode_steps=0).batching
        assert seen is not None
        errors = [answer.error for answer in answers if answer.error]
        return {
            "attention": ", ".join(sorted({call.operator for call in self._attention()})) or "none",
            "pages": f"{seen.pages} of {seen.page}",
            "tokens of one step": str(seen.widest),
            "requests in one step": str(seen.largest),
            "steps of a prefill": str(seen.chunks),
            "shared tokens": str(seen.shared),
            "prefilled tokens": str(seen.prefilled),
            "steps by graphs": str(seen.replays + seen.captures),
            "processors dropped": ", ".join(seen.dropped) or "none",
            "errors": "; ".join(errors) or "none",
            "answers": str(len(answers)),
            "log probabilities": "yes" if answers and answers[0].logprobs else "no",
            "number of tokens": ", ".join(sorted({str(len(answer.generated_tokens)) for answer in answers})),
            "tokens": " ".join(str(token) for answer in answers for token in answer.generated_tokens),
            "offloads to the CPU": str(self._offloads),
            "classes": ", ".join(sorted(self._kinds)),
            "timestamps": "yes" if answers and answers[0].timestamps else "no",
        }

    def _attention(self) -> list[Any]:
        return list(attention_calls(Computed(self._seen), Passes(self._seen)))
