"""Base of all optimizations: how one is applied, and what must be seen for it to count as engaged."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from harness.machine.requirements import Need
from harness.records.enums import Bottleneck, Dtype, Technique, Tolerance
from harness.records.evidence import Case, Engagement, EngagementCheck
from harness.records.observation import EAGER_ATTENTION, AttentionCall, CacheLayer, Observation, Phase
from harness.records.workload import ModelSpec, Workload


class Aspect(StrEnum):
    """Part of the forward pass that an optimization may exchange. What it does not name must stay as in eager."""

    ATTENTION = "attention"
    CACHE = "cache"
    COMPILATION = "compilation"
    LAYERS = "layers"
    """Layers that the `kernels` package may exchange: norms, activations, rotary embeddings."""
    WEIGHTS = "weights"
    """Contents of linear layers, and how they multiply with them."""
    EXPERTS = "experts"
    """Function that computes a mixture of experts. It is watched only where it is exchanged."""


@dataclass(frozen=True)
class RunContext:
    """Facts that a refusal may depend on."""

    device: str
    dtype: Dtype | None = None
    """Dtype of the model's weights."""
    capability: tuple[int, int] = (0, 0)
    """Compute capability of an NVIDIA GPU."""
    architecture: str = ""
    """Name of an AMD GPU's architecture, such as `gfx942`; empty elsewhere."""
    padded: bool = False
    """Whether rows are padded, so that every attention call has a mask."""
    masks: bool = False
    """Whether attention needs more than a causal mask: rows are padded, or a run is longer than a sliding window."""
    windows: tuple[int, ...] = ()
    """Sliding window of each attention layer; 0 for a layer that attends to everything."""
    heads: tuple[int, ...] = ()
    """Number of attention heads: of queries, and of keys and values."""
    head_sizes: tuple[int, ...] = ()
    """Size of a head: of queries and keys, and of values."""
    lengths: tuple[int, ...] = ()
    """Number of positions of each run's prefill."""
    groups: tuple[int, ...] = ()
    """Groups of values of each layer's keys that a quantized cache packs after the prefill of each run."""


@dataclass(frozen=True)
class Launch:
    """Way to start the processes of a parallel model."""

    ranks: int
    torchrun: bool = False
    """Whether torchrun starts them, as users do. Otherwise they are workers, which takes a tenth of the time."""


NEVER = -1
"""End-of-sequence token that no model generates."""


@dataclass(frozen=True)
class Serving:
    """Way in which a path serves its prompts as requests."""

    options: Mapping[str, Any]
    """Entries of ContinuousBatchingConfig."""
    again: bool
    """Whether all requests are submitted a second time, once they are answered."""
    shows_logits: bool
    """Whether the model's own forward pass runs in every step."""


