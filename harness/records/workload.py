"""Models and workloads: everything there is to run. Frozen records without I/O, environment or torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.records.enums import Bottleneck, Dtype


@dataclass(frozen=True)
class Folder:
    """Weights, config and tokenizer in a local folder, as `save_pretrained` writes them."""

    path: str
    """Absolute path."""


@dataclass(frozen=True)
class Hub:
    """A model repository on the Hugging Face Hub."""

    repository: str
    """Name of the repository, `owner/name`."""
    revision: str = "main"
    """Branch, tag or commit. Only a commit stays the same."""


SIZED = {
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    "vocab_size",
}
"""Entries of a config from which the number of weights follows."""


@dataclass(frozen=True)
class Seeded:
    """Random weights in a published shape: enough for arithmetic and speed, without a download."""

    model_type: str
    """Model type as in a config.json: `llama`, `qwen3`, ..."""
    shape: Mapping[str, Any] = field(hash=False)
    """Further entries of the config."""
    tokenizer: str
    """Absolute path of a folder with a tokenizer whose ids the vocabulary holds."""
    seed: int = 0
    uneven: bool = False
    """Whether norms and biases are random as well. By initialisation they are ones and zeros, and change nothing."""
    small: bool = False
    """Whether it has a few million weights at most, so that its cases may run at the same time."""

    @property
    def parameters(self) -> int | None:
        """Number of weights of matrices, by the entries that most decoder configs share. None if one of these is
        missing, or if there are experts."""
        shape, layer = self.shape, self.layer
        if layer is None:
            return None
        tables = 1 if shape.get("tie_word_embeddings") else 2
        return int(tables * shape["hidden_size"] * shape["vocab_size"] + shape["num_hidden_layers"] * layer)

    @property
    def layer(self) -> int | None:
        """Number of weights of one layer's matrices; None as for `parameters`."""
        shape = self.shape
        if not shape.keys() >= SIZED or any("expert" in entry for entry in shape):
            return None
        width, heads = shape["hidden_size"], shape["num_attention_heads"]
        size = shape.get("head_dim") or width // heads
        attention = 2 * width * size * (heads + shape["num_key_value_heads"])
        return int(attention + 3 * width * shape["intermediate_size"])


@dataclass(frozen=True)
class ModelSpec:
    """A model's name, and where to get it and its tokenizer."""

    name: str
    """Part of case ids."""
    source: Folder | Hub | Seeded
    cpu_dtype: Dtype = Dtype.FP32
    """Native dtype on the CPU where none is requested; accelerators take bfloat16."""
    solves_recall: bool = False
    """Whether the model was trained to continue with `Prompt.answer`. Its eager output must then do so."""
    timed_daily: bool = True
    """Whether a CPU times it even without slow cases. One of several similar models is enough."""
    model_type: str = ""
    """Model type as in the config.json of a folder; empty if nobody looked."""
    trusted: bool = False
    """Whether Python code that comes with the model may run."""

    def __post_init__(self) -> None:
        _need_plain_name("model recipe", self.name)

    @property
    def architecture(self) -> str:
        """Model type as in a config.json; empty if it is not known before the model is loaded."""
        return self.source.model_type if isinstance(self.source, Seeded) else self.model_type


@dataclass(frozen=True)
class Prompt:
    """One row of a workload: a text, or token ids."""

    length: int
    """Number of tokens. A text is encoded, repeated as often as needed, and cut to this length under any tokenizer."""
    text: str = ""
    tokens: tuple[int, ...] = ()
    """Token ids, `length` of them, used as they are; empty if the prompt is a text."""
    answer: tuple[int, ...] = ()
    """Tokens that a model with `solves_recall` continues with, as far as they are determined."""

    def __post_init__(self) -> None:
        if bool(self.text) == bool(self.tokens):
            raise ValueError("a prompt is either a text or token ids, and not both")
        if self.length < 2 or (self.tokens and len(self.tokens) != self.length):
            raise ValueError(
                f"prompt length is {self.length} with {len(self.tokens)} token ids, but should agree and be at least 2"
            )


@dataclass(frozen=True)
class Workload:
    """Prompts that run as one batch or one by one, and the number of tokens generated for each."""

    name: str
    """Part of case ids; says padding and batch size."""
    prompts: tuple[Prompt, ...]
    new_tokens: int
    """Tokens generated for every row. End-of-sequence is switched off, so that all rows and all runs do equal work."""
    separate: bool = False
    """Whether every prompt is a run of its own, in one process: other lengths one after another, and no padding."""
    slow: bool = False
    """Whether it is left out unless slow cases are requested."""
    timed: Bottleneck | None = None
    """Kind of load that is timed; speed, memory, utilization and regressions are then judged too. None if not timed."""

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
        """Prompts of each run."""
        return tuple((prompt,) for prompt in self.prompts) if self.separate else (self.prompts,)

    @property
    def padded(self) -> bool:
        return not self.separate and any(prompt.length < self.longest for prompt in self.prompts)


@dataclass(frozen=True)
class Probes:
    """Workloads that belong to no case. Eager and rounded weights are tried on them in addition to each case's own."""

    recall: Workload
    """Recall probe: eager must give the answers if its model was trained on recall."""
    text: Workload
    """Text on which the cost of rounded weights is measured: prompts of equal length."""

    def __post_init__(self) -> None:
        if self.text.padded or self.text.batch < 2:
            raise ValueError(f"workload {self.text.name} should hold at least two prompts, all of one length")


def _need_plain_name(label: str, name: str) -> None:
    if not name or any(char in name for char in "-[]/ \t\n"):
        raise ValueError(
            f"{label} is named {name!r}, but a name should have no '-', '/', brackets or spaces: ids are joined by '-'"
        )
