"""Weights in few bits, by each library that transformers offers, each through its own configuration.

A scheme that only rounds weights must compute what a dense model of the same rounded weights computes. For one that
rounds activations as well, the arithmetic is written down here, in float64.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from harness.errors import Incompatible
from harness.machine.host import cpu_flags
from harness.machine.requirements import Cuda, ExtensionBuild, HubKernel, Kernels, Need, Package, Triton
from harness.paths.base import Aspect, Optimization, RunContext, equal, tally
from harness.records.enums import HALF_PRECISIONS, Bottleneck, Dtype, Technique, Tolerance
from harness.records.evidence import Case, EngagementCheck
from harness.records.observation import Matrices, Observation

_CPU_RECIPROCAL = 6.200124e-05
"""Factor that bitsandbytes 0.50 uses on the CPU for 1 / 127**2, which is 6.2000124e-05. Every output is too large by 18
millionths. With the right number the comparison would find nothing but that."""


LEAST_PACKED = 0.8
"""Least share of a model's values that must be packed. Where all linear layers are, real models have 0.99 and more,
small ones with state spaces 0.9. A mixture of experts that stay dense has 0.06 to 0.4."""


@dataclass(frozen=True)
class QuantizedWeights(Optimization):
    """Optimization in which every linear layer but the head keeps packed weights."""

    name: str
    bits: int
    """Bits of each packed weight, as it is stored."""
    levels: int = 0
    """Bits that distinguish its values, as its scheme is named; 0 if as many as are stored."""
    budget: str = ""
    extra: bool = False
    technique = Technique.QUANTIZATION
    tolerance = Tolerance.ROUNDED
    changes = frozenset({Aspect.WEIGHTS})
    rounds_weights = True

    kinds: str = field(default="*", init=False)
    """Pattern of the class of a quantized linear layer and, after a space, the class of its weight."""
    operators: str = field(default="", init=False)
    """Pattern of the operator that each call of a quantized layer runs once. Empty if it shows no own one."""

    @property
    def scheme_bits(self) -> int:
        return self.levels or self.bits

    def slow_on_cpu(self, case: Case) -> bool:
        return self.extra or not case.workload.padded

    def claims(self, observation: Observation) -> list[EngagementCheck]:
        packed = [kind for kind in observation.linears if kind.bits]
        # Those that eager never calls, as of a tower for images, nobody needs to pack.
        called = observation.eager.linears
        dense = [
            name
            for kind in observation.linears
            if not kind.bits
            for name in kind.names
            if called.get(name, 1) and not f".{name}".endswith(tuple(f".{kept}" for kept in observation.kept))
        ]
        count = sum(len(kind.names) for kind in packed)
        observed = tally(Counter(f"{kind.kind} {kind.weight}" for kind in packed for _ in kind.names))
        right = bool(packed) and all(fnmatchcase(f"{kind.kind} {kind.weight}", self.kinds) for kind in packed)
        widths = Counter(f"{kind.bits:g} bits" for kind in packed for _ in kind.names)
        claims = [
            equal("linears left dense", observation.head or "none", ", ".join(dense) or "none"),
            EngagementCheck("packed linears", f"{count or 'all'} × {self.kinds}", observed, right),
            equal("width of packed weights", f"{count} × {self.bits} bits", tally(widths)),
            _packed_share(observation.matrices),
        ]
        if self.operators:
            names = [name for kind in packed for name in kind.names]
            wanted = round(sum(called.get(name, 1) for name in names) * observation.forwards)
            # Some models multiply by a weight themselves, unless it is packed; routers call experts as tokens come.
            most = max(wanted, count * observation.forwards)
            least = wanted if all(float(called.get(name, 1)).is_integer() for name in names) else 1
            calls = {name: n for name, n in observation.packed_calls.items() if fnmatchcase(name, self.operators)}
            claims.append(
                EngagementCheck(
                    "calls with packed weights",
                    f"{wanted} × {self.operators}",
                    tally(calls),
                    0 < least <= sum(calls.values()) <= most,
                )
            )
        return claims


def _packed_share(matrices: Matrices) -> EngagementCheck:
    """Return the claim that what is packed is most of the model. Routers and convolutions may stay as they are."""
    left = f"; dense are {matrices.left_dense}" if matrices.left_dense else ""
    return EngagementCheck(
        "share of the matrices' values that is packed",
        f"at least {LEAST_PACKED:.0%}",
        f"{matrices.share:.0%}{left}",
        matrices.share >= LEAST_PACKED,
    )


@dataclass(frozen=True)
class BitsAndBytes4(QuantizedWeights):
    """`BitsAndBytesConfig(load_in_4bit=True)`, computing in the model's own dtype."""

    bits: int = 4
    scheme: str = "nf4"
    """Kind of 4-bit numbers, `nf4` or `fp4`."""
    double: bool = False
    """Whether scales are quantized too."""
    budget: str = "weights_4bit"
    saves = True
    kinds = "Linear4bit Params4bit"
    operators = "bitsandbytes::gem[mv]_4bit"

    def needs(self) -> tuple[Need, ...]:
        return (Package("bitsandbytes"),)

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        import torch
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.scheme,
            bnb_4bit_use_double_quant=self.double,
            bnb_4bit_compute_dtype=getattr(torch, dtype.torch_name),
        )
        return {"quantization_config": config}

    def refuses(self, line: str, case: RunContext) -> str:
        # The second is said where the CPU does not multiply bfloat16 itself, and on a GPU.
        torn = any(said in line for said in ("'NoneType' object has no attribute 'dtype'", "quant_state is required"))
        return "bitsandbytes' weights cannot be loaded in parts" if torn else ""

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        """Return bfloat16 alone for a CPU that multiplies it natively: bitsandbytes 0.50 computes in it there."""
        return (Dtype.BF16,) if device == "cpu" and "avx512_bf16" in cpu_flags() else super().dtypes(device)

    def definition(self) -> str:
        return f"{self.scheme}_double" if self.double else self.scheme

    def dense_weight(self, linear: Any) -> Any:
        import torch
        from bitsandbytes.functional import dequantize_4bit
        from bitsandbytes.nn import Linear4bit

        if not isinstance(linear, Linear4bit):
            return None
        exact = copy(linear.weight.quant_state)
        exact.dtype = torch.float32  # not rounded to the model's dtype
        return dequantize_4bit(linear.weight.data, exact)


