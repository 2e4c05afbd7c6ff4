"""What is read of a cache is what it holds, and the dense twin rounds when the scheme says so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import HQQQuantizedLayer, QuantoQuantizedLayer

from fixtures.models import MODELS
from harness.execution.loading import load_model
from harness.observation.caches import read_layers, read_state
from harness.paths.dense_cache import RoundedLayer
from harness.records.enums import Dtype
from harness.records.observation import CacheLayer

ROWS, HEADS, SIZE = 2, 2, 32


def feed(layer, lengths):
    """Updates with distinct positions; returns everything that was fed."""
    torch.manual_seed(0)
    fed = [torch.randn(ROWS, HEADS, length, SIZE) for length in lengths]
    for part in fed:
        layer.update(part, -part)
    return torch.cat(fed, dim=-2)


def read(layer, length):
    return read_state(SimpleNamespace(layers=[layer]), torch.ones(ROWS, length, dtype=torch.bool))


@pytest.fixture(scope="module")
def sliding_config():
    """Two layers with a window of 24, two without."""
    olmo = next(model for model in MODELS if model.name == "tiny_olmo3")
    return load_model(olmo, dtype=Dtype.FP32, device="cpu", options={}).config


@pytest.mark.parametrize("make", [DynamicCache, lambda config: StaticCache(config=config, max_cache_len=64)])
@pytest.mark.parametrize("lengths", [(10, 1, 1), (30, 1, 1), (23, 1), (24, 1)])
def test_last_positions_are_read_in_order(sliding_config, make, lengths):
    """Of a buffer its filled part, of a window what it keeps, oldest first."""
    cache = make(config=sliding_config)
    fed = [feed(layer, lengths) for layer in cache.layers]
    total = sum(lengths)
    state = read_state(cache, torch.ones(ROWS, total, dtype=torch.bool))
    assert state.lengths == (total,) * 4
    for keys, values, all_fed, described in zip(state.keys, state.values, fed, read_layers(cache), strict=True):
        kept = keys.shape[2]
        assert kept == described.kept
        assert kept == total or kept == {"Dynamic": 23, "Static": 24}[described.kind.partition("Sliding")[0]]
        assert torch.equal(keys, all_fed[:, :, -kept:])
        assert torch.equal(values, -all_fed[:, :, -kept:])


# The layers are made by the test: they need packages that collecting it does not.
@pytest.mark.workers
@pytest.mark.parametrize(
    ("kind", "axis", "bits"),
    [
        (QuantoQuantizedLayer, 0, 4),
        (QuantoQuantizedLayer, 0, 2),
        (HQQQuantizedLayer, 1, 8),
        (HQQQuantizedLayer, 1, 2),
    ],
)
def test_packed_positions_and_residual_are_told_apart(kind, axis, bits):
    layer = kind(nbits=bits, axis_key=axis, axis_value=axis, q_group_size=32, residual_length=8)
    fed = feed(layer, (40, 1, 1, 1))
    (described,) = read_layers(SimpleNamespace(layers=[layer]))
    assert described == CacheLayer(type(layer).__name__, "float32", "cpu", kept=43, packed=40, bits=bits)
    state = read(layer, 43)
    assert torch.equal(state.keys[0][:, :, 40:], fed[:, :, 40:])
    error = (state.keys[0][:, :, :40] - fed[:, :, :40]).norm() / fed[:, :, :40].norm()
    assert 0 < error < 3 / (2**bits - 1)


@pytest.mark.workers
def test_run_may_end_when_the_residual_was_just_packed():
    """Then nothing is kept as it is, and everything can still be read."""
    layer = QuantoQuantizedLayer(nbits=4, q_group_size=32, residual_length=8)
    feed(layer, (40,) + (1,) * 8)
    (described,) = read_layers(SimpleNamespace(layers=[layer]))
    assert (described.kept, described.packed) == (48, 48)
    assert read(layer, 48).keys[0].shape == (ROWS, HEADS, 48, SIZE)


def test_cache_without_keys_has_no_layers():
    assert read_layers(None) == []
    assert read_layers(SimpleNamespace(layers=[SimpleNamespace(conv_states={})])) == []


class Whole(SimpleNamespace):
    """A scheme that keeps whole numbers."""

    axis_key = axis_value = 0

    def _quantize(self, tensor, *, axis):
        del axis
        return tensor.round()

    def _dequantize(self, held):
        return held


def test_twin_rounds_the_prompt_and_then_whenever_the_residual_is_full():
    """An update returns what was held before it, and the new as it is; a full residual is rounded once it was used."""
    layer = RoundedLayer(Whole(residual_length=3))
    fed = [torch.full((1, 1, length, 1), value) for length, value in ((2, 0.3), (1, 1.3), (1, 2.3), (1, 3.3), (1, 4.3))]
    returned = [layer.update(part, part)[0].flatten().tolist() for part in fed]
    assert returned == [
        pytest.approx(expected)
        for expected in (
            [0.3, 0.3],
            [0, 0, 1.3],
            [0, 0, 1.3, 2.3],
            [0, 0, 1.3, 2.3, 3.3],
            [0, 0, 1, 2, 3, 4.3],
        )
    ]
    assert layer.get_seq_length() == 6
