"""Decides whether a store accepts instances, from the failures that writers report and from what checks find.

Invariant: a store that has failed, or lost its mount or its space, refuses with the reason until a check that began
after the last failure has succeeded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from dicomd.lacks import Lack
from dicomd.store import space
from dicomd.store.directories import Directories
from dicomd.store.errors import OutOfSpace, StoreError, StoreUnavailable
from dicomd.store.space import Space
from dicomd.store.state import StoreState


class StoreCondition:
    """Whether a store that keeps ``reserve_free`` bytes free accepts instances. Thread-safe.

    It is the store's ``FailureSink``. When the store fails, it clears the cache of ``directories``, because nothing in
    it counts as durable any more.
    """

    def __init__(self, reserve_free: int, directories: Directories) -> None:
        self._reserve_free = reserve_free
        self._directories = directories
        self._changing = threading.Lock()
        self._state = StoreState(False, "Store is not started", avail_bytes=0, size_bytes=0, files_avail=0)
        self._suspended = True
        self._failures = 0
        self.doubtful = False
        """Whether a path has failed, perhaps because the store has, so that the next check must try to write."""
        self.quota_used_up = False
        """Whether a writer has used up a quota, which the free space doesn't show."""
        self._on_refusal: Callable[[str], None] = lambda _reason: None
        self._on_unreadable: Callable[[StoreError], None] = lambda _error: None

    def set_callbacks(self, on_refusal: Callable[[str], None], on_unreadable: Callable[[StoreError], None]) -> None:
        """See ``FileStore.set_callbacks``."""
        self._on_refusal = on_refusal
        self._on_unreadable = on_unreadable

    @property
    def state(self) -> StoreState:
        """The state as last seen by a check, or by a writer that has failed since."""
        return self._state

    @property
    def suspended(self) -> bool:
        """Whether nothing is accepted until something has been written and synced."""
        return self._suspended

    @property
    def failures(self) -> int:
        """How many failures there have been, to be handed to ``accept_unless_failed`` by a check that begins now."""
        return self._failures

    def require_accepting(self) -> None:
        """Raise ``OutOfSpace`` or ``StoreUnavailable`` while no instance is accepted."""
        state = self._state
        if not state.accepting:
            if state.lack is not None:
                raise OutOfSpace(state.lack, operation="open")
            raise StoreUnavailable(state.reason, operation="open")

    # -- what writers find (FailureSink) ---------------------------------------------------------------------------

    def instance_failed(self, error: StoreError) -> None:
        """Judge a writer's failure: one that concerns the whole store suspends it until a check succeeds.

        One that concerns a path only casts doubt on the store, and the next check resolves that by doing with a small
        file what a writer does. So if the disk is at fault, everything is refused within a second. A sender that meets
        the same bad path again and again costs at most one small write per second, and costs others nothing.
        """
        if error.path:
            self.doubtful = True
            return
        if error.lack is Lack.QUOTA:
            self.quota_used_up = True
            self.suspend(error)
        elif isinstance(error, StoreUnavailable):
            self._directories.clear()
            self.suspend(error)

    def file_unreadable(self, error: StoreError) -> None:
        """Judge the failure as a writer's, and report the file, which no other error does."""
        self.instance_failed(error)
        self._on_unreadable(error)

    def reserve_reached(self, seen: Space, lack: Lack) -> None:
        """Accept no more instances until a check finds more space."""
        with self._changing:
            if self._suspended:
                return
            self._failures += 1
            self._state = StoreState.from_space(seen, False, lack.value, lack=lack)
        self._on_refusal(lack.value)

    # -- what checks find ------------------------------------------------------------------------------------------

    def suspend(self, error: StoreError) -> None:
        """Refuse instances, for the reason in ``error``, until a check has written and synced."""
        with self._changing:
            self._failures += 1
            self._suspended = True
            self._state = replace(self._state, accepting=False, reason=error.message, lack=error.lack)
        self._on_refusal(error.message)

    def update_space(self, seen: Space) -> None:
        """Update the space in ``state``, also while nothing is accepted."""
        with self._changing:
            before = self._state
            self._state = StoreState.from_space(seen, before.accepting, before.reason, lack=before.lack)

    def accept_unless_failed(self, seen: Space, failures: int) -> None:
        """Accept instances if there is space for them, unless a writer has failed since there were ``failures``."""
        with self._changing:
            if failures != self._failures:
                return  # the next check decides
            refused = self._state.space_low and not self._suspended
            lack = space.shortage(seen, self._reserve_free, refused=refused)
            self._suspended = False
            self._state = StoreState.from_space(seen, lack is None, lack.value if lack else "", lack=lack)
