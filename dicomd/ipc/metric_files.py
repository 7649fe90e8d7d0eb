"""Metrics of several processes: prometheus_client's multiprocess files, one set for each owner.

An owner is a worker's slot rather than a process, so that restarts don't add files, and a counter continues from the
value at which a dead worker left it. The gauges of a process are removed when it exits.
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

_FILE_TIMEOUT = 2.0  # seconds for a process to fill a file that it has just created, even on a busy machine
_PAUSE = 0.005  # seconds
_VALUE_AND_TIME: Final = struct.calcsize("@dd")
_cells: list[memoryview[float]] = []  # the values of this process; they must be released before a file can be closed


def use_files(folder: Path, owner: str) -> None:
    """Keep the metrics created from now on in `folder`, as `owner`'s. Those created before become unusable."""
    close_files()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = _quick(values.MultiProcessValue(process_identifier=lambda: owner))  # type: ignore[no-untyped-call]


def _quick(value_class: type[Any]) -> type[Any]:
    """Return a subclass of an owner's value class whose `inc` and `set` cost a third: each instance needs ten calls.

    prometheus_client checks at each call whether the process has forked, and looks up where the value is kept. Neither
    is needed here: an owner is not a process, and a value keeps its position in its file even when the file grows and
    is mapped again.
    """

    class QuickValue(value_class):  # type: ignore[misc]
        lock = threading.Lock()
        """Must be held while `cell` is changed."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            # Undocumented attributes: versions are pinned, and tests/unit/ipc/test_metric_files.py checks the files.
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
    """Close the metric files of this process; its metrics must not be used any more."""
    for cell in _cells:
        cell.release()
    _cells.clear()
    values.close_all_multiprocess_files()  # type: ignore[no-untyped-call]


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
