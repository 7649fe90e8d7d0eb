"""The folder of everything that exists only while the daemon runs: control socket, metric files, lock.

Invariant: at most one daemon uses a folder. Its lock is of a kind that isn't inherited by a fork, so workers that are
still draining after the supervisor's death don't keep the next one from starting.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from dicomd.supervisor.errors import StartError, unusable

DEFAULT = Path("/run/dicomd")
"""The runtime folder of the shipped unit."""
METRICS = "metrics"
"""The folder of the metric files in it."""
_MODE = 0o750


class RuntimeDir:
    """The folder, created if it is missing, and locked. Raises `StartError`."""

    def __init__(self, configured: Path | None) -> None:
        """Use `configured` (dicomd.runtime_dir), else $RUNTIME_DIRECTORY, else a private folder for this run only."""
        path = configured or from_environment()
        self._private = path is None
        try:
            self.path = Path(tempfile.mkdtemp(prefix="dicomd-")) if path is None else path.absolute()
            self.path.mkdir(_MODE, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._take_lock()
            self.metrics = self.path / METRICS
            self.metrics.mkdir(_MODE, exist_ok=True)
            for stale in self.metrics.glob("*.db"):
                stale.unlink(missing_ok=True)
        except OSError as error:
            raise unusable("dicomd.runtime_dir", path or tempfile.gettempdir(), error) from error

    def close(self) -> None:
        """Close this process's descriptor of the lock."""
        os.close(self._lock)

    def remove(self) -> None:
        """Remove the metric files, or the whole folder if it is a private one."""
        with contextlib.suppress(OSError):
            if self._private:
                shutil.rmtree(self.path)
            else:
                for left in self.metrics.glob("*.db"):
                    left.unlink(missing_ok=True)
                self.metrics.rmdir()

    def _take_lock(self) -> None:
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            os.close(self._lock)
            raise StartError(
                f"dicomd.runtime_dir: another dicomd runs with {self.path} (a folder of its own)"
            ) from error


def from_environment() -> Path | None:
    """Return the first folder of $RUNTIME_DIRECTORY (systemd.exec(5)), or None if it isn't set."""
    first = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(first) if first else None