@dataclass(frozen=True)
class BitsAndBytes8(QuantizedWeights):
    """`BitsAndBytesConfig(load_in_8bit=True)`, LLM.int8. Rows of activations are rounded to 8 bits by their largest
    value. Columns that hold an outlier are multiplied as they are."""

    name: str = "quantization.bnb_int8"
    bits: int = 8
    budget: str = "weights_8bit"
    tolerance = Tolerance.DYNAMIC
    saves = True
    kinds = "Linear8bitLt Int8Params"
    operators = "MatMul8bitLt"

    def needs(self) -> tuple[Need, ...]:
        return (Package("bitsandbytes"),)

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        """Return half precisions for accelerators, where the outputs pass through float16."""
        return super().dtypes(device) if device == "cpu" else HALF_PRECISIONS

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        from transformers import BitsAndBytesConfig

        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}

    def definition(self) -> str:
        return "llm_int8"

    def dense_weight(self, linear: Any) -> Any:
        if not hasattr(linear, "state"):
            return None
        packed, scales = _levels(linear)
        return packed.double() * (scales.double() / 127)[:, None]

    def exact_output(self, linear: Any, given: Any) -> Any:
        """Compute LLM.int8 in float64, by section 3 of its paper, https://arxiv.org/abs/2208.07339.

        bitsandbytes adds to it: activations pass through float16; outliers are set to zero before a row's largest value
        is taken; their columns are multiplied with the values as they were given.
        """
        import torch
        from bitsandbytes.nn import Linear8bitLt

        if not isinstance(linear, Linear8bitLt):
            return None
        packed, scales = _levels(linear)
        rows = given.reshape(-1, given.shape[-1])
        halved = rows.to(torch.float16).float()
        outliers = halved.abs() >= linear.state.threshold
        columns = outliers.any(0)
        kept = halved.masked_fill(outliers, 0.0)
        largest = kept.abs().amax(1)
        levels = torch.round(kept * (127.0 / largest)[:, None]).nan_to_num(0.0)
        if len(rows) > 1:
            levels[:, columns] = 0.0
        product = (levels.double() @ packed.double().T) * largest.double()[:, None] * scales.double()
        exact = product * (_CPU_RECIPROCAL if given.device.type == "cpu" else 1 / 127**2)
        weight = self.dense_weight(linear)
        exact += rows[:, columns].double() @ weight[:, columns].T
        if linear.bias is not None:
            exact += linear.bias.double()
        return exact.reshape(*given.shape[:-1], -1)


def _levels(linear: Any) -> tuple[Any, Any]:
    """Return int8 weights and their rows' scales. The first forward pass moves them from the weight to the state."""
    moved = linear.state.CB is not None
    return (linear.state.CB, linear.state.SCB) if moved else (linear.weight.CB, linear.weight.SCB)


