"""What each worker may still write before it looks at the free space again: how all of them keep one reserve.

The rule it keeps: every number has one writer, the worker in its slot, old generations' included, and is read by all;
a dead worker's goes with its slot. `store.room` says in which order they are written and read, and why.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

_NUMBER = 8  # bytes


class PendingWrites:
    """The memory, made once by the supervisor for so many `slots`, and inherited by every fork.

    `in_use` tells the slots that have ever been in use.
    """

    def __init__(self, slots: int, in_use: Callable[[], range]) -> None:
        self._sizes = memoryview(mmap.mmap(-1, slots * _NUMBER)).cast("Q")
        self._in_use = in_use

    def of(self, slot: int) -> PendingWritesOfWorker:
        """The part of the worker in a slot, as `store.room` wants it."""
        return PendingWritesOfWorker(self, self._sizes[slot : slot + 1])

    def clear(self, slot: int) -> None:
        """The worker is gone: what it has written can be seen, and it writes nothing any more."""
        self._sizes[slot] = 0

    def total(self) -> tuple[int, int]:
        """Return how many workers have anything pending, and how many bytes that are."""
        sizes = self._sizes[: self._in_use().stop].tolist()
        return max(1, len(sizes) - sizes.count(0)), sum(sizes)


class PendingWritesOfWorker:
    """One worker's part."""

    def __init__(self, everybody: PendingWrites, own: memoryview) -> None:
        self._own = own
        self.total = everybody.total

    def show(self, size: int) -> None:
        """Show that this worker may write `size` bytes yet."""
        self._own[0] = size
