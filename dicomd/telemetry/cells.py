"""Direct access to the floats behind counters and histograms, so that counting an instance costs little.

Invariant: cells are changed only while holding `lock()`, once for all that change together. `Counter.inc` and
`Histogram.observe` spend most of their time on checks whose outcome is certain here. The prometheus_client attributes
used here aren't documented; its version is locked, and the tests of the metrics read what is written.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from prometheus_client import Counter, Gauge, Histogram, values

_lock_of_one_process = threading.Lock()


class Cell(Protocol):
    """Holds a value, as item 0."""

    def __getitem__(self, index: int) -> float: ...

    def __setitem__(self, index: int, value: float) -> None: ...


class _CellOfOneProcess:
    """A value that isn't kept in a file, as in tests; an `inc` by others at the same time may be lost."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getitem__(self, index: int) -> float:
        return float(self._value.get())

    def __setitem__(self, index: int, value: float) -> None:
        self._value.set(value)


def lock() -> AbstractContextManager[Any]:
    """The lock of all cells of this process."""
    found: AbstractContextManager[Any] = getattr(values.ValueClass, "lock", _lock_of_one_process)
    return found


def cell_of(metric: Counter | Gauge) -> Cell:
    """The cell of a counter or gauge that has its labels; a counter's must never be decreased."""
    return _cell(metric._value)  # noqa: SLF001 - see the module's docstring


def adder(metric: Counter | Gauge) -> Callable[[float], None]:
    """Return a function that adds to a counter or gauge that has its labels, under the lock."""
    cell, held = cell_of(metric), lock()

    def add(amount: float) -> None:
        with held:
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


def _cell(value: Any) -> Cell:
    cell: Cell = getattr(value, "cell", None) or _CellOfOneProcess(value)
    return cell