class Optimization(ABC):
    """One way to make inference faster or smaller. Subclasses are frozen dataclasses: workers get them by pickle."""

    name: str
    """Name as in case ids, `technique.variant`."""
    technique: ClassVar[Technique]
    tolerance: Tolerance = Tolerance.REORDERED
    changes: frozenset[Aspect] = frozenset()
    extra: bool = False
    """Whether it varies another path, so that a CPU runs it only when slow cases are requested."""
    budget: str = ""
    """Name of a lossy scheme's budget in the table of limits; empty for none."""
    rounds_weights: bool = False
    """Whether the model computes with rounded weights. It is then judged against a dense model with the same weights
    or, if it is DYNAMIC, against the scheme's own arithmetic."""
    compiles_steps: bool = False
    """Whether torch.compile compiles whole forward passes, so that no operator can be watched from outside."""
    control: bool = False
    """Whether it is no optimization, but shows what is lost without one."""
    impossible: str = ""
    """Reason why it is declared not to work. It is planned as UNSUPPORTED for that reason."""
    saves: bool = False
    """Whether a model with rounded weights can be saved and loaded again as it is."""

    @abstractmethod
    def claims(self, observation: Observation) -> list[EngagementCheck]:
        """Return what must hold for this optimization to count as engaged, compared with what was seen. Pure."""

    def needs(self) -> tuple[Need, ...]:
        return ()

    def concerns(self, recipe: ModelSpec) -> bool:
        """Return whether a model may have what is exchanged. Others get no case, also where a model is named."""
        return not self.lacking(recipe)

    def lacking(self, recipe: ModelSpec) -> str:
        """Return why a model has nothing that could be exchanged; empty if it may have."""
        return ""

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        """Return the formats that its kernels take on a device, most precise first."""
        return (Dtype.FP32, Dtype.FP16, Dtype.BF16)

    def slow_on_cpu(self, case: Case) -> bool:
        """Return whether a CPU runs an untimed case of it only when slow cases are requested."""
        return self.extra

    def suits(self, workload: Workload, device: str) -> bool:
        """Return whether a workload may be the only one that it runs on in a day."""
        return True

    def expected_gain_in(self) -> frozenset[Bottleneck]:
        """Return the loads on which it is timed daily: where its gain, or what it holds, shows on a CPU. A CPU times it
        on others only when slow cases are requested."""
        return frozenset()

    def rungs(self, case: Case) -> tuple[Dtype, ...]:
        """Return the precision ladder of a case, without repetitions.

        It holds the most precise format that the kernels take, in which subtle errors show, and the native one. On
        accelerators float16 comes with bfloat16, since float32 may run other kernels there.
        """
        taken = self.dtypes(case.device)
        finer = [Dtype.FP16] if case.device != "cpu" and case.dtype is Dtype.BF16 and Dtype.FP16 in taken else []
        return tuple(dict.fromkeys((taken[0], *finer, case.dtype)))

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        """Return keyword arguments of `from_pretrained` in a dtype, beyond those of eager. Runs in the worker."""
        return {}

    def generate_options(self) -> Mapping[str, Any]:
        """Return keyword arguments of `generate`. Runs in the worker."""
        return {}

    @property
    def cache_classes(self) -> tuple[str, ...]:
        """Classes of CACHE_CLASSES by whose names the path tells that it got its cache."""
        return ()

    def launch(self) -> Launch | None:
        """Return how many processes share the model, and who starts them; None for a path of one process."""
        return None

    def serving(self) -> Serving | None:
        """Return how prompts are served as requests; None for a path that calls `generate`."""
        return None

    def refuses(self, line: str, case: RunContext) -> str:
        """Return why a line of an error means that the optimization cannot work in this case; empty otherwise.

        The reason is the library's declaration, or a known defect of it. Such an error is UNSUPPORTED, for that reason
        and quoting the line; any other is CRASHED.
        """
        return ""

    def prepare_model(self, model: Any) -> Any:
        """Return the loaded model with the optimization's own changes made to it. Runs in the worker."""
        return model

    def applied(self) -> AbstractContextManager[Any]:
        """Return the context in which `generate` must run. Runs in the worker."""
        return nullcontext()

    def options_beside(self) -> Mapping[str, Any] | None:
        """Return keyword arguments of `generate` for a stack without its LOSSY part; None for any other path."""
        return None

    def dense_weight(self, linear: Any) -> Any:
        """Return the dense weight that a linear layer of a path with rounded weights stands for. None for a layer that
        the path does not round. Runs in the worker."""
        raise TypeError(f"{self.name} is {self.tolerance}, and rounds no {type(linear).__name__}")

    def dense_parameter(self, parameter: Any) -> Any:
        """Return the dense weights that a parameter of experts stands for. None for one that the path does not round.
        Runs in the worker."""
        return None

    def definition(self) -> str:
        """Return the name of the definition by which a path rounds weights, a key of `DEFINITIONS`."""
        raise TypeError(f"{self.name} is {self.tolerance}, and rounds no weights")

    def exact_output(self, linear: Any, given: Any) -> Any:
        """Return what a linear layer of a DYNAMIC path should give for its input, by the scheme's arithmetic in
        float64. None for a layer that the path does not round. Runs in the worker."""
        raise TypeError(f"{self.name} is {self.tolerance}, and rounds no {type(linear).__name__} for {given}")

    def twin_options(self, model: Any) -> Mapping[str, Any]:
        """Return keyword arguments of `generate` for the dense twin of a lossy path: the same values, nothing packed.
        Called anew before each run. Runs in the worker."""
        raise TypeError(f"{self.name} is {self.tolerance}, and has no twin for {type(model).__name__}")


def engagement(optimization: Optimization, observation: Observation) -> Engagement:
    """Judge what was seen by the optimization's own claims, and by eager's for every aspect that it leaves alone. So a
    measured gain is not another optimization's."""
    claims = optimization.claims(observation)
    for aspect, unchanged in UNCHANGED.items():
        if aspect not in optimization.changes:
            claims += unchanged(observation)
    kernels = {f"{call.phase} {call.operator}" for call in (*observation.attention, *observation.kernel_calls)}
    kernels |= {f"layer {kind.name}" for kind in observation.layers if kind.kernelized}
    kernels |= {f"packed {kind.weight}" for kind in observation.linears if kind.bits}
    kernels |= {f"packed {name}" for name in observation.packed_calls}
    kernels |= {f"{repository} from {folder}" for repository, folder in observation.kernel_folders.items()}
    return Engagement(tuple(claims), tuple(sorted(kernels)))


def equal(name: str, requested: object, observed: object) -> EngagementCheck:
    """Return the claim that two values are equal."""
    return EngagementCheck(name, str(requested), str(observed), requested == observed)


MOST_LENGTHS = 2
"""Lengths of queries in steps with a cache: one position, and where a release lays heads among positions, a group's."""


