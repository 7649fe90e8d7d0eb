"""Metrics of several processes: prometheus_client's multiprocess files, one set for each owner.

The rule it keeps: an owner is a worker's slot, not a process, so that files don't grow in number with restarts and a
counter goes on where the dead worker left it. What a gauge said of a process goes with the process.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_PATIENCE = 2.0  # seconds for a process to fill a file that it has just made; a busy machine may keep it waiting
_PAUSE = 0.005  # seconds


def use_files(folder: Path, owner: str) -> None:
    """Keep the metrics that are made from now on in `folder`, as `owner`'s; those made before are given up."""
    close_files()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: owner)  # type: ignore[no-untyped-call]


def close_files() -> None:
    """Give up the metrics of this process; none may be touched any more."""
    values.close_all_multiprocess_files()  # type: ignore[no-untyped-call]


def forget(folder: Path, owner: str) -> None:
    """Remove the gauges of a process that is gone."""
    mark_process_dead(owner, str(folder))  # type: ignore[no-untyped-call]


def collected(folder: Path) -> CollectorRegistry:
    """A registry that merges all files of `folder` at each collection."""
    registry = CollectorRegistry()
    registry.register(_Files(folder))
    return registry


def merged(folder: Path) -> list[Metric]:
    """All metrics of all files now. Raises OSError where they can't be read."""
    return list(_Files(folder).collect())


class _Files(MultiProcessCollector):
    def __init__(self, folder: Path) -> None:
        super().__init__(None, str(folder))  # type: ignore[no-untyped-call]
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """All metrics; once more where a file was only just being made, or went away."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._merged()
            except (struct.error, RuntimeError, FileNotFoundError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE)

    def _merged(self) -> list[Metric]:
        """Without empty files: what makes one has nothing in it yet, or was killed before it had."""
        files = [str(path) for path in sorted(self._folder.glob("*.db")) if path.stat().st_size]
        return list(self.merge(files, accumulate=True))  # type: ignore[no-untyped-call]
