"""The memory that all processes of the daemon share: who serves, how much, and whether new Associations are accepted.

Invariant: every number has one writer, the supervisor for the head and each worker for its own slot, so a process that
dies leaves nothing half written that counts. The one decision over all slots, whether another Association is admitted
near a limit, is made under a lock that the kernel takes back from a dead holder. The supervisor never waits for it.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from dicomd.ipc.pending_writes import PendingWrites
from dicomd.ipc.shared_status import SharedStatus

SLOTS = 4096
"""Workers of all generations that can live at once."""
ASSOCIATIONS_PER_WORKER = 4064
"""What one slot has room for: more than a process has threads for."""
_REASON_BYTES = 192
_HEAD_BYTES = 4096  # a page of its own
_BEAT_LASTS = 10.0  # seconds; the supervisor shows itself every second


class SlotState(IntEnum):
    """What the process in a slot does."""

    FREE = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


class _Head(ctypes.Structure):
    """Written by the supervisor, but for `start_reported`."""

    _fields_ = (
        ("beat_ns", ctypes.c_uint64),
        ("maintenance", ctypes.c_uint32),
        ("stopping", ctypes.c_uint32),
        ("slots_used", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("start_reported", ctypes.c_uint32),
    )


class SlotFields(ctypes.Structure):
    """One worker's 32 KiB, of which untouched pages cost nothing. `peers` are digests, one per open Association."""

    _fields_ = (
        ("state", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("connections", ctypes.c_uint32),
        ("associations", ctypes.c_uint32),
        ("accepting", ctypes.c_uint32),
        ("aborted", ctypes.c_uint32),
        ("reason_length", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("ended", ctypes.c_uint32),
        ("closing", ctypes.c_uint32),  # connections that are still open, though their Association is over
        ("_reserved", ctypes.c_uint32 * 6),
        ("reason", ctypes.c_ubyte * _REASON_BYTES),
        ("peers", ctypes.c_uint64 * ASSOCIATIONS_PER_WORKER),
    )

    def show_reason(self, reason: str) -> None:
        """Say why the store accepts nothing, cut to its room; empty when it accepts instances."""
        text = reason.encode()[:_REASON_BYTES]
        self.reason_length = 0
        self.reason[: len(text)] = text
        self.reason_length = len(text)

    def read_reason(self) -> str:
        """Return what `show_reason` has written, as far as it is complete."""
        return bytes(self.reason[: min(self.reason_length, _REASON_BYTES)]).decode(errors="replace")


class SharedState:
    """The shared memory, made once by the supervisor and inherited by every fork."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("dicomd", os.MFD_CLOEXEC)
        size = _HEAD_BYTES + SLOTS * ctypes.sizeof(SlotFields)
        os.ftruncate(self._fd, size)
        memory = mmap.mmap(self._fd, size)
        self._head = _Head.from_buffer(memory)
        self._slots = (SlotFields * SLOTS).from_buffer(memory, _HEAD_BYTES)
        self._lock = threading.Lock()  # the kernel's lock is one of processes, not of threads
        self.wakeups = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        """Counts the calls of workers that leave a connection to another."""
        self.status = SharedStatus(SLOTS, self.locked)
        self.pending_writes = PendingWrites(SLOTS, self.slots)

    # -- the head: written by the supervisor -----------------------------------------------------------------------

    @property
    def maintenance(self) -> bool:
        """Whether an operator wants no new Associations."""
        return bool(self._head.maintenance)

    @maintenance.setter
    def maintenance(self, wanted: bool) -> None:
        self._head.maintenance = wanted

    @property
    def stopping(self) -> bool:
        """Whether the daemon is about to end."""
        return bool(self._head.stopping)

    @stopping.setter
    def stopping(self, wanted: bool) -> None:
        self._head.stopping = wanted

    @property
    def generation(self) -> int:
        """The generation that accepts new Associations."""
        number: int = self._head.generation
        return number

    @generation.setter
    def generation(self, number: int) -> None:
        self._head.generation = number

    def beat(self) -> None:
        """Show that the supervisor works."""
        self._head.beat_ns = time.monotonic_ns()

    @property
    def supervised(self) -> bool:
        """Whether the supervisor has shown itself lately."""
        return bool(time.monotonic_ns() - self._head.beat_ns < _BEAT_LASTS * 1e9)

    def occupy(self, slot: int, generation: int) -> None:
        """Give a slot to a process that is about to start. Raises IndexError if there is none of that number."""
        if not 0 <= slot < SLOTS:
            raise IndexError(f"only {SLOTS} workers can live at once")
        self.vacate(slot)
        fields = self._slots[slot]
        fields.generation = generation
        fields.state = SlotState.STARTING
        self._head.slots_used = max(self._head.slots_used, slot + 1)

    def vacate(self, slot: int) -> None:
        """Take back the slot of a process that is gone, with all it had counted."""
        ctypes.memset(ctypes.byref(self._slots[slot]), 0, SlotFields.reason.offset)
        self.status.associations.clear(slot)
        self.pending_writes.clear(slot)

    # -- over all slots --------------------------------------------------------------------------------------------

    def slots(self) -> range:
        """The slots that have ever been in use."""
        return range(self._head.slots_used)

    def fields(self, slot: int) -> SlotFields:
        """The numbers and texts of one slot."""
        return self._slots[slot]

    def _used(self) -> Iterator[SlotFields]:
        return (self._slots[slot] for slot in self.slots())

    def state(self, slot: int) -> SlotState:
        """What the process in the slot does."""
        return SlotState(self._slots[slot].state)

    def total_associations(self) -> int:
        """Associations open in all workers."""
        return sum(fields.associations for fields in self._used())

    def total_connections(self) -> int:
        """Connections open in all workers."""
        return sum(fields.connections for fields in self._used())

    def associations_of_peer(self, digest: int) -> int:
        """Associations of one peer in all workers."""
        return sum(fields.peers[: fields.associations].count(digest) for fields in self._used() if fields.associations)

    def aborted(self, slot: int) -> int:
        """How many connections the process in the slot had to abort at its end."""
        count: int = self._slots[slot].aborted
        return count

    def describe(self) -> list[dict[str, object]]:
        """What each living worker does, for /status."""
        return [
            {
                "worker": str(slot),
                "pid": fields.pid,
                "state": SlotState(fields.state).name.lower(),
                "generation": fields.generation,
                "connections": fields.connections,
                "associations": fields.associations,
            }
            for slot, fields in enumerate(self._used())
            if fields.state
        ]

    def unready(self) -> str:
        """Why no Association can be accepted at present, empty when one can."""
        if self.stopping:
            return "dicomd stops"
        if self.maintenance:
            return "dicomd is in maintenance"
        return self.store_reason()

    def store_reason(self) -> str:
        """Why no ready worker can store, empty when all can."""
        reason = "no worker is ready"
        for fields in self._used():
            if fields.state == SlotState.READY:
                if not fields.accepting:  # they have one store: what one of them meets, all of them will
                    return fields.read_reason()
                reason = ""
        return reason

    def first_ready(self) -> int:
        """The lowest slot with a ready worker, -1 without one."""
        return next((slot for slot in self.slots() if self._slots[slot].state == SlotState.READY), -1)

    def busy(self, slot: int) -> int:
        """Connections of the worker in the slot, but for those that only wait for their end."""
        fields = self._slots[slot]
        count: int = fields.connections - fields.closing
        return count

    def least_busy(self, generation: int) -> int:
        """What the least busy one of the generation's ready workers has to do."""
        return min(
            (
                fields.connections - fields.closing
                for fields in self._used()
                if fields.state == SlotState.READY and fields.generation == generation
            ),
            default=0,
        )

    # -- decisions that only one process may make ------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold still what all workers have counted. Waits for threads and processes; the supervisor must not."""
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def first_to_report_start(self) -> bool:
        """Whether nobody has asked this before: the one number of the head that workers write, under `locked`."""
        reported, self._head.start_reported = self._head.start_reported, 1
        return not reported

    def all_ended(self) -> bool:
        """Whether every living worker has shown that it is through; under `locked`."""
        return all(fields.ended for fields in self._used() if fields.state)
