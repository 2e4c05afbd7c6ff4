"""The catalogue of faults: what is planted, into which case, and what the verdict must be.

A fault is a context manager without arguments, which changes the library under test, inside the worker that runs it,
for as long as it is open. Its docstring says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum

from harness.records.enums import HALF_PRECISIONS, Dtype, Outcome
from suites.meta.faults import (
    lies,
    of_attention,
    of_batches,
    of_caches,
    of_calls,
    of_eager,
    of_layers,
    of_quantizers,
    of_weights,
    ranks,
)

Plant = Callable[[], AbstractContextManager[None]]
LADDER = (Dtype.FP32, *HALF_PRECISIONS)


class Planted(StrEnum):
    """Into which runs."""

    CANDIDATE = "candidate"
    """Those of the path that is judged."""
    BASELINE = "baseline"
    """Those of eager and of the float64 reference, which it is judged by."""
    BOTH = "both"
    """All of them alike."""


@dataclass(frozen=True)
class Fault:
    """One fault on one path."""

    plant: Plant
    """A function of a module that workers can import."""
    path: str
    """Name of the path that is judged."""
    outcome: Outcome = Outcome.MISMATCH
    """Of the verdict on equivalence, if the fault is caught."""
    into: Planted = Planted.CANDIDATE
    model: str = "tiny_qwen3"
    workload: str = "ragged_b4"
    dtypes: tuple[Dtype, ...] = LADDER
    """Those in which it changes anything."""

    @property
    def name(self) -> str:
        return self.plant.__name__

    @property
    def id(self) -> str:
        return f"{self.name}[{self.path}]"

    @property
    def dotted(self) -> str:
        """As a request to a worker names it."""
        return f"{self.plant.__module__}:{self.plant.__name__}"

    @property
    def what(self) -> str:
        """What is wrong."""
        return (self.plant.__doc__ or "").strip()


SDPA, STATIC, COMPILED = "attention.sdpa", "caching.static", "compilation.static_cache"
WIDER = (Dtype.FP32, Dtype.FP16)
"""Where rounding to bfloat16 changes anything, and a factor of a thousandth is not rounded off."""
LIE = Outcome.NOT_ENGAGED
BROKEN = Outcome.BASELINE_UNTRUSTED

FIRST = (
    Fault(of_attention.attention_scale_2_percent, SDPA),
    Fault(of_attention.attention_scale_half_percent, SDPA),
    Fault(of_attention.attention_scale_tenth_percent, SDPA),
    Fault(of_attention.attention_scale_hundredth_percent, SDPA),
    Fault(of_attention.decode_mask_off_by_one, SDPA),
    Fault(of_attention.prefill_sees_one_ahead, SDPA),
    Fault(of_attention.padding_is_attended, SDPA),
    Fault(of_attention.window_one_too_long, SDPA, model="tiny_olmo3"),
    Fault(of_attention.window_one_too_short, SDPA, model="tiny_olmo3", workload="residues"),
    Fault(of_attention.decode_rope_offset, SDPA),
    Fault(of_attention.low_precision_frequencies, SDPA),
    Fault(of_attention.heads_are_mixed_up, SDPA),
    Fault(of_attention.attention_in_float16, SDPA, dtypes=(Dtype.FP32, Dtype.BF16)),
    Fault(of_attention.swapped_rows, SDPA),
    Fault(of_attention.noisy_attention, SDPA),
    Fault(lies.sdpa_is_eager, SDPA, LIE),
    Fault(lies.mask_is_dropped, SDPA, LIE),
    Fault(of_layers.norm_epsilon, SDPA),
    Fault(of_layers.dropped_channel, SDPA),
    Fault(of_layers.residual_in_bfloat16, SDPA, dtypes=WIDER),
    Fault(of_caches.zeroed_slot, SDPA),
    Fault(of_caches.swapped_slots, SDPA),
    Fault(of_caches.cache_in_bfloat16, SDPA, dtypes=WIDER),
    Fault(of_caches.layer_reads_its_neighbour, SDPA),
    Fault(of_caches.stale_static_write, STATIC),
    Fault(of_caches.static_window_is_one_late, STATIC, model="tiny_olmo3"),
    Fault(lies.static_cache_is_dynamic, STATIC, LIE),
    Fault(of_caches.wrong_scale_of_quantizer, "caching.quantized_quanto4"),
    Fault(of_caches.quantizer_keeps_nothing, "caching.quantized_quanto4"),
    Fault(lies.quantizer_rounds_nothing, "caching.quantized_quanto4", LIE),
    Fault(lies.backend_is_eager, COMPILED, LIE),
    Fault(lies.static_cache_does_not_compile, COMPILED, LIE),
    Fault(lies.compiles_in_every_step, COMPILED, LIE),
    Fault(of_layers.compiled_code_is_wrong, COMPILED, dtypes=WIDER),
    Fault(lies.kernel_is_never_called, "kernels.flash_attn2_local", LIE),
    Fault(of_attention.kernel_loses_the_first_value, "kernels.flash_attn2_local"),
    Fault(lies.kernelize_does_nothing, "kernels.layers_local", LIE),
    Fault(lies.one_layer_falls_back, "kernels.layers_local", LIE),
    Fault(of_layers.norm_kernel_is_fast, "kernels.layers_local"),
    Fault(of_layers.activation_kernel_is_rough, "kernels.layers_local"),
    Fault(lies.weights_stay_dense, "quantization.torchao_int8", LIE),
    Fault(of_weights.scale_of_one_row, "quantization.torchao_int8"),
    Fault(of_weights.one_wrong_level, "quantization.torchao_int4"),
    Fault(of_weights.scales_in_float16, "quantization.quanto_int8", dtypes=(Dtype.FP32, Dtype.BF16)),
    Fault(of_weights.swapped_block_scales, "quantization.quanto_int4"),
    Fault(of_weights.dropped_column, "quantization.quanto_int4"),
    Fault(of_weights.swapped_blocks, "quantization.bnb_nf4"),
    Fault(of_weights.wrong_code, "quantization.bnb_nf4"),
    Fault(of_weights.wrong_scale_of_llm_int8, "quantization.bnb_int8"),
    Fault(ranks.all_reduce_is_missing, "parallelism.tp2", LIE),
    Fault(ranks.all_reduce_is_wrong, "parallelism.tp2", dtypes=WIDER),
    Fault(ranks.shards_are_swapped, "parallelism.tp2"),
    Fault(ranks.vocabulary_is_gathered_backwards, "parallelism.tp2"),
    Fault(ranks.rank_computes_alone, "parallelism.tp2", LIE, dtypes=WIDER),
    Fault(of_batches.swapped_page_table_row, "continuous_batching.sdpa"),
    Fault(of_batches.requests_are_swapped, "continuous_batching.sdpa"),
    Fault(of_batches.end_of_sequence_is_ignored, "continuous_batching.sdpa"),
    Fault(of_batches.chunks_start_one_late, "continuous_batching.sdpa"),
    Fault(of_batches.log_probabilities_are_hot, "continuous_batching.sdpa"),
    Fault(lies.requests_run_one_by_one, "continuous_batching.sdpa", LIE),
    Fault(of_eager.noisy_eager, SDPA, BROKEN, Planted.BASELINE),
    Fault(of_eager.barely_unstable_eager, SDPA, BROKEN, Planted.BASELINE, dtypes=(Dtype.FP32,)),
    Fault(of_eager.wrong_eager, SDPA, BROKEN, Planted.BASELINE),
    Fault(of_eager.everything_is_blind, SDPA, BROKEN, Planted.BOTH),
    Fault(of_eager.half_precision_eager, SDPA, Outcome.ERROR, Planted.BASELINE, dtypes=(Dtype.FP32, Dtype.BF16)),
)
"""Those with whose help the rules and their limits were settled."""

LATER = (
    Fault(of_calls.mask_of_the_first_prompt, SDPA),
    Fault(of_calls.cache_is_never_freed, SDPA),
    Fault(of_calls.file_stays_open, SDPA),
    Fault(of_calls.stale_inputs_of_a_graph, COMPILED),
    Fault(of_caches.newest_entries_are_lost_in_packing, "caching.quantized_quanto4_repacked"),
    Fault(of_quantizers.wide_blocks_of_nf4, "quantization.bnb_nf4", into=Planted.BOTH),
    Fault(of_quantizers.wrong_level_of_nf4, "quantization.bnb_nf4", into=Planted.BOTH),
    Fault(of_quantizers.nested_scales_rounded_down, "quantization.bnb_nf4_double", into=Planted.BOTH),
    Fault(of_quantizers.wide_rows_of_llm_int8, "quantization.bnb_int8", into=Planted.BOTH),
    Fault(of_quantizers.torchao_rounds_down, "quantization.torchao_int8", into=Planted.BOTH),
    Fault(of_quantizers.torchao_rounds_down, "quantization.torchao_int4", into=Planted.BOTH),
    Fault(of_quantizers.float8_cuts_off, "quantization.torchao_float8", into=Planted.BOTH),
    Fault(of_quantizers.swapped_rows_of_quanto_int8, "quantization.quanto_int8", into=Planted.BOTH),
    Fault(of_quantizers.zero_point_of_quanto_is_one_off, "quantization.quanto_int4", into=Planted.BOTH),
    Fault(of_eager.eager_window_one_longer, SDPA, BROKEN, Planted.BASELINE, model="tiny_olmo3"),
    Fault(of_eager.eager_attends_padding, SDPA, BROKEN, Planted.BASELINE),
)
"""Those that nothing daily saw: of what a call leaves to the next, of a cache that packs what it gathered, of
quantizers, and of eager's attention. Those of quantizers reach every load of the weights, so that a dense model of them
agrees. All were written with what finds them, and are no part of the recorded results."""
