"""The script that `harness reproduce` writes: it shows what is wrong, and nothing where all is right."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from fixtures.architectures import ARCHITECTURES
from harness.commands.reproduce.command import _quoted, refuse_attention, refuse_more_than_settings
from harness.commands.reproduce.script import APART, Found, script_of
from harness.errors import HarnessError
from harness.judging.correctness import judge
from harness.records.enums import Dtype, Outcome, Property
from harness.records.evidence import ExactTrial, Operators, StratumError
from harness.session.plan import find_case
from suites.conftest import CATALOGUE, REPOSITORY
from suites.meta.builders.commands import harness
from suites.meta.builders.evidence import CASE, FLOOR, GOOD, NATIVE, TRUST, evidence
from suites.meta.builders.recorded_runs import SDPA, Checkout, verdict

PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5]]


def script(case, **found):
    return script_of(*find_case(case, CATALOGUE), PROMPTS, Found(**found), name="shown.py")


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("attention.sdpa", "load(attn_implementation='sdpa')"),
        ("caching.static", "cache_implementation='static'"),
        ("caching.none", "use_cache=False"),
        ("continuous_batching.sdpa", "generate_batch("),
        ("parallelism.tp2", 'tp_plan="auto"'),
        ("quantization.quanto_int8", "QuantoConfig.from_dict("),
    ],
)
def test_script_holds_config_seed_prompts_and_settings(path, part):
    """All of it is Python, and nothing of it is this project's."""
    text = script(f"cpu-fp32-small_mamba2-{path}-ragged_b4", message="Found as MISMATCH: it is.")
    compile(text, "shown.py", "exec")
    assert part in text
    assert "Found as MISMATCH: it is." in text
    assert "MODEL_TYPE = 'mamba2'" in text
    assert "float('inf')" in text  # its limit of time steps
    assert "[[5, 6, 7], [9, 8, 7, 6, 5]]" in text
    assert "harness" not in text
    assert ("torchrun --nproc-per-node 2 shown.py" in text) is (path == "parallelism.tp2")


def test_eager_that_disagrees_with_itself_is_shown_without_the_path():
    text = script("cpu-fp32-small_zamba2-attention.sdpa-ragged_b4", baseline=True)
    compile(text, "shown.py", "exec")
    assert "eager with its cache, and eager over the whole at once" in text
    assert f"sys.exit(not apart < {APART})" in text
    assert "sdpa'" not in text


def test_folder_stands_in_the_script_by_its_name():
    assert "tiny/llama3'" in script("cpu-fp32-tiny_llama3-caching.static-ragged_b4")


def test_setting_that_is_no_plain_value_is_refused():
    case, path = find_case("cpu-fp32-small_qwen2-compilation.static_cache-ragged_b4", CATALOGUE)
    with pytest.raises(HarnessError, match="CompileConfig is no plain value"):
        script_of(case, path, PROMPTS, Found(), name="shown.py")


def test_message_is_quoted_without_what_only_the_run_can_tell():
    """Neither its log nor its evidence file goes to a maintainer."""
    step = "its evidence file has the errors of every phase and row"
    said = f"{SDPA.id}: rows diverge ({step}); a known defect of transformers (x)"
    known = replace(verdict(SDPA, Outcome.KNOWN_FAILURE), forgiven=Outcome.MISMATCH, message=said)
    assert _quoted(known) == "Found as MISMATCH: rows diverge."
    assert _quoted(None) == ""


LAYER = StratumError("attention of layer 0 in decode", 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)
WRONG = Operators((replace(LAYER, candidate_rms=1e5),))


def of_eager(attention=WRONG, *, floor=FLOOR, **changes):
    """The verdict on an eager whose attention is wrong, and whose reference, with and without a cache, differs so."""
    trust = replace(TRUST, attention=attention, **changes)
    return judge(CASE, Property.EQUIVALENCE, evidence(*GOOD, trusts=(trust, NATIVE), floor=floor))


