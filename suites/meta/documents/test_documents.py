"""README.md and docs/ can be read: short, in sentences of bounded length, with links that lead somewhere."""

from __future__ import annotations

import re

import pytest

from suites.conftest import REPOSITORY
from suites.meta.builders.documents import FILES, fence, headings, section
from suites.meta.test_layers import FLOORS

MOST_LINES = 200
"""Of README."""
MEAN_WORDS, MOST_WORDS = 16, 40
"""Of a sentence, over all documents; of any one. Writers aim at 25."""
UNPLAIN = ("beside", "befall", "told", "asked", "likewise", "is none of", "to be had", "in turn")
MORE = tuple(
    REPOSITORY / name
    for name in ("CONTRIBUTING.md", *(f"{each}/README.md" for each in ("harness", "suites", "baselines")))
)
NAMES = [str(file.relative_to(REPOSITORY)) for file in FILES]


def paragraphs(text):
    """Return the paragraphs and items of lists; without code, tables, headings, comments and pictures."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(\||#|<!--|!\[).*$", "", text, flags=re.MULTILINE)
    return [" ".join(each.split()) for each in re.split(r"\n\s*\n|\n(?=- |\d+\. )", text) if each.strip()]


def sentences(text):
    """Return the sentences of a document as lists of words. Code in a line counts as one word, a link as its text."""
    found = []
    for paragraph in paragraphs(text):
        plain = re.sub(r"`[^`]+`", "code", re.sub(r"^(- |\d+\. )", "", paragraph))
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain).replace("*", "")
        found += [re.findall(r"\S*\w\S*", each) for each in re.split(r"(?<=[.?!])\)?\s+", plain)]
    return [words for words in found if words]


def anchors(text):
    """Return the anchors that GitHub gives to headings."""
    kept = (re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()) for _, line in headings(text))
    return {each.replace(" ", "-") for each in kept}


def dead_links(file, text):
    """Return the relative links of a document that lead nowhere."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        to = (file.parent / name).resolve() if name else file
        if not to.exists() or (anchor and anchor not in anchors(to.read_text())):
            dead.append(target)
    return dead


def test_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= MOST_LINES


def test_sentences_are_short():
    long = {}
    lengths = []
    for file in FILES:
        for words in sentences(file.read_text()):
            lengths.append(len(words))
            if len(words) > MOST_WORDS:
                long[" ".join(words)] = len(words)
    assert long == {}
    assert sum(lengths) / len(lengths) <= MEAN_WORDS


def test_long_sentence_is_found():
    text = f"# A\n\n{'word ' * 41}.\n\n- An `item of a list`. Two.\n\n```\ncode\n```\n| a | b |\n"
    assert [len(words) for words in sentences(text)] == [41, 2, 1]


@pytest.mark.parametrize("name", NAMES)
def test_words_are_plain(name):
    """Tables aside, since some of them are printed by commands."""
    prose = " ".join(paragraphs((REPOSITORY / name).read_text())).lower()
    assert [word for word in UNPLAIN if re.search(rf"\b{word}\b", prose)] == []


@pytest.mark.parametrize("file", [*FILES, *MORE], ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_relative_links_lead_somewhere(file):
    assert dead_links(file, file.read_text()) == []


def test_dead_links_are_found():
    text = "[a](nowhere.md) [b](docs/gate.md) [c](docs/gate.md#nothing) [d](#nothing) [e](docs/gate.md#rules)"
    assert dead_links(REPOSITORY / "README.md", text) == ["nowhere.md", "docs/gate.md#nothing", "#nothing"]


@pytest.mark.parametrize("name", NAMES[1:])
def test_page_says_who_needs_it_and_is_linked(name):
    first = paragraphs((REPOSITORY / name).read_text())[0]
    assert first.startswith("For those who ")
    assert first.count(". ") == 0
    assert f"]({name})" in (REPOSITORY / "README.md").read_text()


def test_architecture_shows_the_floors():
    shown = [
        tuple(line.split(", ")) for line in fence(section("docs/architecture.md", "## Floors"), "text").splitlines()
    ]
    assert [set(floor) for floor in reversed(shown)] == [set(floor) for floor in FLOORS]


def missing_names(text):
    """Return the files, classes and functions that a text names, and that `harness` and `suites` do not have."""
    files = [file for folder in ("harness", "suites") for file in (REPOSITORY / folder).rglob("*.py")]
    source = "\n".join(file.read_text() for file in files if file.is_relative_to(REPOSITORY / "harness"))
    missing = []
    for name in re.findall(r"`([^`\n]+)`", text):
        if name.endswith(".py"):
            missing += [name] * (not any(f"/{file}".endswith(f"/{name}") for file in files))
        elif re.fullmatch(r"[A-Z]\w*(\.\w+)?|[a-z]+_[a-z_]+", name) and not name.isupper():
            parts = [rf"^\s*((class|def) {part}\b|{part}:)" for part in name.split(".")]
            missing += [name] * (not all(re.search(part, source, re.MULTILINE) for part in parts))
    return missing


def test_architecture_names_what_there_is():
    assert missing_names((REPOSITORY / "docs" / "architecture.md").read_text()) == []


def test_name_that_is_not_there_is_found():
    named = "`records/evidence.py`, `Case`, `Session.judge_by`, `run_candidate`, `harness/`, `FLOORS`"
    assert missing_names(f"{named}, `records/nowhere.py`, `Nobody`, `Case.nothing_at_all`, `do_nothing`") == [
        "records/nowhere.py",
        "Nobody",
        "Case.nothing_at_all",
        "do_nothing",
    ]


def test_map_of_the_harness_has_every_folder():
    text = (REPOSITORY / "harness" / "README.md").read_text()
    rooms = [room for floor in FLOORS for room in floor]
    assert [room for room in rooms if f"`{room}/`" not in text and f"`{room}.py`" not in text] == []


def test_map_of_the_suites_has_every_folder():
    text = (REPOSITORY / "suites" / "README.md").read_text()
    folders = [file.parent.name for file in (REPOSITORY / "suites").glob("*/__init__.py")]
    assert [folder for folder in folders if f"`{folder}/`" not in text] == []


ELSEWHERE = {"test_flash_attn.py", "test_util.py"}
"""Files of other projects."""
MADE = {"test_other.py"}
"""Files that tests write."""


def named_tests():
    """Names of test files that stand in sources and documents, each with who names it."""
    for folder in ("harness", "suites", "fixtures", "docs", "."):
        files = (REPOSITORY / folder).glob("*.md") if folder == "." else (REPOSITORY / folder).rglob("*.*")
        for path in files:
            if path.suffix in {".py", ".md"}:
                for name in re.findall(r"\btest_[a-z_0-9]+\.py\b", path.read_text()):
                    yield name, path.relative_to(REPOSITORY)


def test_every_test_file_that_is_named_exists():
    there = {path.name for path in (REPOSITORY / "suites").rglob("test_*.py")} | ELSEWHERE | MADE
    assert [(name, str(path)) for name, path in named_tests() if name not in there] == []
