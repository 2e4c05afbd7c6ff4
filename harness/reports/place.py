"""Say in one line on what machine a run was, with which versions, and when. Pure."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from harness.formatting import one_line
from harness.records.run import Run

UNKNOWN = ": unknown, "
"""Text of a record between the type of devices and the reason why their names are not known. The reason may hold
commas, as a list of names does."""


def machine_line(run: Run) -> str:
    """Return the machine, the devices, the versions, the date, the tier and the shard of a run in one line."""
    devices = devices_of(run)
    parts = [
        place_of(run),
        f"device {', '.join(devices)}" if devices else "",
        *(f"{name} {run.environment[name]}" for name in ("torch", "transformers") if name in run.environment),
        _date(run.started),
        f"tier {run.tier}" if run.tier else "",
        f"shard {run.shard}" if run.shard else "",
    ]
    return one_line(" · ".join(each for each in parts if each))


def devices_of(run: Run) -> list[str]:
    return sorted({verdict.device for verdict in run.verdicts if verdict.device})


def place_of(run: Run) -> str:
    """Return the names of what the run was on: of all accelerators, and of the processor if it was a device too."""
    devices = devices_of(run)
    others = [device for device in devices if device != "cpu"]
    parts = []
    names = run.environment.get("accelerators", "none")
    if others:
        unknown = {device for device in others if f"{device}{UNKNOWN}" in names}
        if unknown or names == "none":
            numbers = Counter(f"{device} (unknown)" if device in unknown else device for device in others)
        else:
            numbers = Counter(names.split(", "))
        parts += [name if number == 1 else f"{number} × {name}" for name, number in numbers.items()]
    if "cpu" in devices or not others:
        processor, cores = (run.environment.get(name, "") for name in ("processor", "cores"))
        parts += [f"{processor}, {cores} core{'' if cores == '1' else 's'}" if processor and cores else processor]
    return " and ".join(each for each in parts if each) or ", ".join(devices)


def exit_words(run: Run) -> str:
    """Return with which exit code the session ended, and that of its verdicts if they were judged again since."""
    code = "none" if run.exit is None else str(run.exit)
    return code if run.exit_again is None else f"{code} when it ran, {run.exit_again} as judged again"


def _date(started: str) -> str:
    try:
        return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M %Z}"
    except ValueError:  # a record that no file holds
        return started
