"""Paths on the simulated device: each engages, and agrees with eager, or says why not."""

from __future__ import annotations

import pytest

from suites.simulated_cuda.sessions import judge, run
from suites.simulated_cuda.simulated import skip_elsewhere

skip_elsewhere()

RAGGED = (
    "eager",
    "attention.sdpa",
    "attention.sdpa_efficient",
    "attention.sdpa_cudnn",
    "caching.static",
    "caching.offloaded",
    "caching.offloaded_static",
    "compilation.static_cache",
    "kernels.flash_attn2_local",
    "quantization.bnb_nf4",
    "continuous_batching.sdpa_graphs",
    "stacks.sdpa+static_cache",
)
"""Paths that pass on padded rows. `python -m suites.simulated_cuda table` tries all that there are."""
SINGLE = ("attention.sdpa_flash", "caching.offloaded_static")
"""Paths that pass on one prompt of the model with sliding windows."""
REFUSED = {
    "attention.sdpa_flash": "this backend takes no mask on CUDA",
    "quantization.hqq4": "transformers cannot load hqq's weights",
}
"""Paths that libraries refuse on padded rows, and why."""


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    return judge(tmp_path_factory.mktemp("padded"), *RAGGED, *REFUSED)


def test_every_path_on_padded_rows_passes(padded):
    found = {path: outcomes for (path, _), outcomes in padded.outcomes.items() if path in RAGGED}
    assert found == {path: ["PASS", "PASS"] for path in RAGGED}, padded.text[-3000:]
    assert padded.code == 0


@pytest.mark.parametrize("path", REFUSED)
def test_what_a_library_refuses_is_unsupported(padded, path):
    assert padded.outcomes[path, "ragged_b4"] == ["UNSUPPORTED", "UNSUPPORTED"]
    assert REFUSED[path] in padded.messages[path]


def test_record_names_the_device_and_how_workers_start(padded):
    """torchao, which is installed here, reads a device's properties while it is imported."""
    assert padded.record["environment"]["accelerators"] == "Simulated CUDA device"
    assert padded.record["profile"] is None
    assert "itself, because that touches a device: " in padded.record["workers"]


@pytest.mark.slow
def test_layers_that_triton_computes_engage(tmp_path):
    """What they compute is not compared: they launch nothing here."""
    found = judge(tmp_path, "kernels.layers_local", workload="single", properties="engagement")
    assert found.outcomes == {("kernels.layers_local", "single"): ["PASS"]}, found.text[-3000:]


@pytest.mark.slow
def test_flex_attention_that_torch_cannot_compile_is_unsupported(tmp_path):
    found = judge(tmp_path, "attention.flex", variables={"SIMULATED_CUDA_TRITON": "1"})
    assert found.outcomes == {("attention.flex", "ragged_b4"): ["UNSUPPORTED"] * 2}, found.text[-3000:]
    assert "queries of a group into one block" in found.messages["attention.flex"]


def test_grouped_heads_without_a_mask_are_unsupported_where_the_kernel_refuses_them(tmp_path):
    found = judge(tmp_path, "attention.sdpa_efficient", workload="single")
    assert found.outcomes == {("attention.sdpa_efficient", "single"): ["UNSUPPORTED"] * 2}, found.text[-3000:]
    assert "grouped" in found.messages["attention.sdpa_efficient"]


@pytest.mark.slow
def test_paths_on_sliding_windows_pass(tmp_path):
    found = judge(tmp_path, *SINGLE, workload="single", model="tiny_olmo3")
    # A window within the prompt is a mask, which flash kernels do not take.
    expected = {path: ["UNSUPPORTED" if path == "attention.sdpa_flash" else "PASS"] * 2 for path in SINGLE}
    assert found.outcomes == {(path, "single"): both for path, both in expected.items()}, found.text[-3000:]
    assert "this backend takes no mask" in found.messages["attention.sdpa_flash"]


@pytest.mark.slow
def test_bytes_are_those_of_arithmetic(tmp_path):
    """Rules M1 and M2, by torch's own allocator."""
    chosen = "[cuda-fp32-tiny_llama3-caching.static-decode_b1]"  # and not decode_b16
    found = run(tmp_path, "suites/every_path", "--device", "cuda", "--dtype", "fp32", "-m", "memory", "-k", chosen)
    [verdict] = found.record["verdicts"]
    # Thresholds are for real cards: a simulated one may exceed them, never the bytes that arithmetic gives.
    assert verdict["outcome"] in {"PASS", "OVER_MEMORY"}, found.text[-3000:]
    assert not [word for word in ("[M1]", "[M2]") if word in verdict["message"]], verdict["message"]


def test_two_ranks_share_a_model(tmp_path):
    found = judge(tmp_path, "parallelism.tp2", variables={"SIMULATED_CUDA_DEVICES": "2"})
    assert found.outcomes == {("parallelism.tp2", "ragged_b4"): ["PASS", "PASS"]}, found.text[-3000:]


@pytest.mark.slow
def test_one_device_is_too_few_for_two_ranks(tmp_path):
    found = judge(tmp_path, "parallelism.tp2", variables={"SIMULATED_CUDA_DEVICES": "1"})
    assert found.outcomes == {("parallelism.tp2", "ragged_b4"): ["UNSUPPORTED"] * 2}
    assert "needs 2 cuda devices: there are 1" in found.messages["parallelism.tp2"]