@pytest.mark.parametrize(
    "wrong",
    [
        of_eager(),
        of_eager(replace(WRONG, exact=(ExactTrial("values", 9, 3),))),
        of_eager(Operators(())),
        of_eager(repeats=False),
        of_eager(floor=0.9 * APART),
        of_eager(floor=math.nan),
    ],
    ids=["errors", "values", "nothing compared", "unrepeatable too", "almost nothing apart", "nan"],
)
def test_attention_that_is_wrong_with_and_without_a_cache_is_refused(wrong):
    """Its script would compare two runs that are wrong alike, and exit with 0."""
    assert wrong.outcome is Outcome.BASELINE_UNTRUSTED
    with pytest.raises(HarnessError, match=r"no script can show that yet \(.*docs/correctness.md, Eager's attention"):
        refuse_attention(wrong)


def test_script_is_written_where_a_cache_makes_the_difference():
    """As where attention is wrong in decode alone, or where it is not attention that is wrong."""
    refuse_attention(of_eager(floor=1.1 * APART))
    refuse_attention(of_eager(None, repeats=False))
    refuse_attention(verdict(SDPA, Outcome.MISMATCH))


@pytest.mark.parametrize("outcome", [Outcome.BASELINE_UNTRUSTED, Outcome.KNOWN_FAILURE])
def test_command_refuses_a_verdict_on_eagers_attention_in_a_line(tmp_path, monkeypatch, capsys, outcome):
    """And writes no script. Of a failure that is known, the outcome that was forgiven counts."""
    forgiven = Outcome.BASELINE_UNTRUSTED if outcome is Outcome.KNOWN_FAILURE else None
    told = replace(verdict(SDPA, outcome), numbers=of_eager().numbers, forgiven=forgiven)
    run = Checkout(tmp_path).run(verdicts=[told])
    code, _, said = harness(monkeypatch, capsys, "reproduce", SDPA.id, "--run", run, "--output", tmp_path / "x.py")
    assert code == 2
    assert f"{SDPA.id}: eager's attention is wrong with and without a cache, and no script can show that" in said
    assert not (tmp_path / "x.py").exists()


@pytest.mark.parametrize("function", ["eager", "batched_mm", "grouped_mm"])
def test_functions_of_experts_are_refused(function):
    """Scripts compute in float64, which a grouped product does not know, and would compare the loop with itself."""
    case = f"cpu-fp32-small_mixtral-kernels.experts_{function}-ragged_b4"
    with pytest.raises(HarnessError, match=rf"{case}: .* is made of more than settings \(show it by hand\)"):
        refuse_more_than_settings(*find_case(case, CATALOGUE))


@pytest.mark.workers
def test_stack_is_refused_in_a_line(tmp_path, monkeypatch, capsys):
    case = "cpu-fp32-tiny_qwen3-stacks.sdpa+static-ragged_b4"
    code, _, told = harness(monkeypatch, capsys, "reproduce", case, "--output", tmp_path / "x.py")
    assert code == 2
    assert "is made of more than settings (show it by hand)" in told
    assert not (tmp_path / "x.py").exists()


@pytest.mark.workers
@pytest.mark.parametrize(
    ("case", "shows"),
    [
        ("cpu-fp32-small_gpt_neo-caching.static-ragged_b4", (1, "StaticCache of the path")),
        ("cpu-fp32-small_qwen2-caching.static-ragged_b4", (0, "rows with other tokens: 0")),
        ("cpu-fp32-small_mixtral-quantization.quanto_int8-ragged_b4", (1, "packed are 6% of the matrices' values")),
    ],
)
def test_script_exits_with_1_where_something_is_wrong(tmp_path, monkeypatch, capsys, case, shows):
    """With the checkout out of reach."""
    path = tmp_path / "shown.py"
    assert harness(monkeypatch, capsys, "reproduce", case, "--output", path)[0] == 0
    shown = subprocess.run([sys.executable, "-I", str(path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    code, said = shows
    assert (shown.returncode, said in shown.stdout) == (code, True), shown.stdout + shown.stderr


def test_every_architecture_can_be_written():
    """Whatever its config holds."""
    for recipe in ARCHITECTURES:
        text = script(f"cpu-{Dtype.FP32}-{recipe.name}-attention.sdpa-ragged_b4")
        compile(text, recipe.name, "exec")
    assert (REPOSITORY / "baselines" / "defects").is_dir()
