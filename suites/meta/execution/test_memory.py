"""Memory: what is weighed is what is held, weighing repeats, and each rule has a case in which it fails."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from fixtures.models import MODELS, MORE_MODELS
from fixtures.workloads import text
from harness.errors import HarnessError, Incompatible, WorkerRaised
from harness.execution.loading import save_seeded
from harness.execution.measuring import memory_of
from harness.execution.memory import gauges, weighing
from harness.execution.memory.gauges import gauge_of, nbytes, storages, storages_alive
from harness.execution.memory.weighing import weigh
from harness.execution.setup import CaseRun, CaseSetup
from harness.execution.worker import Worker
from harness.judging.memory import MIB, findings
from harness.paths.registry import PATHS
from harness.records.enums import Dtype
from harness.records.measurements import MemoryComparison, MemoryUsage
from harness.records.workload import Folder, Workload

pytestmark = pytest.mark.workers

PROMPT, NEW, ROWS = 128, 8, 2
LENGTH = PROMPT + NEW - 1
HEAD = 264 * 128
"""Elements of the tiny models' output embeddings."""


@pytest.fixture(scope="module")
def weighed_anew(tmp_path_factory):
    """What a path holds, weighed in a fresh worker with a fault planted."""
    folder = tmp_path_factory.mktemp("weighed")

    def make(model, path, dtype=Dtype.FP32, fault="", *, rows=ROWS):
        recipe = model if not isinstance(model, str) else next(each for each in MODELS if each.name == model)
        planted = fault and f"suites.meta.faults.of_memory:{fault}"
        setup = CaseSetup(recipe, Workload("weighed", (text(PROMPT),) * rows, NEW), "cpu", folder, fault=planted)
        with Worker(log=folder / "log") as worker:
            return worker.call(weigh, CaseRun(setup, dtype, path_named(path)), seconds=120)

    return make


@pytest.fixture(scope="module")
def weighed(weighed_anew):
    """The same, once for all tests."""
    return cache(weighed_anew)


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """The seeded model of 40 million parameters, as a folder."""
    recipe = next(each for each in MORE_MODELS if each.name == "mini")
    folder = tmp_path_factory.mktemp("mini")
    with Worker(log=folder / "log") as worker:
        worker.call(save_seeded, recipe, folder / "model", seconds=120)
    return replace(recipe, source=Folder(str(folder / "model")))


def path_named(name):
    return next(each for each in PATHS if each.name == name)


def violated(memory, *, ratio_limit=1.0, device="cpu"):
    return [str(finding) for finding in findings(memory, ratio_limit=ratio_limit, device=device) if finding.violated]


@pytest.mark.parametrize("path", ["caching.static", "attention.sdpa"])
@pytest.mark.parametrize(
    ("model", "heads_by_size", "positions"),
    [("tiny_llama3", 2 * 32, 4 * LENGTH), ("tiny_olmo3", 2 * 32, 2 * LENGTH + 2 * 24)],
)
def test_cache_takes_exactly_what_the_formula_says(weighed, path, model, heads_by_size, positions):
    """A cache of fixed size, and one that grows; of the second model's layers two see 24 positions."""
    held = weighed(model, path)
    assert held.kv == held.kv_expected == 2 * 4 * ROWS * heads_by_size * positions


def test_cache_that_is_too_long_is_found(weighed):
    held = weighed("tiny_llama3", "caching.static", fault="buffer_too_long")
    memory = memory_of(held, replace(held, kv=held.kv_expected), path_named("caching.static"))
    assert violated(memory) == [
        "MiB of keys and values beyond the formula's 0.5273 is 0.003906, but should be at most 0 [M2]"
    ]


def test_path_without_a_cache_must_hold_none(weighed):
    held = weighed("tiny_llama3", "caching.none")
    assert held.kv == held.kv_expected == 0


def test_quantized_cache_takes_less_than_the_formula(weighed):
    held, path = weighed("tiny_llama3", "caching.quantized_quanto4"), path_named("caching.quantized_quanto4")
    assert 0 < held.kv < held.kv_expected / 4
    assert violated(memory_of(held, held, path)) == []


@pytest.mark.parametrize("beyond", [0, MIB])
def test_quantized_cache_that_saves_nothing_is_found(beyond):
    """Such as one that keeps all as it was given."""
    whole = replace(HELD, kv=HELD.kv_expected + beyond)
    told = "MiB by which packed keys and values are less than the formula's 10 is 0, but should be at least 9.537e-07"
    assert violated(memory_of(whole, HELD, path_named("caching.quantized_quanto4"))) == [f"{told} [M2]"]
    less = replace(HELD, kv=HELD.kv_expected - 1)
    assert violated(memory_of(less, HELD, path_named("caching.quantized_quanto4"))) == []


