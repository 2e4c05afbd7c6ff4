"""The blind set of what users report.

Its author knew the scenarios, the paths, the models and the interface of a fault. The rules, the relations and all
other faults were out of the author's sight.
"""

from __future__ import annotations

from suites.meta.faults.blind_reports import calls, decoding, features, quantizers, requests, turns
from suites.meta.faults.catalogue import COMPILED, SDPA, STATIC, Fault, Planted
from suites.meta.faults.reports_set import BATCHED, REPACKED

BLIND_REPORTS = (
    Fault(calls.frequencies_stay_stretched, SDPA, model="small_dynamic_rope"),
    Fault(calls.masks_kept_by_shape, STATIC),
    Fault(calls.equal_batches_keep_their_mask, BATCHED, model="tiny_llama3"),
    Fault(calls.last_padding_attended, SDPA),
    Fault(calls.compiled_steps_count_padding, COMPILED, model="tiny_llama3"),
    Fault(features.steps_without_sinks, "caching.dynamic", model="small_sinks"),
    Fault(features.steps_with_usual_scale, SDPA, model="small_own_scale"),
    Fault(features.steps_with_short_factors, SDPA, model="small_long_rope"),
    Fault(quantizers.block_scales_rounded_down, "quantization.bnb_nf4_double", into=Planted.BOTH),
    Fault(quantizers.row_scale_forgets_the_sign, "quantization.bnb_int8", into=Planted.BOTH),
    Fault(quantizers.codes_cut_off, "quantization.torchao_int8", into=Planted.BOTH),
    Fault(quantizers.one_step_too_many, "quantization.quanto_int4", into=Planted.BOTH),
    Fault(quantizers.found_zero_not_stored, "quantization.hqq4", into=Planted.BOTH),
    Fault(turns.chunks_begin_a_place_early, SDPA, relation="turns"),
    Fault(turns.full_window_drops_its_newest, STATIC, model="tiny_olmo3", relation="turns"),
    Fault(turns.crop_takes_oldest_values, SDPA, relation="crops"),
    Fault(turns.reset_leaves_a_place_taken, STATIC, relation="resets"),
    Fault(turns.newest_value_packed_as_the_one_before, REPACKED, relation="quantized_turns"),
    Fault(decoding.temperature_comes_last, SDPA, relation="sampling"),
    Fault(decoding.newest_token_not_penalized, SDPA, relation="processors"),
    Fault(decoding.ended_rows_filled_with_end, SDPA, relation="ends"),
    Fault(decoding.length_penalty_counts_prompt, SDPA, relation="beams"),
    Fault(decoding.stop_strings_of_an_earlier_call, SDPA, relation="stop_strings"),
    Fault(requests.freed_pages_keep_their_hash, BATCHED, relation="evicted"),
    Fault(requests.sliding_pages_shared, BATCHED, model="tiny_olmo3", relation="shared_prefixes"),
    Fault(requests.temperature_of_another_request, BATCHED, relation="own_settings"),
    Fault(requests.streamed_parts_grow_later, BATCHED, relation="streamed"),
    Fault(requests.forks_share_unfinished_page, BATCHED, relation="forked"),
)
"""28 of them. One cannot run: transformers 5.22.2 refuses to load with HQQ (NotImplementedError)."""
