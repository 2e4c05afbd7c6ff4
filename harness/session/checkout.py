"""Find the checkout that a command is run in, and its catalogue of what there is to run."""

from __future__ import annotations

import importlib.util
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from harness.errors import HarnessError, first_line
from harness.profiles.baselines import read_baselines, unused
from harness.profiles.profile import Profile
from harness.session.plan import Catalogue, case_ids

HOOK = "pytest_harness_catalogue"


def find_catalogue(start: Path) -> tuple[Path, Catalogue]:
    """Return the folder and the catalogue of the nearest conftest.py that implements the hook.

    It is searched for in `start` and the folders above it, and imported, as pytest would. pytest learns the same
    catalogue by the same hook.

    Raises HarnessError if there is none, or if it cannot be imported.
    """
    for folder in (start, *start.parents):
        path = folder / "conftest.py"
        if path.is_file() and f"def {HOOK}" in path.read_text(encoding="utf-8", errors="replace"):
            return folder, _catalogue(path)
    raise HarnessError(f"{start}: holds no conftest.py with {HOOK}, and no folder above it does (run it in a checkout)")


def refuse_unused(profiles: tuple[Profile, ...], catalogue: Catalogue) -> None:
    """Raise HarnessError for the first threshold or baseline of a profile that the catalogue does not use.

    It names a path, model or workload that is not there, so that nothing is held to it although it looks so.
    """
    for profile in profiles:
        by_kind = {
            "workload": {workload.name for workload in catalogue.workloads if workload.timed},
            "recipe": {"", *(model.name for model in catalogue.all_models)},
        }
        for threshold in profile.thresholds:
            for kind, names in by_kind.items():
                if getattr(threshold, kind) not in names:
                    raise HarnessError(
                        f"{profile.file}: the threshold of {threshold.path} on {threshold.workload} names {kind} "
                        f"{getattr(threshold, kind)}, which is not in the catalogue (correct or remove it)"
                    )
            if not any(fnmatchcase(path.name, threshold.path) for path in catalogue.paths):
                raise HarnessError(
                    f"{profile.file}: the threshold of {threshold.path} on {threshold.workload} is of no path in the "
                    "catalogue (correct or remove it)"
                )
        for line in unused(read_baselines(profile), case_ids(catalogue, profile.match.device)):
            raise HarnessError(line)


def _catalogue(path: Path) -> Catalogue:
    spec = importlib.util.spec_from_file_location("conftest", path)
    if spec is None or spec.loader is None:
        raise HarnessError(f"{path}: cannot be imported (repair it)")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
        catalogue = getattr(module, HOOK)()
    except HarnessError:
        raise
    except Exception as error:  # whatever a conftest.py raises: it goes on as one line that names the file
        raise HarnessError(
            f"{path}: gives no catalogue: {type(error).__name__}: {first_line(error)} (repair it)"
        ) from error
    if not isinstance(catalogue, Catalogue):
        raise HarnessError(f"{path}: {HOOK} gives {catalogue!r:.60}, but should give a Catalogue")
    return catalogue
