"""The tables of docs/measured/silence.md, from what was found of releases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.formatting import escaped
from harness.records.enums import Technique
from harness.reports.tables import markdown_table
from suites.silence.records import Answer, Request, Word
from suites.silence.released import Release
from suites.silence.requests import REQUESTS

LONGEST = 110
"""Characters of what a library says that are shown."""
LOUD = frozenset({Word.IGNORED, Word.OTHERWISE})
"""Words that are set in bold."""
NOT_TRIED = "–"


def counted(releases: Sequence[Release]) -> list[str]:
    """Return the table of words by technique and release, as lines of Markdown."""
    words = [word for word in Word if any(word is each.word for one in releases for each in one.answers.values())]
    rows = [["technique", "transformers", *words]]
    for technique in Technique:
        named = [request.name for request in REQUESTS if request.technique is technique]
        for release in releases if named else ():
            counts = Counter(release.answers[name].word for name in named if name in release.answers)
            if counts:
                rows.append([technique.replace("_", " "), release.name, *(str(counts[word]) for word in words)])
    return markdown_table(rows)


def differing(releases: Sequence[Release]) -> list[str]:
    """Return the table of requests whose words differ among releases, as lines of Markdown."""
    chosen = [request for request in REQUESTS if len({_word(each, request) for each in releases} - {NOT_TRIED}) > 1]
    return _rows(chosen, releases)


def table(technique: Technique, releases: Sequence[Release]) -> list[str]:
    """Return the table of all requests of a technique, as lines of Markdown."""
    return _rows([request for request in REQUESTS if request.technique is technique], releases)


def tables(releases: Sequence[Release]) -> dict[str, list[str]]:
    """Return all tables by their names in the document."""
    named = {"counted": counted(releases), "differing": differing(releases)}
    techniques = [technique for technique in Technique if any(each.technique is technique for each in REQUESTS)]
    return {**named, **{str(technique): table(technique, releases) for technique in techniques}}


def _rows(requests: Sequence[Request], releases: Sequence[Release]) -> list[str]:
    head = ["request", "seen by", *(f"transformers {release.name}" for release in releases)]
    rows = [head]
    for request in requests:
        cells = [_cell(release.answers.get(request.name)) for release in releases]
        rows.append([f"`{request.words}`", request.about, *cells])
    return markdown_table(rows)


def _word(release: Release, request: Request) -> str:
    answer = release.answers.get(request.name)
    return answer.word if answer else NOT_TRIED


def _cell(answer: Answer | None) -> str:
    if answer is None:
        return NOT_TRIED
    word = f"**{answer.word}**" if answer.word in LOUD else str(answer.word)
    if answer.word is Word.HONOURED or not answer.said:
        return word
    said = answer.said if len(answer.said) <= LONGEST else f"{answer.said[:LONGEST].rstrip()} …"
    return f"{word}: {escaped(said)}"
