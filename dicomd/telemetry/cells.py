"""Counters and histograms as the floats they are kept in, so that what comes with each instance costs little.

The rule: cells are changed while holding `lock()`, several at once where several change. What `Counter.inc` and
`Histogram.observe` make sure of at each call is certain here, and was most of their time. The attributes of
prometheus_client that are used aren't documented; the versions are locked, and the tests of the metrics read what is
written.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from prometheus_client import Counter, Gauge, Histogram, values

_lock_of_one_process = threading.Lock()


class Cell(Protocol):
    """Where a value is kept: item 0."""

    def __getitem__(self, index: int) -> float: ...

    def __setitem__(self, index: int, value: float) -> None: ...


class _CellOfOneProcess:
    """Of a value that isn't kept in a file, as in tests: what others add to it by `inc` meanwhile may be lost."""

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
    """The cell of a counter or gauge that has its labels; nothing negative is added to a counter's."""
    return _cell(metric._value)  # noqa: SLF001 - see the module's rule


def adder(metric: Counter | Gauge) -> Callable[[float], None]:
    """Adds to a counter or gauge that has its labels, and takes the lock for it."""
    cell, held = cell_of(metric), lock()

    def add(amount: float) -> None:
        with held:
            cell[0] += amount

    return add


class HistogramCells:
    """A histogram without labels."""

    __slots__ = ("_bounds", "_buckets", "_sum")

    def __init__(self, histogram: Histogram) -> None:
        self._bounds = histogram._upper_bounds  # noqa: SLF001 - see the module's rule, as the next lines
        self._buckets = [_cell(bucket) for bucket in histogram._buckets]  # noqa: SLF001
        self._sum = _cell(histogram._sum)  # noqa: SLF001

    def add(self, amount: float) -> None:
        """Count an amount, while holding the lock."""
        self._sum[0] += amount
        self._buckets[bisect_left(self._bounds, amount)][0] += 1


def _cell(value: Any) -> Cell:
    cell: Cell = getattr(value, "cell", None) or _CellOfOneProcess(value)
    return cell
