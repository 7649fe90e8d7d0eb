"""Metrics of several processes: prometheus_client's multiprocess files, one set for each owner.

An owner is a worker's slot rather than a process, so that restarts don't add files, and a counter continues from the
value at which a dead worker left it. The gauges of a process are removed when it exits.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from dicomd.telemetry.cells import close_files, keep_in_files

__all__ = ["close_files", "collected", "forget", "merged", "use_files"]

_FILE_TIMEOUT = 2.0  # seconds for a process to fill a file that it has just created, even on a busy machine
_PAUSE = 0.005  # seconds


def use_files(folder: Path, owner: str) -> None:
    """Keep the metrics created from now on in `folder`, as `owner`'s. Those created before become unusable."""
    close_files()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    keep_in_files(owner)


def forget(folder: Path, owner: str) -> None:
    """Remove the gauges of a process that has exited."""
    mark_process_dead(owner, str(folder))  # type: ignore[no-untyped-call]


def collected(folder: Path) -> CollectorRegistry:
    """Return a registry that merges all files of `folder` at each collection."""
    registry = CollectorRegistry()
    registry.register(_Files(folder))
    return registry


def merged(folder: Path) -> list[Metric]:
    """Return the current metrics of all files. Raises OSError if they can't be read."""
    return list(_Files(folder).collect())


class _Files(MultiProcessCollector):
    def __init__(self, folder: Path) -> None:
        super().__init__(None, str(folder))  # type: ignore[no-untyped-call]
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Return all metrics. Tries again if a file was just being created, or was removed meanwhile."""
        deadline = time.monotonic() + _FILE_TIMEOUT
        while True:
            try:
                return self._merged()
            except (struct.error, RuntimeError, FileNotFoundError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE)

    def _merged(self) -> list[Metric]:
        """Merge all files except empty ones: their process has not filled them yet, or was killed before it did."""
        files = [str(path) for path in sorted(self._folder.glob("*.db")) if path.stat().st_size]
        return list(self.merge(files, accumulate=True))  # type: ignore[no-untyped-call]
