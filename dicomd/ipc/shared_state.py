"""The memory that all processes of the daemon share: which workers serve, how much, and whether Associations may begin.

Invariant: every number has one writer, the supervisor in the head and each worker in its own slot, so the death of a
process never leaves a count half updated. The one decision that concerns all slots, whether to admit an Association
near a limit, is made under a lock that the kernel releases if its holder dies. The supervisor never waits for it.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
import time
from contextlib import AbstractContextManager
from enum import IntEnum

from dicomd import unready
from dicomd.ipc.pending_writes import PendingWritesTable
from dicomd.ipc.shared_status import SharedStatus

SLOTS = 4096
"""The most workers of all generations that can run at once."""
ASSOCIATIONS_PER_WORKER = 4064
"""The capacity of one slot: more Associations than a process can have threads."""
_REASON_BYTES = 192
_HEAD_BYTES = 4096  # a page of its own
_BEAT_LASTS = 10.0  # seconds; the supervisor calls `beat` every second


class SlotState(IntEnum):
    """What the process in a slot is doing."""

    FREE = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


class _Head(ctypes.Structure):
    """Written by the supervisor, except `start_reported`."""

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
        ("closing", ctypes.c_uint32),  # connections that are still open after their Association has ended
        ("_reserved", ctypes.c_uint32 * 6),
        ("reason", ctypes.c_ubyte * _REASON_BYTES),
        ("peers", ctypes.c_uint64 * ASSOCIATIONS_PER_WORKER),
    )

    def show_reason(self, reason: str) -> None:
        """Write why the store is not accepting instances, truncated to `_REASON_BYTES`; an empty reason if it is."""
        text = reason.encode()[:_REASON_BYTES]
        self.reason_length = 0
        self.reason[: len(text)] = text
        self.reason_length = len(text)

    def read_reason(self) -> str:
        """Return what `show_reason` has written, possibly only the beginning if it is just being written."""
        return bytes(self.reason[: min(self.reason_length, _REASON_BYTES)]).decode(errors="replace")


class _Lock:
    """Excludes all other threads and processes. The kernel releases it if its holder dies. Not reentrant."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._threads = threading.Lock()  # lockf locks out other processes, but not other threads of this one

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        except BaseException:
            self._threads.release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()


class SharedState:
    """The shared memory, created once by the supervisor and inherited by every fork."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("dicomd", os.MFD_CLOEXEC)
        size = _HEAD_BYTES + SLOTS * ctypes.sizeof(SlotFields)
        os.ftruncate(self._fd, size)
        memory = mmap.mmap(self._fd, size)
        self._head = _Head.from_buffer(memory)
        self._slots = (SlotFields * SLOTS).from_buffer(memory, _HEAD_BYTES)
        self._in_use: list[SlotFields] = []
        self._lock = _Lock(self._fd)
        self.wakeups = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        """Counts the pending wake-ups, sent by workers that leave a connection to another one."""
        self.status = SharedStatus(SLOTS, self.locked)
        self.pending_writes = PendingWritesTable(SLOTS, self.slots)

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
        """Whether the daemon is stopping."""
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
        """Show that the supervisor is alive."""
        self._head.beat_ns = time.monotonic_ns()

    @property
    def supervised(self) -> bool:
        """Whether the supervisor has recently shown that it is alive."""
        return bool(time.monotonic_ns() - self._head.beat_ns < _BEAT_LASTS * 1e9)

    def occupy(self, slot: int, generation: int) -> None:
        """Give a slot to a process that is about to start. Raises IndexError if there is no slot of that number."""
        if not 0 <= slot < SLOTS:
            raise IndexError(f"only {SLOTS} workers can run at once")
        self.vacate(slot)
        fields = self._slots[slot]
        fields.generation = generation
        fields.state = SlotState.STARTING
        self._head.slots_used = max(self._head.slots_used, slot + 1)

    def vacate(self, slot: int) -> None:
        """Clear the slot of a process that has exited, with everything it had counted as open."""
        ctypes.memset(ctypes.byref(self._slots[slot]), 0, SlotFields.reason.offset)
        self.status.associations.clear(slot)
        self.pending_writes.clear(slot)

    # -- over all slots --------------------------------------------------------------------------------------------

    def slots(self) -> range:
        """Return the slots that have ever been in use."""
        return range(self._head.slots_used)

    def fields(self, slot: int) -> SlotFields:
        """Return the fields of one slot."""
        return self._slots[slot]

    def _used(self) -> list[SlotFields]:
        """The fields of these slots. Each Association asks for them, so they aren't looked up each time."""
        used = self._in_use
        if len(used) != self._head.slots_used:
            used = self._in_use = [self._slots[slot] for slot in self.slots()]
        return used

    def total_associations(self) -> int:
        """Return the number of Associations open in all workers."""
        return sum([fields.associations for fields in self._used()])

    def total_connections(self) -> int:
        """Return the number of connections open in all workers."""
        return sum([fields.connections for fields in self._used()])

    def count_associations(self, digest: int) -> tuple[int, int]:
        """Return the number of Associations open in all workers, and how many of them are this peer's."""
        total = of_peer = 0
        for fields in self._used():
            count = fields.associations
            if count:
                total += count
                of_peer += fields.peers[:count].count(digest)
        return total, of_peer

    def aborted(self, slot: int) -> int:
        """Return how many connections the process in the slot had to abort at its end."""
        count: int = self._slots[slot].aborted
        return count

    def describe(self) -> list[dict[str, object]]:
        """Describe each living worker, for /status."""
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
        """Return why no Association can be accepted at present, or an empty string if one can."""
        if self.stopping:
            return unready.STOPPING
        if self.maintenance:
            return unready.MAINTENANCE
        return self.store_reason()

    def store_reason(self) -> str:
        """Return why no ready worker can store instances, or an empty string if all can."""
        reason = "no worker is ready"
        for fields in self._used():
            if fields.state == SlotState.READY:
                if not fields.accepting:  # all workers share one store, so the others will meet the same failure
                    return fields.read_reason()
                reason = ""
        return reason

    def first_ready(self) -> int:
        """Return the lowest slot with a ready worker, -1 if there is none."""
        return next((slot for slot in self.slots() if self._slots[slot].state == SlotState.READY), -1)

    def busy(self, slot: int) -> int:
        """Return the number of connections of the worker in the slot, without those whose Association has ended."""
        fields = self._slots[slot]
        count: int = fields.connections - fields.closing
        return count

    def least_busy(self, generation: int) -> int:
        """Return the number of busy connections of the generation's least busy ready worker."""
        return min(
            (
                fields.connections - fields.closing
                for fields in self._used()
                if fields.state == SlotState.READY and fields.generation == generation
            ),
            default=0,
        )

    # -- decisions that only one process may make ------------------------------------------------------------------

    def locked(self) -> AbstractContextManager[None]:
        """Exclude all other holders, threads and processes, and wait for them. The supervisor must not call this."""
        return self._lock

    def first_to_report_start(self) -> bool:
        """Return True at the first call only. Call under `locked`: it sets the only field of the head workers write."""
        first = not self._head.start_reported
        self._head.start_reported = 1
        return first

    def all_ended(self) -> bool:
        """Whether every living worker has shown that it has ended; call under `locked`."""
        return all(fields.ended for fields in self._used() if fields.state)
