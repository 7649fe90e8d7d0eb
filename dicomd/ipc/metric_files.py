"""Metrics of several processes: prometheus_client's multiprocess files, one set for each owner.

The rule it keeps: an owner is a worker's slot, not a process, so that files don't grow in number with restarts and a
counter goes on where the dead worker left it. What a gauge said of a process goes with the process.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_FILE_TIMEOUT = 2.0  # seconds for a process to fill a file that it has just made; a busy machine may keep it waiting
_PAUSE = 0.005  # seconds
_VALUE_AND_TIME: Final = struct.calcsize("@dd")
_cells: list[memoryview[float]] = []  # of the values of this process: a file can be closed only without them


def use_files(folder: Path, owner: str) -> None:
    """Keep the metrics that are made from now on in `folder`, as `owner`'s; those made before are given up."""
    close_files()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = _quick(values.MultiProcessValue(process_identifier=lambda: owner))  # type: ignore[no-untyped-call]


def _quick(value_class: type[Any]) -> type[Any]:
    """An owner's value class whose `inc` and `set` cost a third: ten of them come with each instance.

    prometheus_client's asks each time whether there was a fork and where the value is kept. Here an owner is no
    process, and a value keeps its place in a file, which grows by being mapped once more.
    """

    class QuickValue(value_class):  # type: ignore[misc]
        lock = threading.Lock()
        """To be held where `cell` is changed."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            # Not documented; the versions are locked, and tests/unit/ipc/test_metric_files.py reads the files.
            at = self._file._positions[self._key]  # noqa: SLF001
            self.cell = memoryview(self._file._m)[at : at + _VALUE_AND_TIME].cast("d")  # noqa: SLF001
            _cells.append(self.cell)

        def inc(self, amount: float) -> None:
            with self.lock:
                self.cell[0] += amount

        def set(self, value: float, timestamp: float | None = None) -> None:
            with self.lock:
                self.cell[0], self.cell[1] = value, timestamp or 0.0

        def get(self) -> float:
            return self.cell[0]

    return QuickValue


def close_files() -> None:
    """Give up the metrics of this process; none may be touched any more."""
    for cell in _cells:
        cell.release()
    _cells.clear()
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
        deadline = time.monotonic() + _FILE_TIMEOUT
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
