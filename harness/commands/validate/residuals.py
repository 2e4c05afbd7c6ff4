"""Compare what timed paths took with what was predicted: one slow path is the path's fault, and all are the card's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median

from harness.commands.validate.records import Check, Grade
from harness.records.enums import Property
from harness.records.run import Verdict

STRAGGLER = 0.7
"""Share of the best of its kind below which a card is taken for a straggler (NVIDIA's resiliency extension)."""
FEWEST = 5
"""Fewest timed paths that tell a slow path from a slow card."""


def residual_checks(verdicts: Iterable[Verdict]) -> Iterator[Check]:
    """Yield what the times of a run's paths say, over those predicted from short measurements of the same machine.

    A card that is as fast as it should be for milliseconds and slow for minutes slows all paths alike. One that is
    always slow does not show here: its predictions are as slow, and its share of the data sheet tells.
    """
    over = {
        verdict.case: verdict.numbers["seconds"] / verdict.numbers["predicted.seconds"]
        for verdict in verdicts
        if verdict.property is Property.SPEED and "predicted.seconds" in verdict.numbers
    }
    if len(over) < FEWEST:
        yield Check("machine", "the number of timed paths with a prediction", f"{len(over)}, too few to compare")
        return
    usual, most = median(over.values()), 1 / STRAGGLER
    label = f"the time of {len(over)} timed paths over the predicted one, in the median,"
    if usual > most:
        todo = "all of them are slow, so that it is the card or its host: look at clocks and power while it works"
        yield Check("machine", label, f"{usual:.2f}", Grade.EXCEPTION, f"at most {most:.2f}", todo)
    else:
        yield Check("machine", label, f"{usual:.2f}")
    for case, ratio in over.items():
        if ratio > most * usual:
            todo = "the others are not as slow, so that it is this path's own kernels: profile it"
            limit = f"at most {most:.2f} times that of the others"
            yield Check(case, "its time over the predicted one", f"{ratio:.2f}", Grade.EXCEPTION, limit, todo)
