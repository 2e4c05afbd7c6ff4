"""Planning: which cases there are, what they need, and what is said when a need is unmet."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest

from fixtures.models import MODELS
from fixtures.workloads import PROBES, WORKLOADS
from harness.errors import HarnessError, UnknownName
from harness.machine import inventory as inventories
from harness.machine import requirements as all_needs
from harness.machine.inventory import Inventory
from harness.machine.local_kernels import LocalKernel
from harness.machine.requirements import (
    Compiler,
    Cuda,
    Device,
    Devices,
    ExtensionBuild,
    HubKernel,
    HubModel,
    Kernels,
    Release,
    Triton,
)
from harness.paths.registry import PAIRS, PATHS
from harness.plugin import PLAN, pytest_generate_tests
from harness.records.enums import CASE_PROPERTIES, Bottleneck, Dtype, Tier
from harness.records.workload import Folder, Hub, ModelSpec, Workload
from harness.session.plan import Catalogue, case_ids, find_case, find_model, plan
from suites.conftest import CATALOGUE
from suites.meta.builders.inventories import CPU, GPU, TOOLS

USUAL = [path for path in PATHS if path.concerns(MODELS[0])]
"""Paths that concern the tiny models, which have no experts."""


def planned(inventory, device):
    return plan(CATALOGUE, inventory, models=MODELS, device=device, dtypes=(Dtype.BF16,))


def daily(inventory, device):
    """What runs when nothing is asked for."""
    return [entry for entry in plan(CATALOGUE, inventory, models=MODELS, device=device) if not entry.slow]


def test_every_path_meets_every_model_and_workload_once():
    ids = [entry.case.id for entry in planned(CPU, "cpu")]
    assert len(set(ids)) == len(ids) == len(USUAL) * len(MODELS) * len(WORKLOADS)
    assert "cpu-bf16-tiny_qwen3-attention.sdpa-ragged_b4" in ids


def test_timed_workloads_are_planned_for_every_path():
    """On any device, so that what is not timed daily can be asked for."""
    timed = {workload.name for workload in WORKLOADS if workload.timed}
    assert timed == {"decode_b1", "prefill_b1", "decode_b16"}
    assert {workload.timed for workload in WORKLOADS} == {None, *Bottleneck}
    for entries in (planned(CPU, "cpu"), planned(GPU, "cuda")):
        found = {(entry.case.path, entry.case.workload.name) for entry in entries if entry.case.workload.timed}
        assert found == {(path.name, workload) for path in USUAL for workload in timed}


def test_cpu_times_daily_what_pays_there_on_one_model():
    """Elsewhere every path is timed on every model."""
    found = {(entry.case.recipe.name, entry.case.path, entry.case.workload.timed) for entry in daily(CPU, "cpu")}
    timed = {(model, path, load) for model, path, load in found if load}
    models = [model.name for model in MODELS if model.timed_daily]
    assert timed == {(model, path.name, load) for model in models for path in PATHS for load in path.expected_gain_in()}
    assert {load for *_, load in timed} == {Bottleneck.DECODE, Bottleneck.PREFILL}
    assert ("tiny_llama3", "caching.none", Bottleneck.DECODE) in timed
    assert ("tiny_llama3", "attention.sdpa", Bottleneck.PREFILL) in timed
    assert models == ["tiny_llama3"]
    everywhere = [entry for entry in planned(GPU, "cuda") if entry.case.workload.timed]
    assert not any(entry.slow for entry in everywhere)


def test_timed_workload_of_several_runs_is_refused():
    """One run has one time."""
    prompts = WORKLOADS[0].prompts
    with pytest.raises(ValueError, match="workload both is timed, but should then be one run"):
        Workload("both", prompts, 8, separate=True, timed=Bottleneck.DECODE)
    assert Workload("ragged", prompts, 8, timed=Bottleneck.DECODE).batches == (prompts,)


@pytest.mark.parametrize("asked", CASE_PROPERTIES)
def test_measured_properties_are_asked_of_timed_cases_alone(asked):
    """Engagement and equivalence of all. By the marker that the test of each property has."""
    test = getattr(import_module(f"suites.every_path.test_{asked}"), f"test_{asked}")
    given, entries = {}, planned(CPU, "cpu")
    config = SimpleNamespace(stash={PLAN: SimpleNamespace(own=entries, replan=None)})
    hooks = SimpleNamespace(pytest_harness_plan=lambda **_: None)
    definition = SimpleNamespace(iter_markers=lambda: test.pytestmark, ihook=hooks)
    generated = SimpleNamespace(
        fixturenames=("planned",), definition=definition, config=config, parametrize=given.__setitem__
    )
    pytest_generate_tests(generated)
    assert [parameter.id for parameter in given["planned"]] == [
        entry.case.id for entry in entries if entry.case.workload.timed or not asked.measured
    ]


def test_markers_come_from_technique_device_and_needs():
    marks = {entry.case.path: set(entry.markers) for entry in daily(GPU, "cuda")}
    assert marks["attention.sdpa"] == {"attention", "cuda"}
    assert marks["attention.flash_attention_2"] == {"attention", "cuda", "flash_attn"}
    assert marks["kernels.flash_attn2_local"] == {"kernels", "cuda"}
    assert marks["kernels.flash_attn2_hub"] == {"kernels", "cuda", "hub"}
    assert all(("slow" in entry.markers) is entry.slow for entry in planned(CPU, "cpu"))
    assert {mark for entry in planned(CPU, "cpu") for mark in entry.markers}.isdisjoint({"cuda"})


def test_daily_dtypes_are_the_recipes_on_the_cpu_and_bf16_elsewhere():
    """float32 everywhere on the CPU, bfloat16 on one model."""
    found = {(entry.case.recipe.name, entry.case.dtype) for entry in daily(CPU, "cpu")}
    assert found == {(model.name, model.cpu_dtype) for model in MODELS}
    assert {entry.case.dtype for entry in daily(GPU, "cuda")} == {Dtype.BF16}


def test_other_half_precisions_are_slow_unless_asked_for():
    every = plan(CATALOGUE, CPU, models=MODELS[:1], device="cpu")
    assert {entry.case.dtype for entry in every if not entry.slow} == {Dtype.BF16}
    assert {entry.case.dtype for entry in every} == {Dtype.BF16, Dtype.FP16}
    asked = plan(CATALOGUE, CPU, models=MODELS[:1], device="cpu", dtypes=(Dtype.FP16,))
    assert {entry.case.dtype for entry in asked if not entry.slow} == {Dtype.FP16}


def test_slow_paths_are_slow_on_the_cpu_alone():
    slow = {entry.case.path for entry in planned(CPU, "cpu") if entry.slow and not entry.case.workload.slow}
    assert {"compilation.outside", "compilation.static_cache", "caching.quantized_hqq8"} <= slow
    assert not {entry for entry in planned(GPU, "cuda") if entry.slow and not entry.case.workload.slow}


def test_what_exists_on_cuda_alone_names_its_need_elsewhere():
    unmet = {entry.case.path: entry.unmet for entry in planned(CPU, "cpu") if "cuda" in (entry.unmet or "")}
    assert set(unmet.values()) == {"needs cuda: torch is built without CUDA"}
    assert set(unmet) == {
        *(f"attention.{name}" for name in ("sdpa_efficient", "sdpa_cudnn", *(f"flash_attention_{n}" for n in "234"))),
        *("kernels.flash_attn2_hub", "kernels.layers_hub"),
        *("quantization.fine_grained_fp8", "continuous_batching.flash_attention_2", "continuous_batching.sdpa_graphs"),
        "stacks.flash_attention_2+offloaded+layers_local+bnb_nf4",
        *(pair.name for pair in PAIRS if pair.parts[0].name in {f"attention.flash_attention_{n}" for n in "23"}),
    }
    assert Cuda().unmet(GPU, device="cpu") == "needs cuda: this case runs on cpu"
    everything = {entry.case.path: entry.unmet for entry in planned(CPU, "cpu")}
    assert everything["caching.offloaded"] == "needs an accelerator: this case runs on cpu"


def test_missing_package_is_named():
    unmet = {entry.case.path: entry.unmet for entry in planned(GPU, "cuda")}
    assert unmet["attention.flash_attention_3"] == "needs flash-attn-3: it is not installed"
    assert unmet["caching.quantized_hqq4"] == "needs hqq: it is not installed"
    there = replace(GPU, packages={**GPU.packages, "hqq": "1"})
    assert {entry.case.path: entry.unmet for entry in planned(there, "cuda")}["caching.quantized_hqq4"] is None


def test_dtype_that_the_kernels_refuse_is_a_named_need():
    """And a half precision that they take has the finer of the two beside it."""
    entries = plan(CATALOGUE, GPU, models=MODELS, device="cuda", dtypes=(Dtype.FP32, Dtype.BF16))
    found = {(entry.case.path, entry.case.dtype): entry for entry in entries}
    path = "attention.sdpa_cudnn"
    assert found[path, Dtype.FP32].unmet == "needs fp16 or bf16: its kernels do not take fp32"
    half = found[path, Dtype.BF16]
    assert half.optimization.rungs(half.case) == (Dtype.FP16, Dtype.BF16)
    plain = found["attention.sdpa", Dtype.BF16]
    assert plain.optimization.rungs(plain.case) == (Dtype.FP32, Dtype.FP16, Dtype.BF16)
    assert plain.optimization.rungs(found["attention.sdpa", Dtype.FP32].case) == (Dtype.FP32,)
    (there, *_) = plan(CATALOGUE, CPU, models=MODELS, device="cpu", dtypes=(Dtype.BF16,))
    assert there.optimization.rungs(there.case) == (Dtype.FP32, Dtype.BF16)


def test_several_devices_are_needed_but_on_the_cpu():
    """Where processes stand for them."""
    two = {entry.case.path: entry for entry in planned(replace(GPU, devices={"cuda": 1, "cpu": 1}), "cuda")}
    assert two["parallelism.tp2"].unmet == "needs 2 cuda devices: there are 1"
    assert "multi_gpu" in two["parallelism.tp2"].markers
    assert Devices(2).unmet(replace(GPU, devices={"cuda": 2, "cpu": 1}), device="cuda") is None
    assert Devices(2).unmet(CPU, device="cpu") is None


def test_older_release_is_unmet_with_what_it_does():
    older = replace(CPU, packages={**CPU.packages, "transformers": "5.17.0"})
    found = {entry.case.path: entry.unmet for entry in planned(older, "cpu")}
    told = "needs transformers 5.22: 5.17.0 breaks the graph at hooks of parallel modules"
    assert found["stacks.static_cache+tp2"] == told
    assert (
        Release("transformers", "5.22", "fails").unmet(
            replace(older, packages={"transformers": "5.22.2"}), device="cpu"
        )
        is None
    )


def test_declared_incompatibility_is_unmet_with_its_reason():
    unmet = {
        entry.case.path: entry.unmet
        for entry in planned(replace(CPU, packages={**CPU.packages, "bitsandbytes": "1"}), "cpu")
    }
    assert unmet["stacks.static_cache+bnb_nf4"].startswith("incompatible: transformers compiles nothing of a model of")
    assert unmet["stacks.sdpa+static"] is None


def test_kernels_of_four_bits_take_bfloat16_alone_on_a_cpu_that_multiplies_it(monkeypatch):
    path = next(path for path in PATHS if path.name == "quantization.bnb_nf4")
    for flags, taken in ((frozenset({"avx512_bf16"}), (Dtype.BF16,)), (frozenset({"avx2"}), tuple(Dtype)[1:])):
        monkeypatch.setattr("harness.paths.quantization.cpu_flags", lambda flags=flags: flags)
        assert path.dtypes("cpu") == taken
    assert path.dtypes("cuda") == tuple(Dtype)[1:]


def test_hub_is_not_asked_for_what_cannot_run_anyway(monkeypatch):
    """Planning a CPU session reaches no network."""

    def ask():
        raise AssertionError

    monkeypatch.setattr(all_needs, "_hub_problem", ask)
    assert planned(CPU, "cpu")


def test_unreachable_kernel_is_named(monkeypatch):
    monkeypatch.setattr(all_needs, "_hub_problem", lambda: "the hub is out of reach (timed out)")
    reason = HubKernel("owner/kernel").unmet(CPU, device="cuda")
    assert reason == "needs owner/kernel: the hub is out of reach (timed out)"


def test_models_on_request_are_found_by_name():
    assert tuple(find_model(model.name, CATALOGUE) for model in CATALOGUE.all_models) == CATALOGUE.all_models
    hub = find_model("qwen3_0_6b", CATALOGUE)
    (entry, *_) = plan(CATALOGUE, CPU, models=(hub,), device="cpu")
    assert "hub" in entry.markers


def test_default_device_is_the_accelerator():
    assert (GPU.default_device, CPU.default_device) == ("cuda", "cpu")


def test_doubled_name_is_refused():
    with pytest.raises(ValueError, match="eager stands twice in the catalogue"):
        Catalogue((*PATHS, PATHS[0]), MODELS, WORKLOADS, PROBES)


def test_two_models_of_one_name_are_refused(tmp_path):
    """Otherwise the second would be given the first one's verdicts."""
    for parent in ("a", "b"):
        (tmp_path / parent / "m").mkdir(parents=True)
        (tmp_path / parent / "m" / "config.json").touch()
    models = tuple(find_model(str(tmp_path / parent / "m"), CATALOGUE) for parent in "ab")
    with pytest.raises(
        HarnessError, match=r"2 models are named m: .*/a/m.*/b/m.* \(run them apart, or rename a folder\)"
    ):
        plan(CATALOGUE, CPU, models=models, device="cpu", dtypes=(Dtype.FP32,))
    assert plan(CATALOGUE, CPU, models=(models[0], models[0]), device="cpu", dtypes=(Dtype.FP32,))


