"""The folder for the output of workers that a command starts outside of a run."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.errors import DiskRefuses, WorkerFailed


class LogFolder:
    """A new folder among the temporary files. Use as a context manager; leaving it removes the folder.

    It stays where a worker failed, so that its output can be read: after a WorkerFailed, or if `kept` was set.
    """

    def __init__(self, prefix: str) -> None:
        """Make a folder whose name begins with `prefix`. Raises DiskRefuses."""
        self.kept = False
        try:
            self.path = Path(tempfile.mkdtemp(prefix=prefix))
        except OSError as error:
            where = error.filename or "temporary files"
            raise DiskRefuses(
                f"{where}: cannot hold logs: {error.strerror} (free the disk, or name another folder in TMPDIR)"
            ) from error

    def __enter__(self) -> Self:
        """Return the folder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the folder, unless a worker failed."""
        if not self.kept and not isinstance(error, WorkerFailed):
            shutil.rmtree(self.path, ignore_errors=True)
