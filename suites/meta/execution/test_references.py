"""References for models that do not fit in float64: as exact, or what is said of them, and what each sees."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fixtures.models import MODELS
from fixtures.workloads import PROBES, WORKLOADS
from harness.execution.correctness.comparison import identical
from harness.execution.correctness.nudging import nudged
from harness.execution.correctness.references.eager import make_reference, measure_eager
from harness.execution.correctness.runs import run_batches
from harness.execution.loading import load_run
from harness.execution.measuring import Sampling
from harness.execution.runner import Runner
from harness.execution.tensor_files import read_generation
from harness.judging.correctness import judge
from harness.judging.correctness_rules import trust_findings
from harness.judging.speed import Aims
from harness.machine.model_size import size_of_folder
from harness.paths.registry import PATHS
from harness.records.enums import Dtype, Outcome, Property, Reference
from harness.records.evidence import Case
from harness.records.workload import Folder
from suites.meta.builders.setups import RAGGED, setup_of

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = MODELS[0]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("tiny_qwen3", Dtype.FP32),
        ("tiny_qwen3", Dtype.BF16),
        # Half precision and the experts' products are slow on a CPU.
        pytest.param("tiny_qwen3", Dtype.FP16, marks=pytest.mark.workers),
        pytest.param("small_mixtral", Dtype.FP32, marks=pytest.mark.workers),
    ],
)
def test_nudged_run_errs_about_as_much_as_eager(tmp_path, name, dtype):
    """So that what it stands for keeps its meaning: measured here, 1.3 to 2.6 times as much."""
    exact, own = setup_of(name, tmp_path), setup_of(name, tmp_path, Reference.OWN)
    make_reference(exact, dtype)
    floor = make_reference(own, dtype)
    true = measure_eager(exact, dtype, PROBES).relative_error
    check = measure_eager(own, dtype, PROBES)
    assert 0.8 * true < check.relative_error < 4 * true
    findings = trust_findings(check, floor=floor, reference=Reference.OWN)
    assert [finding.key for finding in findings if finding.violated] == []


def test_nudged_run_repeats_itself(tmp_path):
    setup = setup_of("tiny_qwen3", tmp_path, Reference.OWN)
    make_reference(setup, Dtype.BF16)
    reference = read_generation(setup.reference_file(Dtype.BF16))
    model, batches = load_run(setup.eager(Dtype.BF16))
    runs = []
    for _ in range(2):
        with nudged(model, Dtype.BF16):
            runs.append(run_batches(model, batches, reference, options=dict)[1])
    _, plain = run_batches(model, batches, reference, options=dict)
    assert identical(*runs)
    assert not identical(runs[0], plain)
    assert identical(plain, reference)


def test_eager_that_caches_wrongly_is_no_reference_of_its_own(tmp_path):
    """Cached and uncached runs of one eager differ by more than rounding."""
    setup = replace(
        setup_of("tiny_qwen3", tmp_path, Reference.OWN), fault="suites.meta.faults.of_caches:layer_reads_its_neighbour"
    )
    floor = make_reference(setup, Dtype.FP32)
    check = measure_eager(setup, Dtype.FP32, PROBES)
    found = {finding.key for finding in trust_findings(check, floor=floor, reference=Reference.OWN) if finding.violated}
    assert "fp32.floor" in found


@pytest.fixture
def judged(tmp_path):
    """Verdict on a path, by a reference; on attention.sdpa of tiny Qwen 3 unless told."""

    def by(reference, *, dtype=Dtype.BF16, fault="", memory=0, model=TINY, path="attention.sdpa"):
        [optimization] = [each for each in PATHS if each.name == path]
        case = Case(path, optimization.technique, model, RAGGED, "cpu", dtype)
        with closing(Runner(probes=PROBES, logs=tmp_path, reference=reference, memory_bytes=memory)) as runner:
            planted = fault and f"suites.meta.faults.of_attention:{fault}"
            return judge(case, Property.EQUIVALENCE, runner.evidence(case, optimization, fault=planted))

    return by


@pytest.mark.workers
@pytest.mark.parametrize("reference", Reference)
@pytest.mark.parametrize("fault", ["attention_scale_2_percent", "decode_rope_offset", "padding_is_attended"])
def test_each_reference_shows_a_fault(judged, reference, fault):
    verdict = judged(reference, fault=fault)
    assert verdict.outcome is Outcome.MISMATCH, verdict.message
    assert ("; reference: " in verdict.message) is (reference is not Reference.FLOAT64)


@pytest.mark.workers
@pytest.mark.parametrize("reference", Reference)
def test_correct_path_passes_by_each_reference_and_the_verdict_names_it(judged, reference):
    verdict = judged(reference)
    assert verdict.outcome is Outcome.PASS, verdict.message
    words = {
        Reference.FLOAT64: "closest to its limit: ",
        Reference.BY_LAYER: "reference: float64, one layer at a time",
        Reference.FLOAT32: "reference: float32, ",
        Reference.OWN: "reference: eager in the same dtype, ",
    }
    assert verdict.message.startswith(words[reference])
    coarse = reference in {Reference.FLOAT32, Reference.OWN}
    assert ("bf16 only (not run in fp32: no reference that is more precise)" in verdict.message) is coarse


@pytest.mark.workers
def test_reference_that_cannot_judge_the_dtype_is_refused(judged):
    verdict = judged(Reference.FLOAT32, dtype=Dtype.FP32)
    assert verdict.outcome is Outcome.UNSUPPORTED
    assert "a reference in float32 judges no run in fp32 (give --reference own)" in verdict.message


@pytest.mark.workers
def test_memory_chooses_reference_and_dtypes(judged, monkeypatch):
    """With room for all, by layer without room for float32, and none for the model itself."""
    monkeypatch.setattr("harness.execution.runner.is_small", lambda _: False)
    size = size_of_folder(Path(TINY.source.path))
    monkeypatch.setattr("harness.machine.model_size.HEAD_BYTES", 0)
    for overhead in ("PROCESS_BYTES", "DEVICE_BYTES"):
        monkeypatch.setattr(f"harness.machine.model_size.{overhead}", 0)
    messages = [judged(None, memory=int(each * size.parameters)).message for each in (9, 4.5, 3.9, 2.1)]
    assert messages[0].startswith("closest")
    assert messages[1].startswith("reference: float64, one layer")
    assert "only" not in messages[1]
    assert "bf16 only (not run in fp32: no room)" in messages[2]
    assert "GiB for the model in bf16: there are 0.00206 (free memory, " in messages[3]


@pytest.fixture
def packed(tmp_path):
    """Folder of tiny Llama 3, as bitsandbytes saves it in 4 bits."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    source, folder = Path(MODELS[1].source.path), tmp_path / "packed"
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    options = {"dtype": torch.bfloat16, "device_map": "cpu", "quantization_config": nf4}
    AutoModelForCausalLM.from_pretrained(source, **options).save_pretrained(folder)
    for file in source.glob("tokenizer*"):
        shutil.copy(file, folder)
    return replace(MODELS[1], name="packed", source=Folder(str(folder)))


