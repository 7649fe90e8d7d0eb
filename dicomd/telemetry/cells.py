"""Direct access to the floats behind counters and histograms, so that counting an instance costs little.

`Counter.inc` and `Histogram.observe` spend most of their time on checks whose outcome is certain here. Invariant: cells
are changed only while holding `LOCK`, once for all that change together.

Everything that dicomd uses of prometheus_client without its documentation mentioning it is in this module. Its version
is locked, and tests/unit/telemetry/test_cells.py says what a new version no longer has.
"""

from __future__ import annotations

import struct
import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram, values

LOCK: Final = threading.Lock()
"""The lock of all cells of this process."""
_VALUE_AND_TIME: Final = struct.calcsize("@dd")
_open: list[memoryview[float]] = []  # all cells of this process; they must be released before a file can be closed


def keep_in_files(owner: str) -> None:
    """Keep all values created from now on in `owner`'s files, in the folder that PROMETHEUS_MULTIPROC_DIR names."""
    values.ValueClass = _with_cell(values.MultiProcessValue(process_identifier=lambda: owner))  # type: ignore[no-untyped-call]


def close_files() -> None:
    """Close the files of this process; the metrics in them must not be used any more."""
    for cell in _open:
        cell.release()
    _open.clear()
    values.close_all_multiprocess_files()  # type: ignore[no-untyped-call]


def cell_of(metric: Counter | Gauge) -> memoryview[float]:
    """The cell of a counter or gauge that has its labels, as item 0; a counter's must never be decreased."""
    return _cell(metric._value)  # noqa: SLF001 - see the module's docstring


def adder(metric: Counter | Gauge) -> Callable[[float], None]:
    """Return a function that adds to a counter or gauge that has its labels, under the lock."""
    cell = cell_of(metric)

    def add(amount: float) -> None:
        with LOCK:
            cell[0] += amount

    return add


class HistogramCells:
    """A histogram without labels."""

    __slots__ = ("_bounds", "_buckets", "_sum")

    def __init__(self, histogram: Histogram) -> None:
        self._bounds = histogram._upper_bounds  # noqa: SLF001 - see the module's docstring, also for the next lines
        self._buckets = [_cell(bucket) for bucket in histogram._buckets]  # noqa: SLF001
        self._sum = _cell(histogram._sum)  # noqa: SLF001

    def add(self, amount: float) -> None:
        """Count an amount. The caller holds the lock."""
        self._sum[0] += amount
        self._buckets[bisect_left(self._bounds, amount)][0] += 1


def _cell(value: Any) -> memoryview[float]:
    cell: memoryview[float] = value.cell
    return cell


def _with_cell(value_class: type[Any]) -> type[Any]:
    """Return a subclass of an owner's value class that has a cell, and whose `inc` and `set` cost a third.

    prometheus_client checks at each call whether the process has forked, and looks up where the value is kept. Neither
    is needed here: an owner is not a process, and a value keeps its position in its file even when the file grows and
    is mapped again.
    """

    class ValueWithCell(value_class):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            at = self._file._positions[self._key]  # noqa: SLF001 - see the module's docstring, also for the next line
            self.cell = memoryview(self._file._m)[at : at + _VALUE_AND_TIME].cast("d")  # noqa: SLF001
            _open.append(self.cell)

        def inc(self, amount: float) -> None:
            with LOCK:
                self.cell[0] += amount

        def set(self, value: float, timestamp: float | None = None) -> None:
            with LOCK:
                self.cell[0], self.cell[1] = value, timestamp or 0.0

        def get(self) -> float:
            return self.cell[0]

    return ValueWithCell