@pytest.mark.parametrize(
    ("model", "fault"),
    [*((each.name, "weight_kept_twice") for each in MODELS), ("tiny_llama3", "weight_kept_in_a_closure")],
)
def test_weight_that_is_kept_twice_is_found(weighed, model, fault):
    """Also where no attribute of the model leads to it."""
    eager, copied = weighed(model, "attention.sdpa"), weighed(model, "attention.sdpa", fault=fault)
    assert copied.weights - eager.weights == HEAD * 4
    told = f"MiB of weights beyond eager's {eager.weights / MIB:.4g} is 0.1289, but should be at most 0 [M1]"
    assert violated(memory_of(copied, eager, path_named("attention.sdpa"))) == [told]


def test_cache_of_a_run_is_gone_before_the_next(monkeypatch):
    """Else the peak of the runs after the first would hold two of them. That of the last is what is counted."""
    given, alive = [], []

    def run(*_):
        alive.append(sum(cache() is not None for cache in given))
        layer = SimpleNamespace(keys=torch.ones(5), values=torch.ones(5))
        given.append(weakref.ref(layer.keys.untyped_storage()))
        return SimpleNamespace(layers=[layer])

    monkeypatch.setattr(weighing, "_generate", run)
    gauge = SimpleNamespace(restart=lambda: None, now=gc.collect)
    held, kept = weighing.weigh_runs(gauge, *[None] * 3)
    assert (alive, len(held), nbytes(kept)) == ([0] * weighing.RUNS, weighing.RUNS, 2 * 5 * 4)


def test_weight_that_is_missing_is_found(weighed):
    eager, tied = weighed("tiny_llama3", "attention.sdpa"), weighed("tiny_llama3", "attention.sdpa", fault="head_tied")
    assert violated(memory_of(tied, eager, path_named("attention.sdpa"))) == [
        "MiB of weights short of eager's 4.012 is 0.1289, but should be at most 0 [M1]"
    ]


LINEARS, ROWS_OF_LINEARS, COUNT = 983_040, 6_144, 28
"""Of tiny_llama3: weights that are packed, their rows, and the layers that keep them."""
DENSE = 2 * HEAD + 9 * 128
"""And what stays: embeddings, head and norms; beside 128 bytes of frequencies."""