def test_missing_device_is_named():
    assert {entry.unmet for entry in planned(CPU, "cuda")} == {"needs cuda: torch is built without CUDA"}
    assert Device().unmet(CPU, device="mps") == "needs mps: torch finds no such device"


def without(*tools):
    return replace(GPU, tools={name: path for name, path in TOOLS.items() if name not in tools})


def test_compiling_needs_a_cpp_compiler_on_the_cpu_and_what_triton_wants_elsewhere():
    """Triton 3.7 compiles what launches its kernels in C; on other devices it launches nothing."""
    assert Compiler().unmet(CPU, device="cpu") is None
    assert Compiler().unmet(GPU, device="cuda") is None
    assert Compiler().unmet(GPU, device="cpu").startswith("needs a C++ compiler: ")
    why = "needs a C compiler for Triton: neither $CC nor gcc nor clang is on the PATH"
    for device in ("cuda", "xpu"):
        assert Compiler().unmet(without("C compiler"), device=device) == why
        assert Triton().unmet(without("C compiler", "Python.h"), device=device) == why
    why = "needs Python.h for Triton: this Python's header files are not installed"
    assert Compiler().unmet(without("Python.h"), device="cuda") == why
    assert Triton().unmet(without("C compiler"), device="cpu") is None


def test_every_path_that_launches_triton_on_a_gpu_says_what_it_needs():
    """These are paths that torch compiles there, and kernels that are written in Triton."""
    there = replace(without("C compiler"), packages={**GPU.packages, "kernels": "0.17.2"})
    unmet = {entry.case.path: entry.unmet for entry in planned(there, "cuda")}
    kept_out = {path for path, why in unmet.items() if why and why.startswith("needs a C compiler for Triton: ")}
    assert {"attention.flex", "compilation.outside", "continuous_batching.sdpa_compiled"} <= kept_out
    assert {"kernels.layers_local", "kernels.layers_hub", "quantization.fine_grained_fp8"} <= kept_out
    assert not {"eager", "attention.sdpa", "kernels.flash_attn2_local"} & kept_out