@pytest.mark.workers
def test_weights_that_are_quantized_already_are_judged_by_eager_itself(judged, packed):
    """And so is a fault; what would quantize them once more does not go with them."""
    right, wrong = judged(None, model=packed), judged(None, model=packed, fault="padding_is_attended")
    assert (right.outcome, wrong.outcome) == (Outcome.PASS, Outcome.MISMATCH), (right.message, wrong.message)
    assert all("reference: eager in the same dtype" in verdict.message for verdict in (right, wrong))
    again = judged(None, model=packed, path="quantization.quanto_int8")
    assert again.outcome is Outcome.UNSUPPORTED
    assert again.message.endswith(": bf16 run: its weights are quantized already")
    demanded = judged(Reference.FLOAT64, model=packed)
    assert demanded.outcome is Outcome.UNSUPPORTED
    assert "so that there is no exact reference of them" in demanded.message


@pytest.mark.workers
@pytest.mark.parametrize(
    ("path", "dtype"),
    [("quantization.quanto_int8", Dtype.BF16), ("continuous_batching.sdpa", Dtype.FP32), ("eager", Dtype.BF16)],
)
@pytest.mark.parametrize("reference", [Reference.BY_LAYER, Reference.OWN])
def test_other_kinds_of_paths_pass_by_each_reference(judged, reference, path, dtype):
    """Rounded weights, answers of a server, and what must equal eager bit for bit."""
    verdict = judged(reference, path=path, dtype=dtype)
    assert verdict.outcome is Outcome.PASS, verdict.message


@pytest.mark.workers
@pytest.mark.parametrize("reference", [Reference.BY_LAYER, Reference.OWN])
def test_case_is_timed_whatever_its_reference(tmp_path, reference):
    """Its tokens are held to those of eager as it ran, and not to those of a nudged run."""
    [workload] = [each for each in WORKLOADS if each.name == "decode_b1"]
    [path] = [each for each in PATHS if each.name == "attention.sdpa"]
    case = Case(path.name, path.technique, TINY, workload, "cpu", Dtype.BF16)
    with closing(Runner(probes=PROBES, logs=tmp_path, reference=reference)) as runner:
        runner.evidence(case, path)
        speed = runner.speed(case, path, Sampling(seconds=1.0, aims=Aims()))
    assert speed.pairs
    assert (speed.differing, speed.eager_differing) == (0, 0)


@pytest.mark.workers
def test_model_that_computes_below_float64_is_judged_by_itself_and_says_why(tmp_path):
    [path] = [each for each in PATHS if each.name == "attention.sdpa"]
    model = replace(TINY, name="mine", solves_recall=False)  # else it would be an error of this project
    case = Case(path.name, path.technique, model, RAGGED, "cpu", Dtype.FP32)
    fault = "suites.meta.faults.of_eager:half_precision_eager"
    with closing(Runner(probes=PROBES, logs=tmp_path, reference_fault=fault)) as runner:
        evidence = runner.evidence(case, path)
    assert evidence.reference is Reference.OWN
    assert "should compute nothing below float64" in evidence.why
    assert "is estimated (since mine: " in judge(case, Property.EQUIVALENCE, evidence).message
