"""A whole model on the simulated device gives the CPU's tokens, and bitsandbytes the numbers of its CPU code."""

from pathlib import Path

import pytest

from suites.simulated_cuda.simulated import answer_of, skip_elsewhere

skip_elsewhere()

import torch  # noqa: E402

QWEN3 = Path(__file__).parents[2] / "fixtures" / "tiny" / "qwen3"


@pytest.mark.parametrize(("attention", "dtype"), [("eager", torch.float32), ("sdpa", torch.bfloat16)], ids=str)
def test_generate_gives_the_cpus_tokens(attention, dtype):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(QWEN3, dtype=dtype, attn_implementation=attention).eval()
    prompt = torch.arange(3, 35).view(2, 16)

    def tokens(device):
        return model.to(device).generate(prompt.to(device), max_new_tokens=8, do_sample=False).cpu()

    assert torch.equal(tokens("cpu"), tokens("cuda"))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("rows", [1, 5])
def test_bitsandbytes_four_bits(kind, rows):
    functional = pytest.importorskip("bitsandbytes.functional")
    bitsandbytes = pytest.importorskip("bitsandbytes")
    weight, inputs = torch.randn(64, 128, dtype=torch.bfloat16), torch.randn(rows, 128, dtype=torch.bfloat16)
    packed, state = functional.quantize_4bit(weight.cuda(), quant_type=kind)
    packed_here, state_here = functional.quantize_4bit(weight, quant_type=kind)
    assert torch.equal(packed.cpu(), packed_here)
    assert torch.equal(state.absmax.cpu(), state_here.absmax)
    restored = functional.dequantize_4bit(packed, state).cpu()
    assert torch.equal(restored, functional.dequantize_4bit(packed_here, state_here))
    with torch.no_grad():
        given = bitsandbytes.matmul_4bit(inputs.cuda(), packed.t(), quant_state=state).cpu()
    right = inputs.double() @ restored.double().t()
    assert (given.double() - right).abs().max() < 0.02 * right.abs().max()


def test_bitsandbytes_eight_bits():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False)
    weight, inputs = layer.weight.data.clone(), torch.randn(3, 64, dtype=torch.float16)
    with torch.no_grad():
        given = layer.cuda()(inputs.cuda()).cpu()
    right = inputs.double() @ weight.double().t()
    assert (given.double() - right).abs().max() < 0.05 * right.abs().max()


def test_bitsandbytes_is_served_after_somebody_only_asked_for_it():
    code = """
import importlib.util, json, torch
importlib.util.find_spec("bitsandbytes")
import bitsandbytes.functional as functional
packed, state = functional.quantize_4bit(torch.ones(64, 64, device="cuda"))
print(json.dumps(functional.dequantize_4bit(packed, state).sum().item()))
"""
    pytest.importorskip("bitsandbytes")
    assert answer_of(code) == 64 * 64
