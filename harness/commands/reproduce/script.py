"""Write a script that shows what a case compares with torch and transformers alone. Pure text; runs no model."""

from __future__ import annotations

import pprint
from collections.abc import Mapping
from dataclasses import dataclass
from string import Template
from typing import Any

from harness.errors import HarnessError
from harness.paths.base import Optimization
from harness.records.enums import Dtype, Technique
from harness.records.evidence import Case
from harness.records.workload import Folder, Hub, Seeded

APART = 1e-5
"""Relative difference of logits from which a script in float32 shows a failure."""
WIDTH = 110
"""Characters of a line of literals."""

HEAD = Template('''"""$title

$found
It needs $needs alone: $command
It exits with 1 if it shows the failure, and with 0 if this release is right.
"""

import sys
import tempfile

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

$model
PROMPTS = $prompts
NEW_TOKENS = $new_tokens
DTYPE = torch.$dtype


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
    return not worst < $apart


def cache_of(output):
    held = getattr(output, "cache", None) or getattr(output, "past_key_values", None)
    return type(held).__name__


print(f"transformers {transformers.__version__}, torch {torch.__version__}")
''')
"""Start of every script."""

SEEDED = Template('''MODEL_TYPE = $model_type
CONFIG = $config


def save(folder):
    """Write a model with random weights, norms and biases included: by default these would change nothing."""
    torch.manual_seed($seed)
    config = transformers.CONFIG_MAPPING[MODEL_TYPE].from_dict(CONFIG)
    model = AutoModelForCausalLM.from_config(config)
    noise = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        values = parameter.data
        if values.numel() > 1 and bool((values == values.flatten()[0]).all()):
            values += 0.1 * torch.randn(values.shape, generator=noise)
    model.save_pretrained(folder)
    return folder


FOLDER = save(tempfile.mkdtemp())''')

SETTINGS = Template("""
eager = generate(load(attn_implementation="eager"), PROMPTS)
other = generate(load($loading), PROMPTS$generating)
print(f"caches: {cache_of(eager)} of eager, {cache_of(other)} of the path")
$sys_exit
""")

UNCACHED = f"""
model = load(attn_implementation="eager")
cached = generate(model, PROMPTS)
ids, mask = batch(PROMPTS)
new = cached.sequences[:, ids.shape[1] :]
ids, mask = torch.cat([ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
positions = (mask.cumsum(-1) - 1).clamp(min=0)
with torch.no_grad():
    whole = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
right, found = whole[:, -NEW_TOKENS - 1 : -1], torch.stack(cached.logits, 1)
apart = float((right - found).norm() / right.norm())
print(f"eager with its cache, and eager over the whole at once: logits are {{apart:.2g}} apart")
sys.exit(not apart < {APART})
"""

REQUESTS = Template("""
from transformers.generation.configuration_utils import ContinuousBatchingConfig

alone = [generate(load(attn_implementation="eager"), [row]).sequences[0, len(row) :].tolist() for row in PROMPTS]
settings = ContinuousBatchingConfig(**$options)
greedy = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0)
model = load($loading)
answers = list(model.generate_batch(PROMPTS, generation_config=greedy, continuous_batching_config=settings).values())
for answer, right in zip(answers, alone):
    print(f"{answer.request_id}: {answer.error or answer.generated_tokens}, alone {right}")
sys.exit(any(answer.error or answer.generated_tokens != right for answer, right in zip(answers, alone)))
""")

RANKS = """
from transformers.distributed import DistributedConfig

model = load(distributed_config=DistributedConfig(tp_plan="auto"))
kept = sum((each.to_local() if hasattr(each, "to_local") else each).numel() for each in model.parameters())
whole = sum(each.numel() for each in model.parameters())
print(f"plan: {model.tp_plan}; this rank keeps {kept} of {whole} values")
eager = generate(load(attn_implementation="eager"), PROMPTS)
wrong = compare(eager, generate(model, PROMPTS))
sys.exit(wrong or kept == whole)
"""