def test_quanto_needs_what_its_extension_is_built_with_where_it_packs():
    """The C++ compiler builds it for the CPU, nvcc for NVIDIA's devices, hipcc for AMD's. 8 bits are not packed."""
    there = {**GPU.packages, "optimum-quanto": "0.2.7"}
    unmet = {entry.case.path: entry.unmet for entry in planned(replace(without("nvcc"), packages=there), "cuda")}
    expected = "needs nvcc for optimum-quanto's extension: not found"
    packing = {"quantization.quanto_int4", "caching.quantized_quanto2", "caching.quantized_quanto4"}
    assert {path for path, why in unmet.items() if why == expected} >= packing
    assert unmet["quantization.quanto_int8"] is None
    need = ExtensionBuild()
    both = "needs ninja and C++ compiler for optimum-quanto's extension: not found"
    assert need.unmet(without("ninja", "C++ compiler", "nvcc"), device="cpu") == both
    assert need.unmet(without("nvcc"), device="cpu") is None
    assert need.unmet(GPU, device="cuda") is None
    amd = replace(GPU, rocm="7.0")
    assert need.unmet(amd, device="cuda") == "needs hipcc for optimum-quanto's extension: not found"
    assert need.unmet(replace(amd, tools={}), device="xpu") is None


def test_tools_are_looked_for_where_torch_and_triton_look(monkeypatch, tmp_path):
    for tool in ("mycc", "nvcc"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / tool).touch(mode=0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("CC", str(tmp_path / "bin" / "mycc"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(inventories.sysconfig, "get_path", lambda *_: str(tmp_path))
    found = {name: find() for name, find in inventories.TOOLS.items()}
    assert (found["C compiler"], found["nvcc"]) == (str(tmp_path / "bin" / "mycc"), str(tmp_path / "bin" / "nvcc"))
    assert not any(found[name] for name in ("Python.h", "C++ compiler", "ninja"))
    (tmp_path / "Python.h").touch()
    assert inventories.TOOLS["Python.h"]() == str(tmp_path / "Python.h")


def test_device_without_float64_is_one_named_need():
    """No reference could be computed there."""
    apple = Inventory({"mps": 1, "cpu": 1}, "torch is built without CUDA", CPU.packages, "")
    why = "needs float64 on mps: the reference is computed in it, and torch has none there"
    assert {entry.unmet for entry in planned(apple, "mps")} == {why}


def test_caches_are_offloaded_from_any_accelerator():
    """transformers does it with a stream of torch's own, on whatever device."""
    intel = Inventory({"xpu": 1, "cpu": 1}, "torch is built without CUDA", CPU.packages, "", tools=TOOLS)
    unmet = {entry.case.path: entry.unmet for entry in planned(intel, "xpu")}
    assert unmet["caching.offloaded"] is unmet["caching.offloaded_static"] is None
    assert unmet["attention.sdpa_cudnn"] == "needs cuda: torch is built without CUDA"


def test_pinned_flash_takes_half_precision_on_every_accelerator():
    flash = next(path for path in PATHS if path.name == "attention.sdpa_flash")
    assert flash.dtypes("xpu") == flash.dtypes("cuda") == (Dtype.FP16, Dtype.BF16)
    assert Dtype.FP32 in flash.dtypes("cpu")


def test_torch_for_amd_says_what_it_is_built_for():
    versions = {"cuda": None, "hip": "7.0"}, {"cuda": "13.0", "hip": None}, {"cuda": None, "hip": None}
    reasons = [inventories._why_no_cuda("2.13", SimpleNamespace(**each)) for each in versions]  # noqa: SLF001 - reads no machine
    assert reasons == [
        "torch 2.13 is built for ROCm 7.0, but finds no usable device or driver",
        "torch 2.13 is built for CUDA 13.0, but finds no usable device or driver",
        "torch 2.13 is built without CUDA",
    ]


@pytest.mark.parametrize(
    ("installed", "reason"),
    [
        ({"kernels": "0.17.2"}, None),
        ({"kernels": "0.18.2"}, "needs kernels <0.18,>=0.17.2 for transformers 5.22.2: kernels 0.18.2 is installed"),
        ({}, "needs kernels <0.18,>=0.17.2 for transformers 5.22.2: kernels is not installed"),
    ],
)
def test_kernels_are_gated_on_the_version_window(monkeypatch, installed, reason):
    """A kernels package outside of what transformers accepts imports well and is ignored by transformers."""
    monkeypatch.setattr(all_needs, "window", lambda *_: "<0.18,>=0.17.2")
    machine = Inventory({"cpu": 1}, "", {"transformers": "5.22.2", **installed}, "")
    assert Kernels().unmet(machine, device="cpu") == reason


def test_window_is_read_from_the_installed_transformers():
    assert "0." in inventories.window("transformers", "kernels")
    assert inventories.window("transformers", "no-such-package") == ""


def test_unreachable_model_is_named(monkeypatch):
    monkeypatch.setattr(all_needs, "_hub_problem", lambda: "the hub is out of reach (timed out)")
    reason = HubModel("owner/model", "main").unmet(CPU, device="cpu")
    assert reason == "needs owner/model@main: not downloaded yet, and the hub is out of reach (timed out)"


def test_offline_hub_is_not_asked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert all_needs._hub_problem.__wrapped__() == "HF_HUB_OFFLINE is set"  # noqa: SLF001 - past its cache


@pytest.mark.parametrize(
    ("announced", "reason"),
    [
        ("", "needs a local folder for owner/kernel: LOCAL_KERNELS does not name one"),
        ("owner/kernel=/nowhere", "LOCAL_KERNELS names /nowhere, which holds no build/"),
    ],
)
def test_local_kernel_must_be_announced_and_there(monkeypatch, announced, reason):
    monkeypatch.setenv("LOCAL_KERNELS", announced)
    assert reason in LocalKernel("owner/kernel").unmet(CPU, device="cpu")


def test_local_kernel_is_found(monkeypatch, tmp_path):
    (tmp_path / "build").mkdir()
    monkeypatch.setenv("LOCAL_KERNELS", f"other/kernel=/x:owner/kernel={tmp_path}")
    assert LocalKernel("owner/kernel").unmet(CPU, device="cpu") is None


def test_model_is_found_by_name_folder_or_hub_id(tmp_path):
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").touch()
    assert find_model("tiny_qwen3", CATALOGUE) is MODELS[0]
    folder = find_model(str(tmp_path / "my-model"), CATALOGUE)
    assert (folder.name, folder.source) == ("my_model", Folder(str(tmp_path / "my-model")))
    hub = find_model("owner/some-model@v1", CATALOGUE)
    assert (hub.name, hub.source) == ("owner..some_model..v1", Hub("owner/some-model", "v1"))


@pytest.mark.parametrize("asked", ["nosuch", "/no/such/folder", "./no/folder", "a/b/c", "owner/", "/name", "owner/@v1"])
def test_unknown_model_lists_what_there_is(asked):
    with pytest.raises(UnknownName, match=r"is unknown, but should be one of: .*tiny_qwen3"):
        find_model(asked, CATALOGUE)


def test_unsupported_version_is_refused(monkeypatch):
    """The project's own metadata says what is too old; a wrong torch is one line, not a failing suite."""
    monkeypatch.setattr(inventories, "installed", lambda name: "2.1.0" if name == "torch" else "99")
    monkeypatch.setattr(inventories.metadata, "requires", lambda _: ["torch>=2.9", 'hqq; extra == "quantization"'])
    with pytest.raises(HarnessError, match=r"torch is 2\.1\.0, but should be >=2.9"):
        inventories.take_inventory.__wrapped__()


def test_missing_package_is_refused(monkeypatch):
    monkeypatch.setattr(inventories, "installed", lambda name: "" if name in {"torch", inventories.PROJECT} else "99")
    with pytest.raises(HarnessError, match="torch is not installed"):
        inventories.take_inventory.__wrapped__()


@pytest.mark.parametrize(
    ("config", "concerned"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, True),
        ({"model_type": "vision", "text_config": {"n_routed_experts": 64}}, True),
        ({"model_type": "gemma4_text", "num_experts": None, "top_k_experts": None}, False),
        ({"model_type": "qwen3"}, False),
        (None, False),
    ],
)
def test_experts_are_planned_for_a_folder_whose_config_names_some(tmp_path, config, concerned):
    """A model of the hub that is not here yet may have some: eager tells."""
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = ModelSpec("made_up", Folder(str(tmp_path)))
    planned = {entry.case.path for entry in plan(CATALOGUE, CPU, models=(recipe,), device="cpu")}
    wanted = {f"kernels.experts_{name}" for name in ("eager", "batched_mm", "grouped_mm")}
    assert planned & wanted == (wanted if concerned else set())
    assert {
        entry.tier
        for entry in plan(CATALOGUE, CPU, models=(recipe,), device="cpu")
        if entry.case.path == "kernels.experts_grouped_mm"
    } == ({Tier.DAILY, Tier.NIGHTLY, Tier.SLOW} if concerned else set())


def test_case_of_experts_on_a_dense_model_is_unknown():
    """It is neither a case that baselines may hold, nor one that somebody can name."""
    case = "cpu-fp32-tiny_qwen3-kernels.experts_grouped_mm-ragged_b4"
    assert case not in case_ids(CATALOGUE, "cpu")
    told = (
        r"is unknown: kernels.experts_grouped_mm has nothing to exchange in tiny_qwen3 \(its config names no experts\)"
    )
    with pytest.raises(HarnessError, match=told):
        find_case(case, CATALOGUE)
    with pytest.raises(HarnessError, match=r"should be the id of a case .* \(did you mean cpu-fp32-small"):
        find_case(case.replace("tiny_qwen3", "small_mixtrall"), CATALOGUE)
    case = case.replace("tiny_qwen3", "small_mixtral")
    assert case in case_ids(CATALOGUE, "cpu")
    assert find_case(case, CATALOGUE)[0].id == case
