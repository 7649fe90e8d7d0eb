"""The memory that all processes of the daemon share: who serves, how much, and whether new Associations are wanted.

The rule it keeps: every number has one writer, the supervisor for the head and each worker for its own slot, so a
process that dies leaves nothing half written that counts. The one decision over all slots, whether another Association
is let in near a limit, is made under a lock that the kernel takes back from a dead holder. The supervisor never waits
for it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from hashlib import blake2b

from dicomd.ipc.pending_writes import PendingWrites
from dicomd.ipc.shared_status import Display, WorkerDisplay
from dicomd.net.admission import Full

SLOTS = 4096
"""Workers of all generations that can live at once."""
_SLOT_BYTES = 32 * 1024  # untouched pages cost nothing
_HEAD_BYTES = 4096
_REASON_AT, _REASON_BYTES = 64, 192
_PEERS_AT = _REASON_AT + _REASON_BYTES
ASSOCIATIONS_PER_WORKER = (_SLOT_BYTES - _PEERS_AT) // 8
"""What one slot has room for: 4064, more than a process has threads for."""

# Of the head, in units of 4 bytes, but for the beat: 8 bytes at the very start.
_MAINTENANCE, _STOPPING, _USED, _GENERATION, _START_TOLD = 2, 3, 4, 5, 6
# Of a slot, in units of 4 bytes.
_STATE, _SLOT_GENERATION, _CONNECTIONS, _ASSOCIATIONS, _ACCEPTING, _ABORTED, _REASON_LENGTH, _PID, _ENDED = range(9)
_LEFT = 9  # connections that are still open, though their Association is over

_BEAT_LASTS = 10.0  # seconds; the supervisor shows itself every second


class SlotState(IntEnum):
    """What the process in a slot does."""

    FREE = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


class Board:
    """The shared memory, made once by the supervisor and inherited by every fork."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("dicomd", os.MFD_CLOEXEC)
        size = _HEAD_BYTES + SLOTS * _SLOT_BYTES
        os.ftruncate(self._fd, size)
        self._bytes = memoryview(mmap.mmap(self._fd, size))
        self._words = self._bytes.cast("I")
        self._longs = self._bytes.cast("Q")
        self._lock = threading.Lock()  # the kernel's lock is one of processes, not of threads
        self.calls = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        """Counts the calls of workers that would leave a connection to another."""
        self.display = Display(SLOTS, self.locked)
        self.pending_writes = PendingWrites(SLOTS, self.slots)

    # -- the head: written by the supervisor -----------------------------------------------------------------------

    @property
    def maintenance(self) -> bool:
        """Whether an operator wants no new Associations."""
        return bool(self._words[_MAINTENANCE])

    @maintenance.setter
    def maintenance(self, wanted: bool) -> None:
        self._words[_MAINTENANCE] = wanted

    @property
    def stopping(self) -> bool:
        """Whether the daemon is about to end."""
        return bool(self._words[_STOPPING])

    @stopping.setter
    def stopping(self, wanted: bool) -> None:
        self._words[_STOPPING] = wanted

    @property
    def generation(self) -> int:
        """The generation that takes new Associations."""
        return self._words[_GENERATION]

    @generation.setter
    def generation(self, number: int) -> None:
        self._words[_GENERATION] = number

    def beat(self) -> None:
        """Show that the supervisor works."""
        self._longs[0] = time.monotonic_ns()

    @property
    def supervised(self) -> bool:
        """Whether the supervisor has shown itself lately."""
        return time.monotonic_ns() - self._longs[0] < _BEAT_LASTS * 1e9

    def occupy(self, slot: int, generation: int) -> None:
        """Give a slot to a process that is about to start. Raises IndexError where there is none of that number."""
        if not 0 <= slot < SLOTS:
            raise IndexError(f"only {SLOTS} workers can live at once")
        self.vacate(slot)
        base = _base(slot)
        self._words[base + _SLOT_GENERATION] = generation
        self._words[base + _STATE] = SlotState.STARTING
        self._words[_USED] = max(self._words[_USED], slot + 1)

    def vacate(self, slot: int) -> None:
        """Take back the slot of a process that is gone, with all it had counted."""
        start = _base(slot) * 4
        self._bytes[start : start + _REASON_AT] = bytes(_REASON_AT)
        self.display.roster.clear(slot)
        self.pending_writes.clear(slot)

    # -- over all slots --------------------------------------------------------------------------------------------

    def slots(self) -> range:
        """The slots that have ever been in use."""
        return range(self._words[_USED])

    def state(self, slot: int) -> SlotState:
        """What the process in the slot does."""
        return SlotState(self._words[_base(slot) + _STATE])

    def total_associations(self) -> int:
        """Associations open in all workers."""
        return sum(self._words[_base(slot) + _ASSOCIATIONS] for slot in self.slots())

    def total_connections(self) -> int:
        """Connections open in all workers."""
        return sum(self._words[_base(slot) + _CONNECTIONS] for slot in self.slots())

    def aborted(self, slot: int) -> int:
        """How many connections the process in the slot had to abort at its end."""
        return self._words[_base(slot) + _ABORTED]

    def describe(self) -> list[dict[str, object]]:
        """What each living worker does, for /status."""
        found: list[dict[str, object]] = []
        for slot in self.slots():
            base = _base(slot)
            if self._words[base + _STATE]:
                found.append(
                    {
                        "worker": str(slot),
                        "pid": self._words[base + _PID],
                        "state": self.state(slot).name.lower(),
                        "generation": self._words[base + _SLOT_GENERATION],
                        "connections": self._words[base + _CONNECTIONS],
                        "associations": self._words[base + _ASSOCIATIONS],
                    }
                )
        return found

    def unready(self) -> str:
        """Why no Association can be taken at present, empty when one can."""
        if self.stopping:
            return "dicomd stops"
        if self.maintenance:
            return "dicomd is in maintenance"
        return self.store_reason()

    def store_reason(self) -> str:
        """Why no ready worker can store, empty when all can."""
        reason = "no worker is ready"
        for slot in self.slots():
            base = _base(slot)
            if self._words[base + _STATE] == SlotState.READY:
                if not self._words[base + _ACCEPTING]:  # they have one store: what one of them met, all of them will
                    start, length = base * 4 + _REASON_AT, min(self._words[base + _REASON_LENGTH], _REASON_BYTES)
                    return bytes(self._bytes[start : start + length]).decode(errors="replace")
                reason = ""
        return reason

    # -- one slot: what `Seat` is made of --------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold still what all workers have counted. Waits for threads and processes; the supervisor must not."""
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def words_of(self, slot: int) -> memoryview:
        """The slot's numbers."""
        base = _base(slot)
        return self._words[base : base + _REASON_AT // 4]

    def reason_of(self, slot: int) -> memoryview:
        """The slot's text."""
        start = _base(slot) * 4 + _REASON_AT
        return self._bytes[start : start + _REASON_BYTES]

    def peers_of(self, slot: int) -> memoryview:
        """The slot's open Associations, each as the digest of its peer."""
        start = (_base(slot) * 4 + _PEERS_AT) // 8
        return self._longs[start : start + ASSOCIATIONS_PER_WORKER]

    def associations_of_peer(self, digest: int) -> int:
        """Associations of one peer in all workers."""
        found = 0
        for slot in self.slots():
            if count := self._words[_base(slot) + _ASSOCIATIONS]:
                found += self.peers_of(slot)[:count].tolist().count(digest)
        return found

    def first_ready(self) -> int:
        """The lowest slot with a ready worker, -1 without one."""
        return next((slot for slot in self.slots() if self._words[_base(slot) + _STATE] == SlotState.READY), -1)

    def first_to_tell_start(self) -> bool:
        """Whether nobody has asked this before: the one number of the head that workers write, under `locked`."""
        told, self._words[_START_TOLD] = self._words[_START_TOLD], 1
        return not told

    def all_ended(self) -> bool:
        """Whether every living worker has shown that it is through; under `locked`."""
        return all(self._words[_base(slot) + _ENDED] for slot in self.slots() if self._words[_base(slot) + _STATE])

    def busy(self, slot: int) -> int:
        """Connections of the worker in the slot, but for those that only wait for their end."""
        base = _base(slot)
        return self._words[base + _CONNECTIONS] - self._words[base + _LEFT]

    def least_busy(self, generation: int) -> int:
        """What the least busy one of the generation's ready workers has to do."""
        return min(
            (
                self.busy(slot)
                for slot in self.slots()
                if self._words[_base(slot) + _STATE] == SlotState.READY
                and self._words[_base(slot) + _SLOT_GENERATION] == generation
            ),
            default=0,
        )


class Seat:
    """One worker's slot: the `Places` of its Admission, counted against all workers, and what it shows of itself."""

    def __init__(self, board: Board, slot: int, generation: int) -> None:
        self._board, self.slot, self.generation = board, slot, generation
        self._words, self._reason, self._peers = board.words_of(slot), board.reason_of(slot), board.peers_of(slot)
        self._counting = threading.Lock()
        self.display = WorkerDisplay(board.display.roster.page(slot), board.display.refusals)
        self.pending_writes = board.pending_writes.of(slot)
        self.log_budget = board.display.log_budget

    # -- Places ----------------------------------------------------------------------------------------------------

    def connect(self, limit: int) -> bool:
        """Count a connection in. Without the lock: a burst may end a few above the limit, one a worker at most."""
        with self._counting:
            if self._board.total_connections() >= limit:
                return False
            self._words[_CONNECTIONS] += 1
            return True

    def disconnect(self, *, admitted: bool) -> None:
        """Count a connection out; `admitted`: it had an Association, which has left."""
        with self._counting:
            if admitted:
                self._words[_LEFT] -= 1
            self._words[_CONNECTIONS] -= 1

    def enter(self, peer: str, *, associations: int, per_peer: int) -> Full | None:
        """Count an Association in, or say which limit is reached.

        The lock is for the neighbourhood of a limit: whoever finds one passed, by others that are about to find the
        same, looks again as the only one, so that as many are let in as may be and no more.
        """
        digest, board = _digest(peer), self._board
        # Who is turned away most likely must not show itself first: another could take it for the one before a limit.
        near = board.total_associations() >= associations or board.associations_of_peer(digest) >= per_peer
        if not near and self._enter(digest, associations, per_peer) is None:
            return None
        with board.locked():
            return self._enter(digest, associations, per_peer)

    def leave(self, peer: str) -> None:
        """Count an Association out."""
        with self._counting:
            self._words[_LEFT] += 1
            self._remove(_digest(peer))

    def _enter(self, digest: int, associations: int, per_peer: int) -> Full | None:
        with self._counting:
            count = self._words[_ASSOCIATIONS]
            if count >= ASSOCIATIONS_PER_WORKER:
                return Full.ASSOCIATIONS
            self._peers[count] = digest
            self._words[_ASSOCIATIONS] = count + 1
        # Shown first, looked at second: of two that take the last place at once, at least one sees the other.
        if self._board.total_associations() > associations:
            full = Full.ASSOCIATIONS
        elif self._board.associations_of_peer(digest) > per_peer:
            full = Full.PEER
        else:
            return None
        with self._counting:
            self._remove(digest)
        return full

    def _remove(self, digest: int) -> None:
        last = self._words[_ASSOCIATIONS] - 1
        self._peers[self._peers[: last + 1].tolist().index(digest)] = self._peers[last]
        self._words[_ASSOCIATIONS] = last

    @property
    def open_associations(self) -> int:
        """How many Associations this worker has."""
        return self._words[_ASSOCIATIONS]

    # -- Colleagues ------------------------------------------------------------------------------------------------

    def gives_way(self) -> bool:
        """Whether another ready worker of this generation is less busy, and should take the next connection."""
        return self._board.busy(self.slot) > self._board.least_busy(self.generation)

    @property
    def calls(self) -> int:
        """A descriptor that is readable while a call waits for somebody to take it."""
        return self._board.calls

    def call(self) -> None:
        """Wake one of the others, to accept what this worker doesn't."""
        with suppress(BlockingIOError):  # 2^64 calls that nobody has taken
            os.eventfd_write(self._board.calls, 1)

    def take_call(self) -> bool:
        """Take a call; False where another was quicker."""
        try:
            os.eventfd_read(self._board.calls)
        except BlockingIOError:
            return False
        return True

    # -- what it shows, and sees -----------------------------------------------------------------------------------

    @property
    def maintenance(self) -> bool:
        """Whether an operator wants no new Associations."""
        return self._board.maintenance

    @property
    def stopping(self) -> bool:
        """Whether the daemon is about to end: known here before the order to stop comes."""
        return self._board.stopping

    @property
    def speaks_for_all(self) -> bool:
        """Whether it is this worker's part to log what all workers see."""
        return self._board.first_ready() == self.slot

    def tells_start(self) -> bool:
        """Whether it is this worker's part to tell that the daemon has started: once, in its first generation."""
        with self._board.locked():
            return self.generation == 1 and self._board.first_to_tell_start()

    def tells_stop(self) -> bool:
        """Show that this worker is through; whether it is the last one of a daemon that stops, and has to tell that."""
        with self._board.locked():
            self._words[_ENDED] = 1
            return self._board.stopping and self._board.all_ended()

    def show_state(self, state: SlotState) -> None:
        """Show what this process does."""
        self._words[_PID] = os.getpid()
        self._words[_STATE] = state

    def show_store(self, reason: str) -> None:
        """Show why the store takes nothing, or that it does: an empty reason."""
        text = reason.encode()[:_REASON_BYTES]
        self._words[_REASON_LENGTH] = 0
        self._reason[: len(text)] = text
        self._words[_REASON_LENGTH] = len(text)
        self._words[_ACCEPTING] = not reason

    def show_aborted(self, count: int) -> None:
        """Show how many connections had to be aborted."""
        self._words[_ABORTED] = count


def _base(slot: int) -> int:
    return (_HEAD_BYTES + slot * _SLOT_BYTES) // 4


def _digest(peer: str) -> int:
    return int.from_bytes(blake2b(peer.encode(), digest_size=8).digest(), "little")
