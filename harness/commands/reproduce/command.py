"""`harness reproduce`: write a script that shows a failure without this project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import AsJson, print_result
from harness.commands.reproduce.script import APART, Found, script_of
from harness.errors import HarnessError
from harness.judging.correctness import finding_of
from harness.paths.base import Optimization
from harness.records.codec import write_text
from harness.records.enums import Dtype, Outcome, Technique, Tolerance
from harness.records.evidence import Case
from harness.records.finding import violated_keys
from harness.records.run import Verdict
from harness.records.run_files import any_run
from harness.records.workload import Folder, Seeded
from harness.session.checkout import find_catalogue
from harness.session.plan import find_case, with_models


def reproduce(
    case: Annotated[str, typer.Argument(metavar="CASE", help="id of the case, as a report shows it in brackets")],
    *,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="folder of the run whose verdict the script quotes")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="NAME", help="model of the case, if it is one of your own")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="file to write")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a script that shows a failure with torch and transformers alone.

    Give it to the maintainers of the library. It holds the model's config and seed, or the name of its folder, the
    prompts as token ids, and the two settings. It prints how far they are apart, and exits with 1 if that is more than
    rounding.

    What a compiler, a kernel or a stack of paths does is made of more than settings, and is refused. So is attention of
    eager that is as wrong without a cache as with one.

    ```
    harness reproduce cpu-fp32-small_gpt_neo-caching.static-ragged_b4 --output static_cache_of_gpt_neo.py
    ```
    """
    _, catalogue = find_catalogue(Path.cwd())
    found_case, optimization = find_case(case, with_models(catalogue, tuple(model or ())))
    refuse_more_than_settings(found_case, optimization)
    path = output or Path(f"{found_case.recipe.name}-{optimization.name}.py")
    verdict = _verdict(run, case) if run else None
    if verdict:
        refuse_attention(verdict)
    of_eager = verdict is not None and (verdict.forgiven or verdict.outcome) is Outcome.BASELINE_UNTRUSTED
    told = Found(_quoted(verdict), baseline=of_eager)
    write_text(path, script_of(found_case, optimization, _prompts(found_case), told, name=path.name))
    print_result({"script": path}, [f"written: {path}"], as_json=as_json)


def refuse_more_than_settings(case: Case, optimization: Optimization) -> None:
    """Raise HarnessError for a path that two settings do not show, or that eager is not the measure of."""
    more = optimization.compiles_steps or case.technique in (Technique.KERNELS, Technique.STACKS)
    by_hand = getattr(optimization, "manual", False) or getattr(optimization, "torchrun", False)
    lossy = optimization.tolerance is Tolerance.LOSSY
    if more or by_hand or lossy or case.device != "cpu":
        why = "keeps less than eager" if lossy else f"runs on {case.device}" if case.device != "cpu" else ""
        raise HarnessError(f"{case.id}: {optimization.name} {why or 'is made of more than settings'} (show it by hand)")


def refuse_attention(verdict: Verdict) -> None:
    """Raise HarnessError for a verdict on eager's attention, unless a cache makes the difference."""
    # The script would find two runs that are wrong alike, and say that this release is right.
    if any(".eager_attention" in key for key in violated_keys(verdict.numbers)) and not _apart(verdict.numbers):
        raise HarnessError(
            f"{verdict.case}: eager's attention is wrong with and without a cache, and no script can show that yet "
            "(compare it by hand with its definition: docs/correctness.md, Eager's attention)"
        )


def _apart(numbers: Mapping[str, float]) -> bool:
    """Return whether a script shows that eager with a cache and without differ: the reference does, by that much."""
    # The floor is a share of eager's own error, which is counted in unit roundoffs.
    return any(
        numbers[key] * numbers[f"{dtype}.eager_ulps"] * dtype.unit_roundoff > APART
        for dtype in Dtype
        if (key := f"{dtype}.floor") in violated_keys(numbers)
    )


def _verdict(run: Path, case: str) -> Verdict:
    """Return the last failing verdict of a case. Raises HarnessError if there is none."""
    failing = [
        verdict
        for verdict in any_run(run).verdicts
        if verdict.case == case and (verdict.outcome.fails or verdict.outcome is Outcome.KNOWN_FAILURE)
    ]
    if not failing:
        raise HarnessError(f"{run}: no verdict on {case} fails (name another run, or leave out --run)")
    return failing[-1]


def _quoted(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    outcome = verdict.forgiven or verdict.outcome
    return f"Found as {outcome}: {finding_of(verdict)}."


def _prompts(case: Case) -> list[list[int]]:
    """Return the token ids of each row, without padding."""
    from harness.execution.loading import load_tokenizer, tokens_of

    source = case.recipe.source
    recipe = replace(case.recipe, source=Folder(source.tokenizer)) if isinstance(source, Seeded) else case.recipe
    tokenizer = load_tokenizer(recipe)
    return [tokens_of(prompt, tokenizer) for prompt in case.workload.prompts]