@pytest.mark.parametrize(
    ("path", "dtype", "packed"),
    [
        # A scale per block of 64 and a table of 16 levels per layer, both of 4 bytes.
        ("quantization.bnb_nf4", Dtype.BF16, LINEARS // 2 + LINEARS // 64 * 4 + COUNT * 16 * 4),
        # A scale of 4 bytes and a zero point of one per row.
        ("quantization.torchao_int8", Dtype.FP32, LINEARS + ROWS_OF_LINEARS * 5),
        # Scale and shift per group of 128, and two scales per layer, all of 4 bytes.
        ("quantization.quanto_int4", Dtype.FP32, LINEARS // 2 + LINEARS // 128 * 8 + COUNT * 8),
    ],
)
def test_packed_weights_are_counted_by_what_they_hold(weighed, path, dtype, packed):
    """Their wrappers claim the size of the dense weight, or have no storage at all."""
    itemsize = getattr(torch, dtype.torch_name).itemsize
    assert weighed("tiny_llama3", path, dtype).weights == packed + DENSE * itemsize + 128


def test_peaks_repeat_and_hold_weights_that_are_mapped_from_the_checkpoint(weighed_anew, mini):
    """Those of the checkpoint's dtype are mapped: rows of the embedding that no prompt asks for count all the same."""
    for dtype in (Dtype.FP32, Dtype.BF16):
        one, other = (weighed_anew(mini, "attention.sdpa", dtype, rows=1) for _ in range(2))
        assert abs(one.peak / other.peak - 1) < 0.01
        assert violated(memory_of(one, other, path_named("attention.sdpa"))) == []


@pytest.mark.parametrize(("fault", "rules"), [("leak", ["M4"]), ("spike", ["M4"]), ("leak_of_every_run", ["M4", "M5"])])
def test_memory_that_a_run_takes_or_keeps_is_found(weighed, mini, fault, rules):
    """64 MiB, of a peak of 158: once and for good, for a moment, or bit by bit."""
    eager, leaking = weighed(mini, "attention.sdpa", rows=1), weighed(mini, "attention.sdpa", fault=fault, rows=1)
    found = violated(memory_of(leaking, eager, path_named("attention.sdpa")))
    assert [told[-3:-1] for told in found] == rules


def test_memory_of_ranks_and_of_requests_is_refused(weighed):
    """By name, before anything is loaded."""
    for path, what in (("parallelism.tp2", "several processes"), ("continuous_batching.sdpa", "continuous batching")):
        with pytest.raises(WorkerRaised, match=f"memory of {what} is not measured yet") as raised:
            weighed("tiny_llama3", path)
        assert raised.value.incompatible


HELD = MemoryUsage(
    weights=100 * MIB, kv=10 * MIB, kv_expected=10 * MIB, logits=MIB, resident=101 * MIB, peak=200 * MIB, growth=0
)
PEAK = "peak in MiB, which holds weights, keys, values and logits,"
MEMORY = MemoryComparison(HELD, HELD, kv_exact=True, own_weights=True)


def with_candidate(**changes):
    return replace(MEMORY, candidate=replace(HELD, **changes))


@pytest.mark.parametrize(
    ("memory", "device", "told"),
    [
        (
            with_candidate(weights=100 * MIB + 4),
            "cpu",
            "MiB of weights beyond eager's 100 is 3.815e-06, but should be at most 0 [M1]",
        ),
        (
            with_candidate(kv=9 * MIB),
            "cpu",
            "MiB of keys and values short of the formula's 10 is 1, but should be at most 0 [M2]",
        ),
        (
            with_candidate(peak=110 * MIB),
            "cpu",
            f"{PEAK} is 110, but should be at least 111 [M3]",
        ),
        (
            replace(MEMORY, eager=replace(HELD, weights=100 * MIB, kv=200 * MIB)),
            "cpu",
            f"eager's {PEAK} is 200, but should be at least 301 [M3]",
        ),
        (
            with_candidate(peak=223 * MIB),
            "cpu",
            "peak in MiB, beside 200 of eager, is 223, but should be at most 222 [M4]",
        ),
        (
            with_candidate(peak=205 * MIB),
            "cuda",
            "peak in MiB, beside 200 of eager, is 205, but should be at most 204 [M4]",
        ),
        (
            with_candidate(growth=17 * MIB),
            "cpu",
            "what equal runs leave behind in MiB is 17, but should be at most 16 [M5]",
        ),
        (
            with_candidate(growth=3 * MIB),
            "cuda",
            "what equal runs leave behind in MiB is 3, but should be at most 2 [M5]",
        ),
    ],
)
def test_each_rule_fails(memory, device, told):
    assert violated(memory, device=device) == [told]


def test_what_a_path_does_not_promise_is_not_asked():
    """Rounded weights, a packed cache, and no limit of the ratio."""
    other = replace(with_candidate(weights=30 * MIB, kv=3 * MIB, peak=999 * MIB), kv_exact=False, own_weights=False)
    assert violated(other, ratio_limit=None) == []
    assert violated(MEMORY) == violated(with_candidate(growth=-5 * MIB)) == []


def test_cache_that_lies_elsewhere_is_no_part_of_the_peak():
    """An offloaded cache is beside the device's memory."""
    assert replace(HELD, kv_elsewhere=HELD.kv).least == HELD.weights + HELD.logits


@pytest.mark.parametrize(
    ("place", "name", "told"),
    [
        (
            "CLEAR_REFS",
            "missing/clear_refs",
            r"clear_refs cannot be written \(No such file or directory\), so the peak",
        ),
        (
            "STATUS",
            "missing/status",
            r"status cannot be read \(No such file or directory\): memory on the CPU needs Li",
        ),
        ("STATUS", "status", "status has no VmHWM: memory on the CPU needs a Linux kernel that tells it"),
    ],
)
def test_machine_without_a_resettable_peak_is_named(monkeypatch, tmp_path, place, name, told):
    (tmp_path / "status").write_text("Name: python\n")
    monkeypatch.setattr(gauges, "CLEAR_REFS", tmp_path / "written")
    monkeypatch.setattr(gauges, place, tmp_path / name)
    with pytest.raises(HarnessError, match=told):
        gauge_of("cpu")


def test_device_without_a_gauge_is_named():
    with pytest.raises(Incompatible, match="memory of mps cannot be measured: torch counts peaks of cpu, cuda, xpu al"):
        gauge_of("mps")


def test_storages_count_once():
    """Views, ties and tensors without data add nothing; what is alive nowhere but in a closure is seen."""
    before = storages_alive()
    whole = torch.ones(1000)
    assert nbytes(storages([whole, whole[3:7], torch.empty(9, device="meta")])) == 4000
    assert nbytes({key: each for key, each in storages_alive().items() if key not in before}) == 4000
