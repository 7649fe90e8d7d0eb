"""The open Associations and the counters of all workers, in shared memory, from which the daemon's status is read.

Being listed costs an Association two writes of a record, and an instance a few additions in memory. Workers are never
queried, so a busy or stuck worker is shown in its last state. The counters of a dead worker are kept.

Invariant: each number has one writer at a time, which adds to it under the lock of its process or in its only thread,
and is an aligned word, which is read and written whole. Numbers that are read together may be of different moments.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from typing import Any, Final

from dicomd.ipc.seqlock import SeqlockRecord

ROWS: Final = 256
"""The most Associations of one worker that are listed; all of them are counted."""

COUNTED: Final = ("associations", "rejected", "instances", "failures", "unfiled", "bytes")
"""What is counted over all workers since the start of the daemon."""
MEASURED: Final = ("avail_bytes", "size_bytes", "files_avail")
"""The last measurements of the store's file system."""


class _Known(SeqlockRecord):
    """What is known of an Association: six short texts and a time."""

    _fields_ = (("_data", ctypes.c_ubyte * 604),)


class _Row(ctypes.Structure):
    """One open Association."""

    _fields_ = (
        ("instances", ctypes.c_uint64),
        ("failures", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("known", _Known),
    )


class _Worker(ctypes.Structure):
    """What one worker has counted and measured, and its Associations. Pages that are never touched cost nothing."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in COUNTED),
        *((name, ctypes.c_uint64) for name in MEASURED),
        ("rows_used", ctypes.c_uint64),  # how many rows have ever been in use
        ("rows", _Row * ROWS),
    )


class AssociationTable:
    """The table of `slots` workers, created once by the supervisor and inherited by every fork."""

    def __init__(self, slots: int) -> None:
        size = slots * ctypes.sizeof(_Worker)
        # Unlike anonymous memory, this isn't counted against the system's limits (overcommit) until it is touched.
        fd = os.memfd_create("dicomd-associations", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            self._workers = (_Worker * slots).from_buffer(mmap.mmap(fd, size))
        finally:
            os.close(fd)

    def rows_of(self, slot: int) -> WorkerRows:
        """Return the part of the table that the worker in the slot writes."""
        return WorkerRows(self._workers[slot])

    def clear(self, slot: int) -> None:
        """Remove the Associations of a worker that has exited."""
        worker = self._workers[slot]
        for row in worker.rows[: worker.rows_used]:
            row.known.clear()

    def counted(self, slots: range) -> dict[str, int]:
        """Return the sums of what all workers have counted, by the names in `COUNTED`."""
        workers = [self._workers[slot] for slot in slots]
        return {name: sum(getattr(worker, name) for worker in workers) for name in COUNTED}

    def measured(self, slot: int) -> dict[str, int]:
        """Return what the worker in the slot has measured, by the names in `MEASURED`."""
        worker = self._workers[slot]
        return {name: getattr(worker, name) for name in MEASURED}

    def open_associations(self, slot: int) -> list[dict[str, Any]]:
        """Describe each Association in the slot, the oldest first, with `age_seconds` in place of its start time."""
        now = time.monotonic()
        found = []
        worker = self._workers[slot]
        for row in worker.rows[: worker.rows_used]:
            known = row.known.read()
            if isinstance(known, dict):
                age = max(0.0, now - known.pop("began", now))
                figures = {"instances": row.instances, "failures": row.failures, "bytes": row.bytes}
                found.append(known | {"age_seconds": int(age)} | figures)
        return sorted(found, key=lambda row: -row["age_seconds"])


class WorkerRows:
    """The part of the table that belongs to one worker; used by all its threads."""

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker
        self._free = list(range(ROWS))[::-1]
        self._counting = threading.Lock()

    def open(self, known: dict[str, Any]) -> AssociationEntry:
        """List an Association with what is `known` of it, if there is a free row."""
        at = -1
        with self._counting:
            if self._free:
                at = self._free.pop()
                self._worker.rows_used = max(self._worker.rows_used, at + 1)
        return AssociationEntry(self, at, known)

    def count(self, *, associations: int = 0, rejected: int = 0, unfiled: int = 0) -> None:
        """Add to the counters."""
        worker = self._worker
        with self._counting:
            worker.associations += associations
            if rejected or unfiled:
                worker.rejected += rejected
                worker.unfiled += unfiled

    def measure(self, avail_bytes: int, size_bytes: int, files_avail: int) -> None:
        """Record the measurements of the store's file system. Must always be called by the same thread."""
        self._worker.avail_bytes = avail_bytes
        self._worker.size_bytes = size_bytes
        self._worker.files_avail = files_avail

    def count_instance(self, *, stored: bool, size: int) -> None:
        """Count an instance that has been answered, and its `size` in bytes."""
        worker = self._worker
        with self._counting:
            if stored:
                worker.instances += 1
            else:
                worker.failures += 1
            worker.bytes += size

    def row(self, at: int) -> _Row:
        """Return a row."""
        row: _Row = self._worker.rows[at]
        return row

    def give_back(self, at: int) -> None:
        """Return a row that is no longer used."""
        with self._counting:
            self._free.append(at)


class AssociationEntry:
    """One open Association, listed if there was a free row; used by its thread alone."""

    def __init__(self, rows: WorkerRows, at: int, known: dict[str, Any]) -> None:
        self._rows = rows
        self._at = at
        if at >= 0:
            self._row = rows.row(at)
            self._row.instances = self._row.failures = self._row.bytes = 0
            self._row.known.write(known)

    def answered(self, *, stored: bool, size: int) -> None:
        """Count one of its instances that has been answered, and its `size` in bytes."""
        self._rows.count_instance(stored=stored, size=size)
        if self._at >= 0:
            row = self._row
            if stored:
                row.instances += 1
            else:
                row.failures += 1
            row.bytes += size

    def close(self) -> None:
        """Remove the Association, which has ended. Idempotent."""
        at, self._at = self._at, -1
        if at >= 0:
            self._row.known.clear()
            self._rows.give_back(at)
