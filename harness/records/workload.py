"""What there is to run: models and workloads. Frozen records without I/O, environment or torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.records.enums import Dtype, Load


@dataclass(frozen=True)
class Folder:
    """Weights, config and tokenizer in a local folder, as `save_pretrained` writes them."""

    path: str
    """Absolute."""


@dataclass(frozen=True)
class Hub:
    """A model repository on the Hugging Face Hub."""

    repository: str
    """`owner/name`."""
    revision: str = "main"
    """Branch, tag or commit; anything but a commit moves."""


@dataclass(frozen=True)
class Seeded:
    """Random weights in a published shape: what arithmetic and speed depend on, without a download."""

    model_type: str
    """As in a config.json: `llama`, `qwen3`, ..."""
    shape: Mapping[str, Any] = field(hash=False)
    """Further entries of the config."""
    tokenizer: str
    """A folder with a tokenizer whose ids the vocabulary holds; absolute."""
    seed: int = 0


@dataclass(frozen=True)
class ModelRecipe:
    """How to get a model and its tokenizer."""

    name: str
    """Part of case ids."""
    source: Folder | Hub | Seeded
    cpu_dtype: Dtype = Dtype.FP32
    """Native dtype on the CPU when none is asked for; accelerators take bfloat16."""
    solves_recall: bool = False
    """Whether the model was trained to continue `Prompt.answer`: its eager output is then held to it."""
    timed_daily: bool = True
    """Whether a CPU times it without being asked for slow cases: one of several alike is enough."""

    def __post_init__(self) -> None:
        _need_plain_name("model recipe", self.name)


@dataclass(frozen=True)
class Prompt:
    """One row of a workload: a text, or token ids."""

    length: int
    """Tokens. A text is encoded, repeated as often as needed, and cut to this length under any tokenizer."""
    text: str = ""
    tokens: tuple[int, ...] = ()
    """Token ids, `length` of them, used as they are; empty if the prompt is a text."""
    answer: tuple[int, ...] = ()
    """The tokens that a model with `solves_recall` continues with, as far as they are determined."""

    def __post_init__(self) -> None:
        if bool(self.text) == bool(self.tokens):
            raise ValueError("a prompt is either a text or token ids, and not both")
        if self.length < 2 or (self.tokens and len(self.tokens) != self.length):
            raise ValueError(
                f"prompt length is {self.length} with {len(self.tokens)} token ids, but should agree and be at least 2"
            )


@dataclass(frozen=True)
class Workload:
    """Prompts run as one batch or one by one, and how many tokens are generated for each."""

    name: str
    """Part of case ids; says padding and batch size."""
    prompts: tuple[Prompt, ...]
    new_tokens: int
    """Generated for every row; end-of-sequence is switched off so that all rows and all runs do equal work."""
    separate: bool = False
    """Every prompt is a run of its own, in one process: other lengths one after another, and no padding."""
    slow: bool = False
    """Left out unless slow cases are asked for."""
    timed: Load | None = None
    """Whether speed, memory, utilization and regressions are asked for too, and what then takes the time."""

    def __post_init__(self) -> None:
        _need_plain_name("workload", self.name)
        if self.timed and self.separate:
            raise ValueError(f"workload {self.name} is timed, but should then be one run")
        if not self.prompts:
            raise ValueError(f"workload {self.name} has no prompts, but should have at least one")
        if self.new_tokens < 3:
            raise ValueError(
                f"workload {self.name}: new_tokens is {self.new_tokens}, but should be at least 3: "
                "prefill, first and later decode steps are judged apart"
            )

    @property
    def batch(self) -> int:
        return len(self.prompts)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt, to which the others are padded on the left."""
        return max(prompt.length for prompt in self.prompts)

    @property
    def batches(self) -> tuple[tuple[Prompt, ...], ...]:
        """The prompts of each run."""
        return tuple((prompt,) for prompt in self.prompts) if self.separate else (self.prompts,)

    @property
    def padded(self) -> bool:
        return not self.separate and any(prompt.length < self.longest for prompt in self.prompts)


@dataclass(frozen=True)
class Probes:
    """Workloads that are no cases: what eager and rounded weights are tried on beside each case's own."""

    recall: Workload
    """Eager must give the answers if its model was trained on recall."""
    text: Workload
    """What rounded weights cost is measured on it: prompts of equal length."""

    def __post_init__(self) -> None:
        if self.text.padded or self.text.batch < 2:
            raise ValueError(f"workload {self.text.name} should hold at least two prompts, all of one length")


def _need_plain_name(what: str, name: str) -> None:
    if not name or any(char in name for char in "-[]/ \t\n"):
        raise ValueError(
            f"{what} is named {name!r}, but a name should have no '-', '/', brackets or spaces: ids are joined by '-'"
        )
