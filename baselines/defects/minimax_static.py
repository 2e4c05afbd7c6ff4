"""caching.static with a model of type minimax.

Found as NOT_ENGAGED: cache in fp32 is MiniMaxCache, but should be StaticCache, and 1 more.
It needs torch and transformers alone: python minimax_static.py
It exits with 1 if it shows the failure, and with 0 if this release is right.
"""

import sys
import tempfile

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

MODEL_TYPE = 'minimax'
CONFIG = {'architectures': ['MiniMaxForCausalLM'],
 'attention_dropout': 0.0,
 'block_size': 32,
 'bos_token_id': 258,
 'eos_token_id': 257,
 'full_attn_alpha_factor': 1,
 'full_attn_beta_factor': 1,
 'head_dim': 32,
 'hidden_act': 'silu',
 'hidden_size': 128,
 'initializer_range': 0.1,
 'intermediate_size': 256,
 'layer_types': ['linear_attention', 'full_attention', 'linear_attention', 'full_attention'],
 'linear_attn_alpha_factor': 1,
 'linear_attn_beta_factor': 1,
 'max_position_embeddings': 2304,
 'mlp_alpha_factor': 1,
 'mlp_beta_factor': 1,
 'num_attention_heads': 4,
 'num_experts_per_tok': 2,
 'num_hidden_layers': 4,
 'num_key_value_heads': 2,
 'num_local_experts': 8,
 'output_router_logits': False,
 'pad_token_id': 256,
 'rms_norm_eps': 1e-05,
 'rope_parameters': {'rope_theta': 1000000.0, 'rope_type': 'default'},
 'router_aux_loss_coef': 0.001,
 'router_jitter_noise': 0.0,
 'sliding_window': None,
 'tie_word_embeddings': False,
 'use_cache': True,
 'vocab_size': 320}


def save(folder):
    """Write a model with random weights, norms and biases included: by default these would change nothing."""
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[MODEL_TYPE].from_dict(CONFIG)
    model = AutoModelForCausalLM.from_config(config)
    noise = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        values = parameter.data
        if values.numel() > 1 and bool((values == values.flatten()[0]).all()):
            values += 0.1 * torch.randn(values.shape, generator=noise)
    model.save_pretrained(folder)
    return folder


FOLDER = save(tempfile.mkdtemp())
PROMPTS = [[68, 145, 216, 205, 195, 16, 65, 30, 126, 194, 115, 120, 166, 97, 201, 53, 24, 124, 7, 228, 213, 99, 110,
  155, 251, 196, 0, 178, 114, 255, 184, 252, 58, 151, 26, 81, 237, 5, 6, 243, 138, 68, 145, 216, 205, 195, 16,
  65, 30, 126, 194, 115, 120, 166, 97, 201, 53, 24, 124, 7, 228, 213, 99, 110, 155, 251, 196, 0, 178, 114],
 [99, 108, 97, 115, 115, 32, 65, 99, 99, 111, 117, 110, 116, 58, 10, 32, 32, 32, 32, 34, 34, 34, 65, 32, 98,
  97, 108, 97, 110, 99, 101, 32, 116, 104, 97, 116, 32, 110, 101, 118, 101, 114, 32, 98, 101, 99, 111, 109,
  101, 115, 32, 110, 101, 103, 97, 116, 105, 118, 101, 46, 34, 34, 34, 10, 10, 32, 32, 32, 32, 100, 101, 102,
  32, 95, 95, 105, 110, 105, 116, 95, 95, 40, 115, 101, 108, 102, 44, 32, 111, 119, 110, 101, 114],
 [28, 24, 23, 156, 21, 126, 92, 70, 213, 41, 43, 22, 188, 59, 207, 179, 171, 201, 218, 16, 78, 12, 64, 220,
  155, 231, 54, 22, 243, 230, 9, 255, 148, 12, 174, 79, 40, 35, 110, 58, 218, 16, 28, 24, 54, 22, 92, 70, 92,
  70, 218, 16, 188],
 [34, 98, 97, 108, 97, 110, 99, 101, 32, 109, 117, 115, 116, 32, 110, 111, 116, 32, 98, 101, 32, 110, 101,
  103, 97, 116, 105, 118, 101, 34, 41]]
NEW_TOKENS = 8
DTYPE = torch.float64


def load(**options):
    if DTYPE is torch.float64:
        options["experts_implementation"] = "eager"  # the grouped product of experts knows no float64
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=DTYPE, **options).eval()
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    return model


def batch(prompts):
    """Ids and mask of rows that are padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    return ids, mask


@torch.no_grad()
def generate(model, prompts, **options):
    ids, mask = batch(prompts)
    return model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )


def compare(first, second):
    """Print how far two runs are apart while their tokens agree, and return whether that is more than rounding."""
    alike = torch.ones(len(PROMPTS), dtype=torch.bool)
    worst, length = 0.0, first.sequences.shape[1] - NEW_TOKENS
    for step, (one, other) in enumerate(zip(first.logits, second.logits)):
        if alike.any():
            worst = max(worst, float((one[alike] - other[alike]).norm() / one[alike].norm()))
        alike &= first.sequences[:, length + step] == second.sequences[:, length + step]
    print(f"largest relative difference of logits: {worst:.2g}; rows with other tokens: {int((~alike).sum())}")
    return not worst < 1e-5


def cache_of(output):
    held = getattr(output, "cache", None) or getattr(output, "past_key_values", None)
    return type(held).__name__


print(f"transformers {transformers.__version__}, torch {torch.__version__}")

eager = generate(load(attn_implementation="eager"), PROMPTS)
other = generate(load(attn_implementation='eager'), PROMPTS, cache_implementation='static', disable_compile=True)
print(f"caches: {cache_of(eager)} of eager, {cache_of(other)} of the path")
sys.exit(compare(eager, other) or cache_of(eager) == cache_of(other))