@dataclass(frozen=True)
class TorchAo(QuantizedWeights):
    """`TorchAoConfig` with one of torchao's weight-only schemes."""

    scheme: str = "int8"
    """`int8` (one scale per row), `int4` (one scale per 32 weights, each weight in a byte) or `float8`."""
    bits: int = 8
    budget: str = "weights_8bit"
    saves = True
    kinds: str = field(init=False)

    def __post_init__(self) -> None:
        weight = {"int8": "Int8Tensor", "int4": "IntxUnpackedToInt8Tensor", "float8": "Float8Tensor"}[self.scheme]
        object.__setattr__(self, "kinds", f"* {weight}")  # the dataclass is frozen

    def needs(self) -> tuple[Need, ...]:
        return (Package("torchao"),)

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        from torch import int4  # type: ignore[attr-defined]  # missing in torch's annotations
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig
        from torchao.quantization.granularity import PerGroup
        from transformers import TorchAoConfig

        schemes = {
            "int8": Int8WeightOnlyConfig,
            "int4": partial(IntxWeightOnlyConfig, weight_dtype=int4, granularity=PerGroup(32)),
            "float8": Float8WeightOnlyConfig,
        }
        return {"quantization_config": TorchAoConfig(schemes[self.scheme]())}

    def definition(self) -> str:
        return f"torchao_{self.scheme}"

    def dense_weight(self, linear: Any) -> Any:
        return self.dense_parameter(linear.weight)

    def dense_parameter(self, parameter: Any) -> Any:
        return parameter.dequantize() if type(parameter).__module__.startswith("torchao.") else None


@dataclass(frozen=True)
class Quanto(QuantizedWeights):
    """`QuantoConfig`, which transformers cannot save."""

    budget: str = "weights_8bit"
    kinds = "QLinear *QB*sTensor"
    operators = "*LinearFunction"

    def expected_gain_in(self) -> frozenset[Bottleneck]:
        return frozenset({Bottleneck.DECODE}) if self.bits == 4 else frozenset()

    def needs(self) -> tuple[Need, ...]:
        # 8 bits are not packed, and multiply by an operator of torch's.
        return (Package("optimum-quanto"), *((ExtensionBuild(),) if self.bits < 8 else ()))

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        from transformers import QuantoConfig

        return {"quantization_config": QuantoConfig(weights=f"int{self.bits}")}

    def definition(self) -> str:
        return f"quanto_int{self.bits}"

    def dense_weight(self, linear: Any) -> Any:
        from optimum.quanto import QLinear

        return linear.qweight.dequantize() if isinstance(linear, QLinear) else None


@dataclass(frozen=True)
class Hqq(QuantizedWeights):
    """`HqqConfig`. transformers 5.17 to 5.22 refuse it, while their loading of weights is rewritten."""

    name: str = "quantization.hqq4"
    bits: int = 4
    budget: str = "weights_4bit"
    kinds = "HQQLinear *"

    def needs(self) -> tuple[Need, ...]:
        return (Package("hqq"),)

    def refuses(self, line: str, case: RunContext) -> str:
        return "transformers cannot load hqq's weights" if "HQQ is not available yet" in line else ""

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        from transformers import HqqConfig

        return {"quantization_config": HqqConfig(nbits=self.bits, group_size=32)}

    def definition(self) -> str:
        return "hqq"

    def dense_weight(self, linear: Any) -> Any:
        return linear.dequantize() if hasattr(linear, "W_q") else None


@dataclass(frozen=True)
class FineGrainedFp8(QuantizedWeights):
    """`FineGrainedFP8Config`: each block of 128 x 128 weights shares a scale, and each run of 128 activations."""

    name: str = "quantization.fine_grained_fp8"
    bits: int = 8
    budget: str = "weights_float8"
    tolerance = Tolerance.DYNAMIC
    kinds = "FP8Linear Parameter"

    def needs(self) -> tuple[Need, ...]:
        return (Cuda(), Triton(), Kernels(), HubKernel("kernels-community/finegrained-fp8"))

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        return HALF_PRECISIONS

    def load_options(self, dtype: Dtype) -> Mapping[str, Any]:
        from transformers import FineGrainedFP8Config

        return {"quantization_config": FineGrainedFP8Config()}

    def prepare_model(self, model: Any) -> Any:
        from torch.cuda import get_device_capability

        if get_device_capability() < (8, 9):
            raise Incompatible("transformers gives the weights back their own format where the GPU is older than 8.9")
        return model

    def definition(self) -> str:
        return "fine_grained_fp8"

    def dense_weight(self, linear: Any) -> Any:
        if not hasattr(linear, "weight_scale_inv"):
            return None
        rows, columns = linear.block_size
        scales = linear.weight_scale_inv.double().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        return linear.weight.double() * scales[: linear.out_features, : linear.in_features]

    def exact_output(self, linear: Any, given: Any) -> Any:
        """Compute the output in float64, by transformers' documentation of FineGrainedFP8Config. Each run of 128
        activations is divided by its largest value over 448, the largest of float8_e4m3."""
        import torch
        from torch.nn.functional import pad

        if not hasattr(linear, "weight_scale_inv"):
            return None
        columns = linear.block_size[1]
        runs = pad(given.float(), (0, -given.shape[-1] % columns)).unflatten(-1, (-1, columns))
        scales = runs.abs().amax(-1, keepdim=True) / 448.0
        levels = (runs / scales).nan_to_num(0.0).to(torch.float8_e4m3fn)
        rounded = (levels.double() * scales.double()).flatten(-2)[..., : given.shape[-1]]
        exact = rounded @ self.dense_weight(linear).T
        return exact if linear.bias is None else exact + linear.bias.double()