def attention_claim(
    observation: Observation, phase: Phase, operators: str, *, calls: tuple[AttentionCall, ...] | None = None
) -> EngagementCheck:
    """Return the claim that a phase made all its attention calls through operators that match the pattern `operators`.

    In compiled code each may come once more, when the graph runs for the first time. Where padded rows are passed as a
    whole, each must come with a mask: in the prefill and, without a cache, in every step. Otherwise, padding may have
    left a sliding window. Eager's mask cannot be seen at its operator.
    """
    made = [call for call in (observation.attention if calls is None else calls) if call.phase is phase]
    # With a cache, a step is given one position, or the heads of a group in its place; without, ever more of them.
    lengths = {call.queries for call in made if call.queries}
    most = max(MOST_LENGTHS, observation.eager.decode_lengths)
    regrown = phase is Phase.DECODE and observation.cached and len(lengths) > most
    whole = phase is Phase.PREFILL or not observation.cached
    must_mask = observation.padded and whole and operators != EAGER_ATTENTION
    masked = sum(call.masked for call in made)
    holds = (
        (len(made) == observation.calls(phase) or len(made) > observation.calls(phase) > 0 < observation.compiled_calls)
        and (observation.calls(Phase.PREFILL) > 0 or operators == EAGER_ATTENTION)
        and all(fnmatchcase(call.operator, operators) for call in made)
        and (masked == len(made) or not must_mask)
        and not regrown
    )
    observed = tally(Counter(call.operator for call in made)) + (f" ({masked} masked)" if masked else "")
    observed += f" (of {min(lengths)} to {max(lengths)} positions)" if regrown else ""
    requested = f"{observation.calls(phase)} × {operators}" + (" (all masked)" if must_mask else "")
    return EngagementCheck(f"attention in {phase}", requested, observed, holds)


def served_by(
    observation: Observation, implementation: str, operators: str, *, calls: tuple[AttentionCall, ...] | None = None
) -> list[EngagementCheck]:
    """Return the claims on the model's attention implementation, and that each phase went through `operators`."""
    return [
        equal("attention implementation", implementation, observation.attention_implementation),
        *(attention_claim(observation, phase, operators, calls=calls) for phase in Phase),
    ]


def argument_refused(line: str) -> str:
    """Return which argument a kernel of flash-attention does not take, if transformers' error says so; else empty."""
    named = re.search(r"This flash attention implementation does not support `(\w+)`", line)
    return f"its kernel takes no {named[1]}" if named else ""


def tally(counts: Mapping[str, int]) -> str:
    """Return counted names in words, for requested and observed: `4 × aten::_softmax`."""
    return ", ".join(f"{count} × {name}" for name, count in sorted(counts.items())) or "none"


def eager_attention(observation: Observation) -> list[EngagementCheck]:
    """Return the claims that attention is transformers' eager code. Compiled code hides its operators: `generate`
    compiles the decode steps, and compilation from outside takes in the prefill too."""
    visible = (
        list(Phase)
        if observation.compiled_calls == 0
        else [Phase.PREFILL] * (observation.compiled_calls <= observation.decode_steps)
    )
    return [attention_claim(observation, phase, EAGER_ATTENTION) for phase in visible]


def dynamic_cache(observation: Observation) -> list[EngagementCheck]:
    """Return the claims that the cache is eager's, which grows: by default that of `generate`, or a model's own."""
    layers = observation.eager.cache_layers
    return cache_claims(observation, observation.eager.cache, layers)


def cache_claims(observation: Observation, cache: str, layers: tuple[CacheLayer, ...]) -> list[EngagementCheck]:
    """Return the claims on the class of the cache, and on its layers: their dtype, class and positions kept.

    `layers` are those that must be there. A model without attention has none.
    """
    wanted, seen = ([layer.kind for layer in each] for each in (layers, observation.cache_layers))
    keeps, kept = ([layer.kept for layer in each] for each in (layers, observation.cache_layers))
    dtypes = [layer.dtype for layer in observation.cache_layers]
    # A model that attends keeps something, or it was not read.
    some = bool(layers) or not observation.eager.decode_attention
    return [
        equal("cache", cache, ", ".join(sorted(set(observation.caches))) or "none"),
        equal("dtype of cached keys", tally(Counter(layer.dtype for layer in layers)), tally(Counter(dtypes))),
        EngagementCheck("cache layers", tally(Counter(wanted)), tally(Counter(seen)), wanted == seen and some),
        EngagementCheck("positions kept by cache layers", _positions(keeps), _positions(kept), keeps == kept and some),
    ]


def _positions(counts: list[int]) -> str:
    return tally(Counter(f"{count} positions" for count in counts))


def not_compiled(observation: Observation) -> list[EngagementCheck]:
    """Return the claim that nothing was compiled."""
    return [equal("compiled calls", 0, observation.compiled_calls)]


def original_layers(observation: Observation) -> list[EngagementCheck]:
    """Return the claim that no layer was exchanged for a kernel."""
    return [equal("layers exchanged for kernels", 0, sum(kind.kernelized for kind in observation.layers))]


def dense_weights(observation: Observation) -> list[EngagementCheck]:
    """Return the claim that no linear layer keeps packed weights, but for those of a model that was saved so."""
    packed = sum(len(kind.names) for kind in observation.linears if kind.bits)
    return [equal("linears with packed weights", observation.eager.packed_linears, packed)]


UNCHANGED = {
    Aspect.ATTENTION: eager_attention,
    Aspect.CACHE: dynamic_cache,
    Aspect.COMPILATION: not_compiled,
    Aspect.LAYERS: original_layers,
    Aspect.WEIGHTS: dense_weights,
}
