"""How much each worker may still write before it checks the free space again, so that all of them keep one reserve.

Invariant: each number has one writer, the worker in its slot, whatever its generation, and is read by all workers. The
number of a dead worker is cleared with its slot. `store.room` explains in which order numbers are written and read.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

_NUMBER = 8  # bytes


class PendingWritesTable:
    """The numbers of `slots` workers, created once by the supervisor and inherited by every fork.

    `in_use` returns the slots that have ever been in use.
    """

    def __init__(self, slots: int, in_use: Callable[[], range]) -> None:
        self._sizes = memoryview(mmap.mmap(-1, slots * _NUMBER)).cast("Q")
        self._in_use = in_use

    def of(self, slot: int) -> PendingWritesOfWorker:
        """Return the part of the worker in the slot."""
        return PendingWritesOfWorker(self, self._sizes[slot : slot + 1])

    def clear(self, slot: int) -> None:
        """Clear the number of a worker that has exited: it writes no more, and all it wrote is in the file system."""
        self._sizes[slot] = 0

    def total(self) -> tuple[int, int]:
        """Return how many workers have writes pending (at least 1), and the sum of the pending bytes."""
        sizes = self._sizes[: self._in_use().stop].tolist()
        return max(1, len(sizes) - sizes.count(0)), sum(sizes)


class PendingWritesOfWorker:
    """The part of one worker, the `store.room.PendingWrites` of its store."""

    def __init__(self, everybody: PendingWritesTable, own: memoryview) -> None:
        self._own = own
        self.total = everybody.total

    def show(self, size: int) -> None:
        """Show to the other workers that this one may still write `size` bytes."""
        self._own[0] = size