PACKED = Template("""
from transformers import $kind

model = load(quantization_config=$kind.from_dict($options), device_map="cpu")


def is_packed(weight):
    # Libraries keep packed weights in classes of their own.
    return type(weight) is not torch.nn.Parameter or not weight.is_floating_point()


head = model.get_output_embeddings()
packed, dense = 0, {}
for name, module in model.named_modules():
    for own, weight in module.named_parameters(recurse=False):
        if module is head or isinstance(module, torch.nn.Embedding) or weight.ndim < 2:
            continue
        if is_packed(weight):
            packed += weight.numel()
        else:
            dense[f"{name}.{own}"] = weight.numel()
share = packed / max(1, packed + sum(dense.values()))
print(f"packed are {share:.0%} of the matrices' values; dense are {', '.join(list(dense)[:3]) or 'none'} ...")
generate(model, PROMPTS)
sys.exit(share < 0.8)
""")


@dataclass(frozen=True)
class Found:
    """Facts that a person knows of the failure already."""

    message: str = ""
    """Message of its verdict; empty if there is none."""
    baseline: bool = False
    """Whether eager is at fault, and not the path. The script then compares eager with its cache to eager without."""


def script_of(case: Case, optimization: Optimization, prompts: list[list[int]], found: Found, *, name: str) -> str:
    """Return the script for a case. `prompts` are its token ids without padding, and `name` is the file's.

    Raises HarnessError if the path is made of more than settings.
    """
    ranks = case.technique is Technique.PARALLELISM and not found.baseline
    quantizes = case.technique is Technique.QUANTIZATION
    head = HEAD.substitute(
        title=f"{case.path} with a model of type {case.recipe.architecture or case.recipe.name}.",
        found=found.message or f"The case is {case.id}.",
        needs=f"torch and transformers{' with the quantizing library' if quantizes else ''}",
        command=f"{'torchrun --nproc-per-node 2' if ranks else 'python'} {name}",
        model=_model(case),
        prompts=_literal(prompts),
        new_tokens=case.workload.new_tokens,
        apart=APART,
        dtype="float32" if ranks or quantizes or found.baseline else "float64",
    )
    return head + _body(case, optimization, found)


def _body(case: Case, optimization: Optimization, found: Found) -> str:
    if found.baseline:
        return UNCACHED
    if case.technique is Technique.PARALLELISM:
        return RANKS
    loading = dict(optimization.load_options(Dtype.FP32))
    if serving := optimization.serving():
        return REQUESTS.substitute(options=_literal(dict(serving.options)), loading=_arguments(loading))
    if case.technique is Technique.QUANTIZATION:
        config = loading["quantization_config"]
        return PACKED.substitute(kind=type(config).__name__, options=_literal(config.to_dict()))
    generating = _arguments(dict(optimization.generate_options()))
    wrong = "compare(eager, other)"
    if optimization.cache_classes:
        wrong += " or cache_of(eager) == cache_of(other)"
    return SETTINGS.substitute(
        loading=_arguments({"attn_implementation": "eager", **loading}),
        generating=f", {generating}" if generating else "",
        sys_exit=f"sys.exit({wrong})",
    )


def _model(case: Case) -> str:
    source = case.recipe.source
    if isinstance(source, Seeded):
        return SEEDED.substitute(
            model_type=repr(source.model_type), config=_literal(dict(source.shape)), seed=source.seed
        )
    if isinstance(source, Folder | Hub):
        return f"FOLDER = {(source.path if isinstance(source, Folder) else source.repository)!r}\n"
    raise HarnessError(f"{case.recipe.name}: cannot be written into a script")


def _arguments(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_literal(value)}" for name, value in options.items())


def _literal(value: Any) -> str:
    """Return Python's text of a plain value. Raises HarnessError for any other."""
    text = pprint.pformat(_plain(value), width=WIDTH, compact=True, sort_dicts=False)
    return text.replace(": inf", ": float('inf')").replace(" inf]", " float('inf')]")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, str):
        return str.__str__(value)  # and no member of an enumeration
    if value is None or isinstance(value, bool | int | float):
        return value
    raise HarnessError(f"{type(value).__name__} is no plain value, so that no script can hold it (show it by hand)")
