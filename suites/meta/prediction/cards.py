"""Cards that nobody has at hand: rates assumed of them, and figures that others published of them."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.enums import Dtype
from harness.records.prediction import Constants, Rate

OPERATOR_ON_SERVER = 5.8e-6
"""Seconds that a server's host takes per operator. Eager Llama 3 8B in bfloat16 takes 24.4 ms a step on an H100
(bitsandbytes benchmarking/README@95f9af30), of which all but the 4.5 ms of weights are waiting for the host."""
OPERATOR_ON_DESKTOP = 3.0e-6
"""The same of a desktop's processor, whose single thread is about twice as fast. An assumption."""
STEP = 3e-4
"""Seconds of a step of `generate` beside its layers. An assumption."""
GAP = 1e-6
"""Seconds that the least kernel takes in a graph. An assumption."""
READ_SHARE = 0.8
"""Share of the data sheet's bandwidth at which weights are read: gpt-fast reaches 0.69 to 0.83 of an A100's."""
PRODUCT_SHARE = 0.7
"""Share of the data sheet's products that large products reach: the rest is lost to power and to their ends."""
MOVE_SHARE = 0.7
HALVES = (Dtype.FP32, Dtype.BF16)
"""Formats that occur: models are in bfloat16, and a softmax in float32."""


@dataclass(frozen=True)
class AssumedCard:
    """One kind of card with its data sheet's rates."""

    name: str
    bandwidth: float
    """Bytes per second."""
    products: float
    """Dense bfloat16 FLOP/s."""
    gib: int
    operator: float = OPERATOR_ON_SERVER

    @property
    def constants(self) -> Constants:
        rows = ((4, 0.02), (16, 0.08), (128, 0.5), (2048, 1.0))
        products = tuple(Rate(count, share * PRODUCT_SHARE * self.products) for count, share in rows)
        reads = (Rate(1e9, READ_SHARE * self.bandwidth),)
        return Constants(
            operator=self.operator,
            step=STEP,
            gap=GAP,
            reads=dict.fromkeys(HALVES, reads),
            products=dict.fromkeys(HALVES, products),
            batched=dict.fromkeys(HALVES, 0.3 * self.products),
            attention=dict.fromkeys(HALVES, 0.4 * self.products),
            moves=(Rate(1e9, MOVE_SHARE * self.bandwidth),),
            exponentials=dict.fromkeys(HALVES, MOVE_SHARE * self.bandwidth / 4),
            serial=False,
        )


H200 = AssumedCard("H200", 4800e9, 989e12, 141)
H100 = AssumedCard("H100", 3350e9, 989e12, 80)
A100 = AssumedCard("A100 80GB", 2039e9, 312e12, 80)
L4 = AssumedCard("L4", 300e9, 121e12, 24)
RTX_4090 = AssumedCard("RTX 4090", 1008e9, 165e12, 24, OPERATOR_ON_DESKTOP)
CARDS = (H200, H100, A100, L4, RTX_4090)
"""Rates as in NVIDIA's data sheets, without sparsity."""


@dataclass(frozen=True)
class Published:
    """One published speedup over eager, or over what is named."""

    card: AssumedCard
    path: str
    """Path that is nearest to what was measured."""
    rows: int
    speedup: float
    source: str
    against: str = "eager"


PUBLISHED = (
    Published(H100, "quantization.bnb_nf4", 1, 0.74, "bitsandbytes benchmarking/README@95f9af30"),
    Published(H100, "quantization.bnb_nf4", 8, 0.54, "the same"),
    Published(H100, "quantization.bnb_nf4", 32, 0.54, "the same"),
    Published(RTX_4090, "quantization.bnb_nf4", 1, 1.43, "the same"),
    Published(H100, "quantization.bnb_int8", 1, 0.30, "the same"),
    Published(A100, "compilation.static_cache", 1, 4.1, "gpt-fast blog, 7B; transformers#34923 has the same"),
    Published(H100, "compilation.static_cache", 1, 1.65, "8B forward, second-hand"),
    Published(A100, "caching.static", 1, 0.87, "huggingface/nanoVLM#88, a small model"),
    Published(
        A100, "stacks.sdpa+static_cache+torchao_int8", 1, 1.60, "torchao README@03d01ad", "compilation.static_cache"
    ),
    Published(A100, "parallelism.tp2", 1, 0.69, "tensor_parallel#66, 7B on two cards, not compiled"),
)
"""Speedups of models of about 8B parameters unless said otherwise, as gathered with their sources in 2026."""
