"""One worker's part of the shared state: what it counts there together with the others, what it shows, what it sees."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b

from dicomd.ipc.shared_state import ASSOCIATIONS_PER_WORKER, SharedState, SlotState
from dicomd.ipc.shared_status import WorkerStatus
from dicomd.net.admission_counter import LimitReached


class WorkerSlot:
    """The slot of one worker: the `AdmissionCounter` of its `Admission` and the `SiblingWorkers` of its listeners.

    Used by all threads of its process.
    """

    def __init__(self, shared_state: SharedState, slot: int, generation: int) -> None:
        self._shared_state = shared_state
        self.slot = slot
        self.generation = generation
        self._fields = shared_state.fields(slot)
        self._counting = threading.Lock()
        self.status = WorkerStatus(shared_state.status.associations.rows_of(slot), shared_state.status.refusals)
        self.pending_writes = shared_state.pending_writes.of(slot)
        self.log_budget = shared_state.status.log_budget

    # -- AdmissionCounter ------------------------------------------------------------------------------------------

    def connect(self, limit: int) -> bool:
        """Count a connection in. No lock is held, so a burst may exceed the limit, by one per worker at most."""
        with self._counting:
            if self._shared_state.total_connections() >= limit:
                return False
            self._fields.connections += 1
            return True

    def disconnect(self, *, admitted: bool) -> None:
        """Count a connection out. `admitted` means that it had an Association, for which `leave` was called."""
        with self._counting:
            if admitted:
                self._fields.closing -= 1
            self._fields.connections -= 1

    def enter(self, peer: str, *, associations: int, per_peer: int) -> LimitReached | None:
        """Count an Association in and return None, or return the limit that is reached.

        Near a limit, check before incrementing: a transient increment could make another worker reject wrongly. If a
        limit was exceeded because several workers incremented at once, repeat the check while holding the lock, so that
        exactly as many Associations are admitted as the limit allows.
        """
        digest = _digest(peer)
        shared_state = self._shared_state
        total, of_peer = shared_state.count_associations(digest)
        near = total >= associations or of_peer >= per_peer
        if not near and self._enter(digest, associations, per_peer) is None:
            return None
        with shared_state.locked():
            return self._enter(digest, associations, per_peer)

    def leave(self, peer: str) -> None:
        """Count an Association out."""
        with self._counting:
            self._fields.closing += 1
            self._remove(_digest(peer))

    def _enter(self, digest: int, associations: int, per_peer: int) -> LimitReached | None:
        fields = self._fields
        with self._counting:
            count = fields.associations
            if count >= ASSOCIATIONS_PER_WORKER:
                return LimitReached.ASSOCIATIONS
            fields.peers[count] = digest
            fields.associations = count + 1
        # Increment first, then check: if two workers take the last place at once, at least one of them sees the other.
        total, of_peer = self._shared_state.count_associations(digest)
        if total > associations:
            reached = LimitReached.ASSOCIATIONS
        elif of_peer > per_peer:
            reached = LimitReached.PEER
        else:
            return None
        with self._counting:
            self._remove(digest)
        return reached

    def _remove(self, digest: int) -> None:
        fields = self._fields
        last = fields.associations - 1
        fields.peers[fields.peers[: last + 1].index(digest)] = fields.peers[last]
        fields.associations = last

    # -- SiblingWorkers --------------------------------------------------------------------------------------------

    def should_yield(self) -> bool:
        """Whether another ready worker of this generation is less busy, and should accept the next connection."""
        return self._shared_state.busy(self.slot) > self._shared_state.least_busy(self.generation)

    @property
    def wakeups(self) -> int:
        """A descriptor that is readable while a wake-up is pending."""
        return self._shared_state.wakeups

    def wake_sibling(self) -> None:
        """Wake one of the other workers to accept the connection that this one leaves to it."""
        with suppress(BlockingIOError):  # 2^64 wake-ups are pending
            os.eventfd_write(self._shared_state.wakeups, 1)

    def take_wakeup(self) -> bool:
        """Take a wake-up; return False if another worker was quicker."""
        try:
            os.eventfd_read(self._shared_state.wakeups)
        except BlockingIOError:
            return False
        return True

    # -- what it shows, and sees -----------------------------------------------------------------------------------

    @property
    def maintenance(self) -> bool:
        """Whether an operator wants no new Associations."""
        return self._shared_state.maintenance

    @property
    def stopping(self) -> bool:
        """Whether the daemon is stopping, which is visible here before the order to stop arrives."""
        return self._shared_state.stopping

    @property
    def speaks_for_all(self) -> bool:
        """Whether this worker has to log what all workers see."""
        return self._shared_state.first_ready() == self.slot

    def tells_start(self) -> bool:
        """Whether this worker has to report that the daemon has started: true once, in the first generation."""
        with self._shared_state.locked():
            return self.generation == 1 and self._shared_state.first_to_report_start()

    def tells_stop(self) -> bool:
        """Show that this worker has ended, and return whether it has to report that the daemon has stopped.

        That is the part of the last worker of a stopping daemon.
        """
        with self._shared_state.locked():
            self._fields.ended = 1
            return self._shared_state.stopping and self._shared_state.all_ended()

    def show_state(self, state: SlotState) -> None:
        """Show what this process is doing."""
        self._fields.pid = os.getpid()
        self._fields.state = state

    def show_store(self, reason: str) -> None:
        """Show why the store is not accepting instances; an empty reason means that it is."""
        self._fields.show_reason(reason)
        self._fields.accepting = not reason

    def show_aborted(self, count: int) -> None:
        """Show how many connections had to be aborted."""
        self._fields.aborted = count


@lru_cache(1024)
def _digest(peer: str) -> int:
    return int.from_bytes(blake2b(peer.encode(), digest_size=8).digest(), "little")
