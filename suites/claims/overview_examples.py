"""The overview's seven examples: each of its calls with its arguments, in our words, and another model.

`python -m suites.claims.overview_examples TECHNIQUE MODEL` runs one, and prints one line of JSON: what transformers
says there of deprecation. https://huggingface.co/docs/transformers/optimization_overview, as of transformers 5.22.
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

GOES = ("deprecat", "will be removed", "no longer")
"""What log lines of something that will go have in common."""
WARNINGS = (FutureWarning, DeprecationWarning, PendingDeprecationWarning)
OURS = (str(Path(transformers.__file__).parent), __file__)
"""Where such a warning is about the example: in the library, or in a line here that calls it."""
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


def deprecations(lines, warned):
    """What was said of something that will go, a line each: by the log of transformers, and by warnings."""
    said = [line for line in lines if any(word in line.lower() for word in GOES)]
    said += [str(w.message) for w in warned if issubclass(w.category, WARNINGS) and w.filename.startswith(OURS)]
    return list(dict.fromkeys(line.splitlines()[0] for line in said))


class _Noted(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


RUN = {
    example.__name__: example
    for example in (compilation, attention, kernels, quantization, caching, parallelism, continuous_batching)
}

if __name__ == "__main__":
    noted = _Noted()
    logging.getLogger("transformers").addHandler(noted)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        RUN[sys.argv[1]](sys.argv[2])
    print(json.dumps({"deprecated": deprecations(noted.lines, warned)}))
