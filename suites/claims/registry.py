"""All claims: a new one is one function and one entry."""

from __future__ import annotations

from suites.claims import sentences
from suites.claims.asking import ANYWHERE, Claim, Place
from suites.claims.examples import EXAMPLES
from suites.claims.places import DECODE, PREFILL, RAGGED, SMALL, TINY, WHOLE
from suites.claims.ticks import TICKED


def _places(path, workload, *, elsewhere=""):
    """On the tiny model on a CPU, and on a larger one, maybe by another path, elsewhere."""
    return {"cpu": Place(path, workload, TINY), ANYWHERE: Place(elsewhere or path, workload, SMALL)}


SENTENCES = (
    Claim(
        "sentence.compiles_by_itself",
        "a cache of fixed size makes generate compile by itself",
        sentences.compiles_by_itself,
        _places("caching.static", DECODE),
    ),
    Claim(
        "sentence.first_run_warms_up",
        "the first run warms up, and later ones use the faster compiled path",
        sentences.first_run_warms_up,
        _places("compilation.static_cache", DECODE),
    ),
    Claim(
        "sentence.outside_recompiles",
        "compiled outside generate, the model is compiled again in every step",
        sentences.outside_recompiles,
        _places("compilation.outside", DECODE),
    ),
    Claim(
        "sentence.attention_grows_linearly",
        "flash-type attention avoids large intermediate tensors",
        sentences.attention_grows_linearly,
        _places("attention.sdpa", PREFILL),
    ),
    Claim(
        "sentence.kernel_needs_no_package",
        "a kernel repository's flash attention needs no installed package",
        sentences.kernel_needs_no_package,
        _places("kernels.flash_attn2_local", DECODE, elsewhere="kernels.flash_attn2_hub"),
    ),
    Claim(
        "sentence.kernels_fuse",
        "kernels fuse operations",
        sentences.kernels_fuse,
        _places("kernels.layers_local", DECODE),
    ),
    Claim(
        "sentence.every_parameter_shrinks",
        "quantization shrinks every parameter (tried: every linear that a scheme converts)",
        sentences.every_parameter_shrinks,
        _places("quantization.quanto_int4", DECODE, elsewhere="quantization.bnb_nf4"),
    ),
    Claim(
        "sentence.cost_per_token_is_flat",
        "a cache reuses keys and values instead of computing them again for every token",
        sentences.cost_per_token_is_flat,
        _places("caching.dynamic", DECODE),
    ),
    Claim(
        "sentence.offloading_keeps_one_layer",
        "an offloaded cache leaves the current layer on the device",
        sentences.offloading_keeps_one_layer,
        _places("caching.offloaded", DECODE),
    ),
    Claim(
        "sentence.ranks_shard_and_cost_memory",
        "parallelism splits layers over devices, and takes more memory in all",
        sentences.ranks_shard_and_cost_memory,
        _places("parallelism.tp2", DECODE),
    ),
    Claim(
        "sentence.requests_beat_padding",
        "continuous batching keeps the device busy by scheduling requests and prefilling in chunks",
        sentences.requests_beat_padding,
        _places("continuous_batching.sdpa", RAGGED),
    ),
    Claim(
        "sentence.speed_may_cost_memory",
        "a pure speed optimization may use more memory",
        sentences.speed_may_cost_memory,
        _places("compilation.static_cache", DECODE),
    ),
    Claim(
        "sentence.stack_beats_its_best_part",
        "techniques stacked give the most",
        sentences.stack_beats_its_best_part,
        _places("stacks.sdpa+static_cache", WHOLE),
    ),
)

CLAIMS = (*TICKED, *SENTENCES, *EXAMPLES)
