"""The overview's seven examples: each of its calls with its arguments, in our words, and another model.

`python -m suites.claims.overview_examples TECHNIQUE MODEL [REVISION]` runs one, and prints one line of JSON: what is
said there of deprecation. https://huggingface.co/docs/transformers/optimization_overview, as of transformers 5.22.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

LEAVING = ("deprecat", "will be removed", "no longer")
"""What is said of something that will go has one of these in it."""
CATEGORIES = (FutureWarning, DeprecationWarning, PendingDeprecationWarning)
"""Whatever they say, they say it of something that will go."""
PLACES = (str(Path(transformers.__file__).parent), __file__)
"""Whose warnings count: the library's, and those that it lays at the door of what calls it."""
ASKED = ("A law on bread says that a baguette", "In one sentence, what is gravity?", "Which city is France's capital?")


def compilation(name):
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float16, device_map="auto")
    prompt = tokenizer(ASKED[0], return_tensors="pt").to(model.device)
    answer = model.generate(**prompt, do_sample=False, max_new_tokens=20, cache_implementation="static")
    tokenizer.batch_decode(answer, skip_special_tokens=True)


def attention(name):
    AutoModelForCausalLM.from_pretrained(name, attn_implementation="flash_attention_2")


def kernels(name):
    AutoModelForCausalLM.from_pretrained(name, attn_implementation="kernels-community/flash-attn2")


def quantization(name):
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    AutoModelForCausalLM.from_pretrained(name, quantization_config=config)


def caching(name):
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="kernels-community/flash-attn2")
    prompt = tokenizer(ASKED[0], return_tensors="pt")
    model.generate(**prompt, do_sample=False, max_new_tokens=50, cache_implementation="offloaded")


def parallelism(name):
    from transformers import DistributedConfig

    model = AutoModelForCausalLM.from_pretrained(name, distributed_config=DistributedConfig(tp_size=4))
    print(model._tp_plan, file=sys.stderr)  # noqa: SLF001  what the overview prints


def continuous_batching(name):
    from transformers.generation import ContinuousBatchingConfig, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(
        name, attn_implementation="paged|sdpa", device_map="auto", torch_dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(name)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    answers = model.generate_batch(
        inputs=[tokenizer.encode(prompt) for prompt in ASKED],
        generation_config=GenerationConfig(max_new_tokens=32, do_sample=False, **ends),
        continuous_batching_config=ContinuousBatchingConfig(max_batch_tokens=512),
    )
    if len(answers) != len(ASKED) or any(not answer.generated_tokens for answer in answers.values()):
        raise RuntimeError(f"{len(answers)} of {len(ASKED)} requests were answered")
    for answer in answers.values():
        tokenizer.decode(answer.generated_tokens, skip_special_tokens=True)


class _Noted(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def deprecated(lines, warned):
    """What log lines and warnings say of deprecation, each in one line and once."""
    ours = [warning for warning in warned if warning.filename.startswith(PLACES)]
    said = [*lines, *(str(warning.message) for warning in ours if not issubclass(warning.category, CATEGORIES))]
    told = [line for line in said if any(word in line.lower() for word in LEAVING)]
    told += [str(warning.message) for warning in ours if issubclass(warning.category, CATEGORIES)]
    return list(dict.fromkeys(line.strip().splitlines()[0] for line in told))


def found(name, revision=""):
    """A folder with the revision of a model of the hub, so that the example's calls stay as they are."""
    if not revision:
        return name
    from huggingface_hub import snapshot_download

    return snapshot_download(name, revision=revision)


RUN = {
    example.__name__: example
    for example in (compilation, attention, kernels, quantization, caching, parallelism, continuous_batching)
}

if __name__ == "__main__":
    model, noted = found(*sys.argv[2:]), _Noted()
    logging.getLogger("transformers").addHandler(noted)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        RUN[sys.argv[1]](model)
    print(json.dumps({"deprecated": deprecated(noted.lines, warned)}))
