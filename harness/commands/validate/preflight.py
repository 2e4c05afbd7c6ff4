"""Judge a machine from what its devices showed while they worked. Pure: no torch, no I/O.

A rule is a function that yields the checks of one card, and is listed in RULES.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.commands.validate.datasheets import COPIES, DATASHEETS, PRODUCTS
from harness.commands.validate.records import SHOWN, Build, Card, CardReading, Check, Fingerprint, Grade
from harness.formatting import count, scaled
from harness.machine.health import health
from harness.machine.inventory import is_simulated
from harness.machine.nvml import FULL_SPEED
from harness.records.enums import Dtype

EXCEPTION, REJECTING = Grade.EXCEPTION, Grade.REJECTING
MACHINE = "machine"
"""Subject of a check that is about no card."""
AGAIN = "and validate again"


def preflight(cards: tuple[Card, ...], *, load: float, cores: int) -> tuple[Check, ...]:
    """Return the checks of the machine and its cards: what is wrong, and what is worth knowing.

    `load` is the average of the last minute, before anything ran here.
    """
    checks = [check for card in cards[:1] for check in _host(card, load=load, cores=cores)]
    for card in cards:
        checks += [check for rule in RULES for check in rule(card)]
    return tuple(checks)


def fingerprint_checks(taken: Fingerprint) -> Iterator[Check]:
    """Yield the checks of a fingerprint. Any bit that differs or is wrong rejects a card."""
    # Silently corrupted results are the worst that a card can do.
    todo = "the card corrupts data without a word: do not use it, and have it replaced"
    for each in taken.differing:
        label = f"{each.operation} in repetition {each.repetition} of {taken.repetitions}"
        should = f"{taken.digests[each.operation][:SHOWN]} as in the first"
        more = f" (and other bits in {count(each.times, 'repetition')} in all)" if each.times > 1 else ""
        yield Check(taken.about, label, f"{each.digest[:SHOWN]}{more}", Grade.REJECTING, should, todo)
    for operation, elements in taken.wrong.items():
        if elements:
            label = f"the number of wrong elements of {operation}"
            yield Check(taken.about, label, str(elements), Grade.REJECTING, "0", todo)
    if not taken.differing and not any(taken.wrong.values()):
        same = f"the same in {taken.repetitions} repetitions of {count(len(taken.digests), 'operation')}"
        exact = f", {len(taken.wrong)} of them exact" if taken.wrong else ""
        yield Check(taken.about, "the fingerprint", same + exact)


def _host(card: Card, *, load: float, cores: int) -> Iterator[Check]:
    """Yield the host's checks, as `harness machine` has them. None is a card's fault, so none rejects it."""
    for finding in health(card.examined, load=load, cores=cores):
        if finding.what == "while it worked":
            yield Check(MACHINE, "what slowed it while it worked", finding.got, EXCEPTION, "nothing", finding.todo)
        elif finding.well:
            yield Check(MACHINE, finding.what, finding.got)
        elif not finding.what.startswith("processes"):  # those of a card have a rule of their own
            yield Check(MACHINE, finding.what, finding.got, EXCEPTION, "quiet enough to time on", finding.todo)


def _simulated(card: Card) -> Iterator[Check]:
    if is_simulated(card.name):
        todo = "validate the machine without it: what passes on a simulated device says nothing of a card"
        yield Check(card.about, "the device", card.name, REJECTING, "a real one", todo)


def _readable(card: Card) -> Iterator[Check]:
    """Yield exceptions for what could not be read. An unknown state does not prove health."""
    if card.unread:
        label = "its state (ECC, remapped rows, throttling, clocks, power, processes)"
        todo = f"set that right, or look with the maker's own tool, {AGAIN}"
        yield Check(card.about, label, f"not read: {card.unread}", EXCEPTION, "read through NVML", todo)
    if card.busy and card.busy.untold:
        untold = ", ".join(f"{label} ({why})" for label, why in card.busy.untold.items())
        todo = "a newer driver or nvidia-ml-py may tell it; otherwise look with nvidia-smi -q"
        yield Check(card.about, "what NVML does not tell", untold, EXCEPTION, "nothing", todo)


def _ecc(card: Card) -> Iterator[Check]:
    now = card.busy
    if now is None:
        return
    yield from _errors(card.about, now)
    if now.ecc is None:
        return
    if not now.ecc:
        todo = f"nvidia-smi -e 1 and a reboot, {AGAIN}"
        yield Check(card.about, "ECC", "off: memory may err without a word", EXCEPTION, "on", todo)
    elif now.ecc_pending is False:
        yield Check(card.about, "ECC", "on, and off after a reboot", EXCEPTION, "on", "nvidia-smi -e 1")
    else:
        yield Check(card.about, "ECC", "on")


def _errors(about: str, now: CardReading) -> Iterator[Check]:
    if now.uncorrected:
        label = "the number of uncorrected memory errors since the driver was loaded"
        todo = f"reset the card with nvidia-smi -r {AGAIN}; if they come back, return it"
        yield Check(about, label, str(now.uncorrected), REJECTING, "0", todo)
    if now.uncorrected_ever and not now.uncorrected:
        label = "the number of uncorrected memory errors of its life"
        todo = (
            "a new card should have none: ask its seller; NVIDIA takes cards back whose rows can no longer be remapped"
        )
        yield Check(about, label, str(now.uncorrected_ever), EXCEPTION, "0", todo)


def _rows(card: Card) -> Iterator[Check]:
    now, about = card.busy, card.about
    if now is None:
        return
    if now.remap_failed:
        yield Check(about, "row remapping", "failed", REJECTING, "possible", "no spare row is left: return the card")
    if now.remap_pending:
        todo = f"a bad row is in use until nvidia-smi -r or a reboot: do that {AGAIN}"
        yield Check(about, "row remapping", "pending", REJECTING, "done", todo)
    if now.rows_uncorrected:
        todo = "a new card should have none, and spare rows are few: ask its seller"
        label = "the number of rows remapped after uncorrected errors"
        yield Check(about, label, str(now.rows_uncorrected), EXCEPTION, "0", todo)
    if now.rows_corrected:
        yield Check(about, "the number of rows remapped after corrected errors", str(now.rows_corrected))


def _throttling(card: Card) -> Iterator[Check]:
    """Yield the causes of slowdown in force during the work, and those whose counters rose since before it."""
    idle, busy = card.idle, card.busy
    if idle is None or busy is None:
        return
    causes = list(busy.slowed_by or ())
    causes += [cause for cause, time in busy.throttled.items() if time > idle.throttled.get(cause, time)]
    if causes:
        got, todo = ", ".join(dict.fromkeys(causes)), f"look at airflow, power cables and the rack's limits {AGAIN}"
        yield Check(card.about, "what slows it while it works", got, REJECTING, "nothing", todo)
    elif busy.slowed_by is not None:
        yield Check(card.about, "what slows it while it works", "nothing")
    if before := {cause: time for cause, time in idle.throttled.items() if time}:
        text = ", ".join(f"{cause} {time / 1e9:.3g} s" for cause, time in before.items())
        yield Check(card.about, "what slowed it before, since the driver was loaded,", text)


def _clock(card: Card) -> Iterator[Check]:
    """Yield the check of the clock. The power limit may hold it down, as it always does on small cards."""
    idle, busy = card.idle, card.busy
    if idle is None or busy is None or not busy.clock or not busy.full_clock:
        return
    got, capped = f"{busy.clock} of {busy.full_clock} MHz", (busy.capped or 0) > (idle.capped or 0)
    grade = EXCEPTION if busy.capped is None or idle.capped is None else REJECTING  # the power limit may hold it down
    if busy.clock >= FULL_SPEED * busy.full_clock or capped:
        yield Check(card.about, "its SM clock at work", f"{got}{' at the power limit' if capped else ''}")
    else:
        todo = f"reset clocks that were set with nvidia-smi -rgc, or look why it does not rise, {AGAIN}"
        least = f"at least {_percent(FULL_SPEED)} of that"
        yield Check(card.about, "its SM clock at work", got, grade, least, todo)


def _power(card: Card) -> Iterator[Check]:
    now = card.busy
    if now is None or now.power_limit is None:
        return
    got = f"{now.power_limit / 1000:g} W"
    if now.power_default and now.power_limit < now.power_default:
        should = f"the default of {now.power_default / 1000:g} W"
        todo = "nvidia-smi -pl sets it; agree to it if it is meant: speeds hold for this limit alone"
        yield Check(card.about, "its power limit", got, EXCEPTION, should, todo)
    else:
        yield Check(card.about, "its power limit", got)


def _temperature(card: Card) -> Iterator[Check]:
    if card.busy and card.busy.temperature is not None:
        yield Check(card.about, "its temperature at work", f"{card.busy.temperature} °C")


def _shared(card: Card) -> Iterator[Check]:
    """Yield the check of other processes. Our worker is one; a container that hides it hides others too."""
    others = (card.busy.processes or 0) - 1 if card.busy else 0
    foreign = max(others, card.examined.foreign)
    if foreign:
        todo = f"end them {AGAIN}: beside them nothing that is timed counts"
        yield Check(card.about, "the number of processes of others on it", str(foreign), REJECTING, "0", todo)
    elif card.busy and card.busy.processes == 0:
        todo = f"look on the host with nvidia-smi, or run this where processes can be seen, {AGAIN}"
        yield Check(card.about, "the number of processes on it", "0, not even ours", EXCEPTION, "at least 1", todo)
    elif card.busy and card.busy.processes is not None:
        yield Check(card.about, "the number of processes of others on it", "0")


def _versions(card: Card) -> Iterator[Check]:
    """Yield the check of the driver's CUDA version against torch's.

    A driver serves CUDA of its own version and older, and newer ones of the same major version in part
    (https://docs.nvidia.com/deploy/cuda-compatibility).
    """
    now, built = card.busy, card.build.cuda
    if now is None or not now.driver_cuda or not built:
        return
    served = f"{now.driver_cuda} (driver {now.driver})"
    if _version(now.driver_cuda) >= _version(built):
        yield Check(card.about, "CUDA of the driver", f"{served}, torch is built for {built}")
        return
    grade, todo = REJECTING, f"install a newer driver, or a torch for CUDA {now.driver_cuda}"
    if _version(now.driver_cuda)[0] == _version(built)[0]:
        grade = EXCEPTION
        todo += ": a driver of the same major version runs most of it, and compiles no newer PTX"
    yield Check(card.about, "CUDA of the driver", served, grade, f"at least torch's {built}", todo)


def _compiled_for(card: Card) -> Iterator[Check]:
    built = card.build
    if built.capability is None or not built.arches:
        return
    mine = f"sm_{built.capability[0]}{built.capability[1]}"
    got, todo = ", ".join(built.arches), "install a torch that is built for this card"
    if _runs(built):
        yield Check(card.about, "what torch is compiled for", f"{got}; this is {mine}")
    elif _translates(built):
        should = f"{mine} or older of its generation"
        todo += ": the driver translates older code for it, which is slower"
        yield Check(card.about, "what torch is compiled for", got, EXCEPTION, should, todo)
    else:
        yield Check(card.about, "what torch is compiled for", got, REJECTING, mine, todo)


def _speeds(card: Card) -> Iterator[Check]:
    peaks, sheet = card.examined.peaks, DATASHEETS.get(card.name)
    if peaks is None:
        return
    promised = (sheet.bandwidth, sheet.products) if sheet else (None, None)
    yield _rate(card.about, "copies", scaled_as=(peaks.copy_bandwidth, "B/s"), promised=promised[0], share=COPIES)
    if rate := peaks.flops.get(Dtype.BF16):
        label = "bfloat16 products"
        yield _rate(card.about, label, scaled_as=(rate, "FLOP/s"), promised=promised[1], share=PRODUCTS)


def _rate(about: str, label: str, *, scaled_as: tuple[float, str], promised: float | None, share: float) -> Check:
    rate, unit = scaled_as
    got = scaled(rate, unit)
    if promised is None:
        return Check(about, f"the rate of {label}", f"{got}; no data sheet of it is known here")
    text = f"{got}, {_percent(rate / promised)} of the data sheet's {scaled(promised, unit)}"
    if rate >= share * promised:
        return Check(about, f"the rate of {label}", text)
    todo = f"look at clocks, power and others on the card {AGAIN}; if it stays so, return it"
    return Check(about, f"the rate of {label}", text, REJECTING, f"at least {_percent(share)}", todo)


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


RULES = (
    _simulated,
    _readable,
    _ecc,
    _rows,
    _throttling,
    _clock,
    _power,
    _temperature,
    _shared,
    _versions,
    _compiled_for,
    _speeds,
)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def _runs(built: Build) -> bool:
    """Return whether torch's code runs on the card."""
    # Code for a capability runs on that one and on later ones of its major version; `sm_90a` on that one alone.
    return any(
        own == built.capability if letter == "a" else own[0] == built.capability[0] and own <= built.capability
        for kind, own, letter in map(_arch, built.arches)
        if kind == "sm" and built.capability
    )


def _translates(built: Build) -> bool:
    """Return whether the driver can translate torch's PTX for the card: any later capability will do."""
    arches = map(_arch, built.arches)
    return any(kind == "compute" and not letter and own <= (built.capability or (0, 0)) for kind, own, letter in arches)


def _arch(name: str) -> tuple[str, tuple[int, int], str]:
    """Return the parts of a target: ("sm", (9, 0), "a") for `sm_90a`."""
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]*)", name)
    return (match[1], (int(match[2]), int(match[3])), match[4]) if match else ("", (0, 0), "")
