"""Workers in shared memory, without processes."""

from __future__ import annotations

from dicomd.ipc.shared_state import SharedState, SlotState
from dicomd.ipc.worker_slot import WorkerSlot


def worker_slot(shared_state: SharedState, slot: int = 0, generation: int = 1) -> WorkerSlot:
    """Give a slot to a worker that is ready."""
    shared_state.occupy(slot, generation)
    found = WorkerSlot(shared_state, slot, generation)
    found.show_state(SlotState.READY)
    return found
