"""Violating examples as scripts that a person can read, run and change."""

from __future__ import annotations

import os
import tempfile
import traceback
from pathlib import Path
from pprint import pformat
from typing import Any

from fixtures.kernels import LOCAL_KERNELS
from harness.execution.setup import CaseSetup
from harness.execution.vector_math import choose_vector_math
from harness.machine.local_kernels import announced_with
from harness.records.enums import Dtype
from harness.records.evidence import Case
from harness.records.workload import Folder, Hub, ModelSpec
from harness.session.plan import find_model
from suites.conftest import CATALOGUE, REPOSITORY
from suites.invariants.question import Question
from suites.invariants.relations import relation_named
from suites.invariants.search import Searched

SCRIPT = '''\
"""{case}

Relation {relation}: {what}.
{tried}
Expected: {expected}

Run it by `python FILE`: it exits with 1 while that is not so, with 0 once the relation holds, with 2 if it cannot tell.
"""

FOUND = {found!r}
"""When this was written."""

import os
import sys

sys.path.insert(0, {root!r})

from harness.machine.variables import WORKER_VARIABLES

os.environ.update({{**WORKER_VARIABLES, **os.environ}})  # as for every worker, before torch is imported

from suites.invariants.reproducer import reproduce

EXAMPLE = {example}
"""A text is [seed, length]; suites/invariants/content.py makes its tokens."""

if __name__ == "__main__":
    sys.exit(
        reproduce(
            EXAMPLE,
            relation={relation!r},
            path={path!r},
            model={model!r},
            device={device!r},
            dtypes={dtypes!r},
            fault={fault!r},
        )
    )
'''


def write_reproducer(folder: Path, case: Case, question: Question, result: Searched) -> Path:
    """Write the script of a violating example into the folder of a run, and return where it stands."""
    relation = relation_named(case.workload.name)
    violated = [str(finding) for finding in result.violating if finding.violated]
    script = folder / "reproducers" / f"{case.id}.py"
    script.parent.mkdir(exist_ok=True)
    text = SCRIPT.format(
        case=case.id,
        relation=relation.name,
        what=relation.what,
        tried=" ".join((relation.tries.__doc__ or "").split()),
        found="; ".join(violated) or str(result.failure),
        expected="the same bits on both sides"
        if relation.exact
        else "on each side no more error than eager's rounding, and every other number within its limit",
        root=str(REPOSITORY),
        example=pformat(result.example, width=100, sort_dicts=False),
        path=case.path,
        model=_asked_for_as(case.recipe),
        device=case.device,
        dtypes=[str(dtype) for dtype in question.dtypes],
        fault=question.setup.fault,
    )
    script.write_text(text)
    return script


def reproduce(
    example: dict[str, Any], *, relation: str, path: str, model: str, device: str, dtypes: list[str], fault: str = ""
) -> int:
    """Try one example in this process, say in a line what came of it, and return the exit code: 1 if it is violated, 2
    if it raises."""
    from suites.invariants.probing import try_example  # imports transformers, which writing a script does not need

    os.environ["LOCAL_KERNELS"] = announced_with(os.environ.get("LOCAL_KERNELS", ""), LOCAL_KERNELS)
    choose_vector_math()  # as every worker does
    optimization = next(entry for entry in CATALOGUE.paths if entry.name == path)
    with tempfile.TemporaryDirectory() as scratch:
        setup = CaseSetup(find_model(model, CATALOGUE), relation_named(relation).workload, device, Path(scratch), fault)
        question = Question(setup, optimization, tuple(Dtype(name) for name in dtypes))
        try:
            found = try_example(question, relation, example)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not to be taken for a violation
            traceback.print_exc()
            print(f"{relation}: cannot be told: {error!r}")
            return 2
    violated = [str(finding) for finding in found if finding.violated]
    print(f"{relation}: {'; '.join(violated) or 'holds'}")
    return 1 if violated else 0


def _asked_for_as(recipe: ModelSpec) -> str:
    """What `--model` would name it by."""
    if recipe in CATALOGUE.all_models:
        return recipe.name
    source = recipe.source
    if isinstance(source, Folder):
        return source.path
    if isinstance(source, Hub):
        return f"{source.repository}@{source.revision}"
    raise ValueError(f"{recipe.name} is of neither catalogue, folder nor hub, so it has no name to ask for it by")
