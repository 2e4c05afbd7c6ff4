"""A made-up upgrade: environments that nobody makes, runs that are given, and a second look that confirms."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from harness.commands.compare.cases import Weight
from harness.commands.confirm.confirm import CaseResult, Confirmation
from harness.commands.upgrade import command as cli_upgrade
from harness.commands.upgrade.environments import Environment
from harness.errors import HarnessError
from harness.records.enums import Outcome, Property
from suites.meta.builders.recorded_runs import FLASH, SDPA, STATIC, verdict
from suites.meta.builders.two_runs import UPGRADED

KEPT_OUT = ("kernels 0.17.2 is not accepted",)
CASES = (SDPA, FLASH, STATIC)


def judged(asked=Property.ENGAGEMENT, **outcomes):
    """Verdicts of three paths, passing but for those that are named, by the end of the path's name."""
    named = [(of, outcomes.get(of.path.rpartition(".")[2], Outcome.PASS)) for of in CASES]
    made = (verdict(of, outcome, asked=asked) for of, outcome in named)
    return tuple(replace(each, message=f"{each.case}: so") for each in made)


def upgraded(monkeypatch, checkout, *, old, new, broken="", failed=0):
    """`harness upgrade` makes and runs nothing, and finds these verdicts; of the new run, `failed` tests have none. The
    second look confirms what changed, or is `broken`. Returns what both runs were given, and what was looked at."""
    seen = SimpleNamespace(given=[], looked=[])
    verdicts = {"old": old, "new": new}

    def made(folder, package, version):
        return Environment(str(folder / "bin" / "python"), package, version, KEPT_OUT)

    def ran(_root, environment, parent, options):
        name = parent.name.removesuffix("-run")
        seen.given.append((environment.version, options))
        return checkout.run(
            name=f"{parent.relative_to(checkout.root.resolve())}/r",
            verdicts=verdicts[name],
            environment={**UPGRADED, "transformers": environment.version},
            failed_otherwise=failed if name == "new" else 0,
        )

    def confirmed(options):
        if broken:
            raise HarnessError(broken)
        seen.looked.append(options.cases)
        results = tuple(CaseResult(case, "FAILS NOW", Weight.WORSE, "so") for case in options.cases)
        return Confirmation({}, (), results), options.parent

    monkeypatch.setattr(cli_upgrade, "make_environment", made)
    monkeypatch.setattr(cli_upgrade, "_run", ran)
    monkeypatch.setattr(cli_upgrade, "confirmed", confirmed)
    return seen
