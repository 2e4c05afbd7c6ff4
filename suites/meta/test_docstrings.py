"""Docstrings read alone: whoever meets one in an editor has not read the line above it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from suites.conftest import REPOSITORY

FOLDERS = sorted(path.stem for path in (REPOSITORY / "harness").iterdir() if path.suffix == ".py" or path.is_dir())
MOST_WORDS = 20
"""Length of a first sentence."""
CLAUSES = frozenset({
    "And", "As", "Because", "But", "By", "For", "From", "How", "If", "In", "Likewise", "Nor", "Not", "Of", "On", "Or",
    "Since", "So", "That", "Those", "Though", "Under", "Until", "What", "When", "Where", "Which", "While", "Who",
    "Whose", "Why", "With", "Without",
})  # fmt: skip
"""A docstring that begins so is a part of a sentence, which the reader has to find."""
NO_VERBS = CLAUSES | {"A", "All", "An", "Both", "Each", "Every", "It", "Its", "No", "One", "The", "There", "These"}
"""A function's docstring says what it does: it begins with a verb."""
RULES = "judging/gate.py"
"""The docstrings of its rules are cells of a table in the documentation: clauses, in lower case."""


def docstrings(path: Path):
    """(line, docstring, whether it is of a function, whether it is of a boolean) of all in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for place, statement in enumerate(body):
            value = getattr(statement, "value", None)
            if not (
                isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str)
            ):
                continue
            of_function = place == 0 and isinstance(node, ast.FunctionDef) and not _is_noun(node)
            before = body[place - 1] if place else None
            boolean = isinstance(before, ast.AnnAssign) and "bool" in ast.unparse(before.annotation)
            yield statement.lineno, value.value, of_function, boolean


def _is_noun(function):
    names = {ast.unparse(each).partition("(")[0].split(".")[-1] for each in function.decorator_list}
    return bool(names & {"property", "cached_property", "setter", "fixture"})


def faults(text: str, *, of_function: bool = False, boolean: bool = False):
    """What is wrong with a docstring."""
    sentence = re.split(r"(?<=[.:?!])(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]
    first = re.match(r"[\w']*", sentence)[0]
    if len(sentence.split()) > MOST_WORDS:
        yield f"has {len(sentence.split())} words before its first stop, but should have at most {MOST_WORDS}"
    if not re.search(r"[.:?!]['\")]?$", sentence):
        yield "has no stop"
    if first == "Whether" and boolean:
        return
    if first in (NO_VERBS if of_function else CLAUSES | {"Whether"}):
        yield f"begins with {first!r}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_read_alone(folder):
    place = REPOSITORY / "harness" / folder
    found = []
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
        for line, text, of_function, boolean in docstrings(path):
            if path.match(RULES) and of_function and not text[0].isupper():
                continue
            where = f"{path.relative_to(REPOSITORY)}:{line}"
            told = faults(text, of_function=of_function, boolean=boolean)
            found += [f"{where}: {fault}: {' '.join(text.split())[:70]}" for fault in told]
    assert found == [], "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "of_function"),
    [
        ("What is held against it.", False),
        ("Of what one stands in.", False),
        ("The rate of a copy.", True),
        ("Return the rate", True),
        (f"Return the rate of a copy {'of a copy ' * 5}.", True),
    ],
)
def test_docstring_that_needs_another_line_is_found(text, of_function):
    assert list(faults(text, of_function=of_function))
    assert list(faults("Return the rate of a copy.", of_function=True)) == []
    assert list(faults("Whether the device was shared.", boolean=True)) == []
