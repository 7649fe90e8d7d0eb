"""The open Associations and the counters of all workers, in shared memory, from which the daemon's status is read.

Being listed costs an Association two writes of a record, and an instance a few additions in memory. Workers are never
queried, so a busy or stuck worker is shown in its last state. The counters of a dead worker are kept.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from typing import Any, Final

from dicomd.ipc.seqlock import SeqlockRecord

ROWS: Final = 256
"""The most Associations of one worker that are listed; all of them are counted."""
_ROW: Final = 640  # bytes: three numbers, then a record
_NUMBERS: Final = 32
_BLOCK: Final = (ROWS + 1) * _ROW  # one worker's counters, then its rows; pages that are never touched cost nothing

COUNTED: Final = ("associations", "rejected", "instances", "failures", "bytes")
"""What is counted over all workers since the start of the daemon."""
MEASURED: Final = ("avail_bytes", "size_bytes", "files_avail")
"""The last measurements of the store's file system."""
_USED = len(COUNTED) + len(MEASURED)  # index of the number that follows them: how many rows have ever been in use


class AssociationTable:
    """The table of `slots` workers, created once by the supervisor and inherited by every fork."""

    def __init__(self, slots: int) -> None:
        fd = os.memfd_create("dicomd-associations", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, slots * _BLOCK)
            self._memory = memoryview(mmap.mmap(fd, slots * _BLOCK))
        finally:
            os.close(fd)

    def rows_of(self, slot: int) -> WorkerRows:
        """Return the part of the table that the worker in the slot writes."""
        return WorkerRows(self._memory[slot * _BLOCK : (slot + 1) * _BLOCK])

    def clear(self, slot: int) -> None:
        """Remove the Associations of a worker that has exited."""
        numbers = self._numbers(slot)
        for at in range(min(numbers[_USED], ROWS)):
            _record(self._memory, slot * _BLOCK, at).clear()

    def counted(self, slots: range) -> dict[str, int]:
        """Return the sums of what all workers have counted, by the names in `COUNTED`."""
        workers = [self._numbers(slot) for slot in slots]
        return {name: sum(numbers[at] for numbers in workers) for at, name in enumerate(COUNTED)}

    def measured(self, slot: int) -> dict[str, int]:
        """Return what the worker in the slot has measured, by the names in `MEASURED`."""
        numbers = self._numbers(slot)
        return {name: numbers[len(COUNTED) + at] for at, name in enumerate(MEASURED)}

    def open_associations(self, slot: int) -> list[dict[str, Any]]:
        """Describe each Association in the slot, the oldest first, with `age_seconds` in place of its start time."""
        now, found = time.monotonic(), []
        for at in range(min(self._numbers(slot)[_USED], ROWS)):
            known = _record(self._memory, slot * _BLOCK, at).read()
            if isinstance(known, dict):
                numbers = _row(self._memory, slot * _BLOCK, at)[:_NUMBERS].cast("Q")
                age = max(0.0, now - known.pop("began", now))
                found.append(known | {"age_seconds": int(age), "instances": numbers[0], "failures": numbers[1]})
                found[-1]["bytes"] = numbers[2]
        return sorted(found, key=lambda row: -row["age_seconds"])

    def _numbers(self, slot: int) -> memoryview:
        return self._memory[slot * _BLOCK : slot * _BLOCK + _ROW].cast("Q")


class WorkerRows:
    """The part of the table that belongs to one worker; used by all its threads."""

    def __init__(self, memory: memoryview) -> None:
        self._memory, self._numbers = memory, memory[:_ROW].cast("Q")
        self._free = list(range(ROWS))[::-1]
        self._counting = threading.Lock()

    def open(self, known: dict[str, Any]) -> AssociationEntry:
        """List an Association with what is `known` of it, if there is a free row."""
        with self._counting:
            at = self._free.pop() if self._free else -1
            if at >= 0:
                self._numbers[_USED] = max(self._numbers[_USED], at + 1)
        return AssociationEntry(self, at, known)

    def count(self, *, associations: int = 0, rejected: int = 0) -> None:
        """Add to the counters."""
        with self._counting:
            self._numbers[0] += associations
            self._numbers[1] += rejected

    def measure(self, avail_bytes: int, size_bytes: int, files_avail: int) -> None:
        """Record the measurements of the store's file system. Must always be called by the same thread."""
        for at, value in enumerate((avail_bytes, size_bytes, files_avail), len(COUNTED)):
            self._numbers[at] = value

    def count_instance(self, *, stored: bool, size: int) -> None:
        """Count an instance that has been answered, and its `size` in bytes."""
        numbers = self._numbers
        with self._counting:
            numbers[2 if stored else 3] += 1
            numbers[4] += size

    def row(self, at: int) -> tuple[memoryview, SeqlockRecord]:
        """Return the numbers of a row, and its record."""
        return _row(self._memory, 0, at)[:_NUMBERS].cast("Q"), _record(self._memory, 0, at)

    def give_back(self, at: int) -> None:
        """Return a row that is no longer used."""
        with self._counting:
            self._free.append(at)


class AssociationEntry:
    """One open Association, listed if there was a free row; used by its thread alone."""

    def __init__(self, rows: WorkerRows, at: int, known: dict[str, Any]) -> None:
        self._rows, self._at = rows, at
        self._instances = self._failures = self._bytes = 0
        if at >= 0:
            self._numbers, self._record = rows.row(at)
            self._numbers[0] = self._numbers[1] = self._numbers[2] = 0
            self._record.write(known)

    def answered(self, *, stored: bool, size: int) -> None:
        """Count one of its instances that has been answered, and its `size` in bytes."""
        self._rows.count_instance(stored=stored, size=size)
        if self._at >= 0:
            self._numbers[0 if stored else 1] += 1
            self._numbers[2] += size

    def close(self) -> None:
        """Remove the Association, which has ended. Idempotent."""
        at, self._at = self._at, -1
        if at >= 0:
            self._record.clear()
            self._rows.give_back(at)


def _row(memory: memoryview, block: int, at: int) -> memoryview:
    start = block + (at + 1) * _ROW
    return memory[start : start + _ROW]


def _record(memory: memoryview, block: int, at: int) -> SeqlockRecord:
    return SeqlockRecord(_row(memory, block, at)[_NUMBERS:])
