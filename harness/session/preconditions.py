"""Check once, before anything runs, what a session depends on: its device, models, folders and disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import HarnessError, WorkerFailed, WorkerRaised
from harness.formatting import MIB
from harness.machine.host import available_memory
from harness.machine.inventory import Inventory
from harness.machine.local_kernels import CHECKOUT, local_kernels
from harness.machine.requirements import Device, commit_of
from harness.records.run import IN, KERNEL
from harness.records.workload import Folder, Hub, ModelSpec
from harness.session.plan import Catalogue, Planned

LEAST_DISK = 256 * MIB
"""Free bytes that a session needs for its run folder, and for temporary files. A daily run of the tiny models leaves
30 MiB of the one, and keeps 200 MiB of the other while it runs."""
KEPT = {".json", ".safetensors", ".bin", ".pt", ".model", ".txt", ".jinja", ".tiktoken", ".py", ".so", ".toml"}
"""Endings of the files that make a model or a kernel: weights, config, tokenizer, and code."""
SHARE = 0.7
"""Share of the host's free memory that a model may take for its check."""
DIGITS = 16
"""Hexadecimal digits of a digest that are kept."""
CHECK_SECONDS = 600.0
"""Deadline for checking one model folder."""


def refuse_device(device: str, inventory: Inventory) -> None:
    """Raise HarnessError if `--device` names a type that is not here, or one of several devices."""
    kind, colon, _ = device.partition(":")
    if colon:
        raise HarnessError(
            f"--device {device}: names one device, but should name a type, such as {kind or 'cuda'} (choose among "
            "several by CUDA_VISIBLE_DEVICES)"
        )
    if unmet := Device().unmet(inventory, device=device):
        raise HarnessError(f"--device {device}: {unmet} (devices here: {', '.join(inventory.devices)})")


def refuse_folders(run_dir: Path) -> None:
    """Raise HarnessError if the folder of runs, or that of temporary files, cannot be written or is almost full."""
    for named, option in ((run_dir, "--run-dir"), (None, "TMPDIR")):
        folder = named or Path(os.environ.get("TMPDIR", "/tmp"))  # noqa: S108 - for a message alone
        try:
            folder = named or Path(tempfile.gettempdir())
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                free = shutil.disk_usage(folder).free
        except OSError as error:
            what = "a run" if option == "--run-dir" else "temporary files"
            raise HarnessError(
                f"{folder}: cannot hold {what}: {error.strerror} (choose another folder with {option})"
            ) from error
        if free < LEAST_DISK:
            raise HarnessError(
                f"{folder}: has {free // MIB} MiB of disk left, but should have {LEAST_DISK // MIB} (free the disk, or "
                f"choose another folder with {option})"
            )


def refuse_models(
    models: Iterable[ModelSpec], catalogue: Catalogue, *, seconds: float, notify: Callable[[str], None]
) -> None:
    """Raise HarnessError for the first model folder that holds no whole model, of those that the catalogue lacks.

    Each is loaded in a worker, which has as many `seconds` as a case, at least CHECK_SECONDS. One that memory may not
    hold is not checked, and `notify` says so.
    """
    from harness.execution.checkpoint import check_folder
    from harness.execution.scratch import Scratch
    from harness.execution.setup import has_tokenizer
    from harness.execution.worker import ask

    own = {model: model.source for model in models if model not in catalogue.all_models}
    for model, source in own.items():
        if not isinstance(source, Folder):
            continue
        folder = Path(source.path)
        try:
            size, free = sum(path.stat().st_size for path in _files_of(folder)), available_memory()
        except OSError as error:
            raise HarnessError(
                f"--model {folder}: cannot be read: {error.filename}: {error.strerror} (name a folder that stays)"
            ) from error
        if size > free * SHARE:
            notify(f"--model {folder}: is not checked: it has {size // MIB} MiB, of memory {free // MIB} MiB are free")
            continue
        notify(f"checking model {folder}")
        scratch = Scratch()
        try:
            with _errors_into(scratch.path / "server.log"):
                ask(scratch.path / "check.log", check_folder, model, seconds=max(seconds, CHECK_SECONDS))
        except WorkerRaised as error:
            raise HarnessError(str(error)) from error
        except WorkerFailed as error:
            raise HarnessError(
                f"--model {folder}: could not be checked: {error} (free memory, or give more time by --case-timeout)"
            ) from error
        finally:
            scratch.remove()
        if not has_tokenizer(folder):
            notify(f"--model {folder}: holds no tokenizer: each byte of a prompt is a token")


@contextmanager
def _errors_into(path: Path) -> Iterator[None]:
    """Send into a file what processes that start here print as errors: the server of workers imports what warns."""
    kept = os.dup(2)
    try:
        with path.open("wb") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def models_of(planned: Iterable[Planned]) -> tuple[ModelSpec, ...]:
    """Return the models that cases can run on here, each once."""
    return tuple(dict.fromkeys(entry.case.recipe for entry in planned if entry.unmet is None))


def digests_of(models: Iterable[ModelSpec]) -> dict[str, str]:
    """Return what tells models and local kernels apart from others of their names.

    It stands under `model NAME` and `kernel NAME`: a digest of a folder's files, or the commit of a model of the hub.
    """
    digests = {}
    for model in models:
        if isinstance(model.source, Folder):
            digests[f"model {model.name}"] = _digest_or_why(Path(model.source.path))
        elif isinstance(model.source, Hub):
            commit = commit_of(model.source.repository, model.source.revision)
            digests[f"model {model.name}"] = commit[:DIGITS] or "unknown commit"
    for name, folder in sorted(local_kernels().items()):
        digest, place = _digest_or_why(folder), folder.resolve()
        # The repository's own is where it is; another's folder is part of what was tried.
        digests[f"{KERNEL}{name}"] = digest if place.is_relative_to(CHECKOUT) else f"{digest}{IN}{place}"
    return digests


def _digest_or_why(folder: Path) -> str:
    try:
        return digest_of(folder)
    except HarnessError as error:  # its cases will say so
        return str(error)


def digest_of(folder: Path) -> str:
    """Return the first digits of a SHA-256 over the names and contents of a model's or a kernel's files.

    Raises HarnessError if one cannot be read.
    """
    total = hashlib.sha256()
    try:
        for path in _files_of(folder):
            with path.open("rb") as file:
                name = str(path.relative_to(folder)).encode(errors="surrogateescape")
                total.update(name + b"\0" + hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise HarnessError(f"{folder}: a file could not be read: {error.strerror} (restore it)") from error
    return total.hexdigest()[:DIGITS]


def _files_of(folder: Path) -> list[Path]:
    """Return the files that make a model, or a kernel with its builds. Raises OSError if there is no such folder."""
    entries = [*folder.iterdir(), *(folder / "build").rglob("*")]
    return sorted(entry for entry in entries if entry.suffix in KEPT and entry.is_file())
